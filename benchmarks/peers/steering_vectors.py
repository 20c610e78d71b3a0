"""steering-vectors: hooks around transformers; extraction reads the last token of every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peers.common import BATCH_SIZES, STRENGTH, Job, Report, run
from steering_vectors import SteeringVector, train_steering_vector


def extraction(job: Job, report: Report) -> None:
    """Default: one pair at a time. Best: sorted, in batches. Helped: the same on the decoder alone, no LM head."""
    model, tokenizer = job.load()

    def default() -> None:
        train_steering_vector(model, tokenizer, [pair.texts for pair in job.pairs])

    def batched(of: Any, size: int, **options: Any) -> Callable[[], object]:
        texts = [pair.texts for pair in job.pairs_by_length]
        return lambda: train_steering_vector(of, tokenizer, texts, batch_size=size, **options)

    report.extraction(
        job.bare_pass(model, tokenizer.pad_token_id),
        ("batch_size=1 (its default)", default),
        {f"batch_size={size}, sorted": batched(model, size) for size in BATCH_SIZES},
        {
            f"batch_size={size}, sorted, given a model without its LM head": batched(
                model.get_decoder(), size, layer_config={"decoder_block": "layers.{num}"}
            )
            for size in BATCH_SIZES
        },
    )


def decoding(job: Job, report: Report) -> None:
    """`vector.apply` around transformers' generate."""
    model, tokenizer = job.load()
    n_layers, width = model.config.num_hidden_layers, model.config.hidden_size
    delta = torch.randn(width, generator=torch.Generator().manual_seed(0)).to(job.device)
    vectors = {
        "one layer": SteeringVector({n_layers // 2: delta}),
        "all layers": SteeringVector(dict.fromkeys(range(n_layers), delta)),
    }

    for size in job.batches:
        batch = job.prompt_batch(tokenizer, size)

        def plain(batch=batch) -> None:
            job.generate(model, tokenizer, batch)

        def steered(vector: SteeringVector, plain=plain) -> None:
            with vector.apply(model, multiplier=STRENGTH):
                plain()

        steered_by = {name: lambda v=v, steered=steered: steered(v) for name, v in vectors.items()}
        report.decoding(size, {"unsteered": plain} | steered_by)


if __name__ == "__main__":
    run(("steering-vectors",), {"extraction": extraction, "decoding": decoding})
