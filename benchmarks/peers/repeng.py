"""repeng: layers replaced by wrappers; extraction reads the last token through `output_hidden_states`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peers.common import BATCH_SIZES, STRENGTH, Job, Pair, Report, run
from repeng import ControlModel, ControlVector, DatasetEntry
from torch import nn


class WithoutHead(nn.Module):
    """The decoder in the shape that repeng asks for: its layers are looked for at `.model.layers`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.get_decoder()
        self.config = model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def forward(self, **inputs: Any) -> Any:
        """The decoder's own output."""
        return self.model(use_cache=False, **inputs)


def entries(pairs: list[Pair]) -> list[DatasetEntry]:
    """The pairs as repeng's data set."""
    return [DatasetEntry(*pair.texts) for pair in pairs]


def extraction(job: Job, report: Report) -> None:
    """Default: batches of 32 texts. Best: sorted, other sizes. Helped: the same without the LM head."""
    model, tokenizer = job.load()
    in_order, by_length = entries(list(job.pairs)), entries(job.pairs_by_length)

    def default() -> None:
        ControlVector.train(model, tokenizer, in_order)

    def batched(of: Any, size: int, **options: Any) -> Callable[[], object]:
        return lambda: ControlVector.train(of, tokenizer, by_length, batch_size=size, **options)

    layers = range(model.config.num_hidden_layers)
    report.extraction(
        job.bare_pass(model, tokenizer.pad_token_id),
        ("batch_size=32 (its default)", default),
        {f"batch_size={size}, sorted": batched(model, size) for size in BATCH_SIZES},
        {
            f"batch_size={size}, sorted, given a model without its LM head": batched(
                WithoutHead(model), size, hidden_layers=layers
            )
            for size in BATCH_SIZES
        },
    )


def decoding(job: Job, report: Report) -> None:
    """A wrapped model's generate beside that of another copy that was never wrapped."""
    plain, tokenizer = job.load()
    n_layers, width = plain.config.num_hidden_layers, plain.config.hidden_size
    delta = torch.randn(width, generator=torch.Generator().manual_seed(0)).numpy()
    models = {"unsteered": plain}
    for name, layers in (("one layer", [n_layers // 2]), ("all layers", list(range(n_layers)))):
        models[name] = ControlModel(job.load()[0], layers)
        vector = ControlVector(plain.config.model_type, dict.fromkeys(layers, delta))
        models[name].set_control(vector, STRENGTH)
    for size in job.batches:
        batch = job.prompt_batch(tokenizer, size)
        report.decoding(
            size,
            {
                name: lambda model=model, batch=batch: job.generate(model, tokenizer, batch)
                for name, model in models.items()
            },
        )


if __name__ == "__main__":
    run(("repeng", "numpy"), {"extraction": extraction, "decoding": decoding})
