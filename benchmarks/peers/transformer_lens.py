"""TransformerLens: the bridge over the transformers model, with hooks at every block's output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peers.common import STRENGTH, Job, Report, run
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


def bridge_of(job: Job) -> tuple[TransformerBridge, Any]:
    """A bridge over the model, and the tokenizer."""
    model, tokenizer = job.load()
    bridge = TransformerBridge.boot_transformers(
        job.folder, hf_model=model, tokenizer=tokenizer, device=job.device
    )
    return bridge, tokenizer


def extraction(job: Job, report: Report) -> None:
    """Default: `run_with_cache` text by text. Best: `run_with_hooks` on the floor's batches, gathered in the hook."""
    model, tokenizer = job.load()
    bridge, _ = bridge_of(job)
    n_layers = model.config.num_hidden_layers
    names = [f"blocks.{layer}.hook_out" for layer in range(n_layers)]
    batches = [
        (*job.padded(rows, tokenizer.pad_token_id), [len(row) - 1 for row in rows]) for rows in job.floor
    ]

    @torch.inference_mode()
    def default() -> None:
        for pair in job.pairs:
            for text in pair.texts:
                ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
                _, cache = bridge.run_with_cache(ids.to(job.device), names_filter=names)
                torch.stack([cache[name][0, -1] for name in names])

    def hooked(**more: Any) -> Callable[[], object]:
        @torch.inference_mode()
        def gather() -> None:
            for ids, mask, last in batches:
                rows = torch.arange(len(last))
                states: dict[str, Tensor] = {}

                def keep(value: Tensor, hook: Any, states=states, rows=rows, last=last) -> None:
                    states[hook.name] = value[rows, last]

                bridge.run_with_hooks(
                    ids, fwd_hooks=[(name, keep) for name in names], attention_mask=mask, **more
                )
                assert len(states) == n_layers

        return gather

    candidates = {
        "run_with_hooks, the floor's batches": hooked(return_type=None),
        "run_with_hooks, the floor's batches, stopped before the head": hooked(
            return_type=None, stop_at_layer=n_layers
        ),
    }
    report.extraction(
        job.bare_pass(model, tokenizer.pad_token_id),
        ("run_with_cache, one text at a time", default),
        candidates,
    )


def decoding(job: Job, report: Report) -> None:
    """The bridge's own generate with its hooks open, and without."""
    bridge, tokenizer = bridge_of(job)
    n_layers, width = bridge.cfg.n_layers, bridge.cfg.d_model
    delta = STRENGTH * torch.randn(width, generator=torch.Generator().manual_seed(0)).to(job.device)

    def add(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (the signature is the peer's)
        return value + delta

    hooks = {
        "unsteered": [],
        "one layer": [(f"blocks.{n_layers // 2}.hook_out", add)],
        "all layers": [(f"blocks.{layer}.hook_out", add) for layer in range(n_layers)],
    }
    for size in job.batches:
        batch = job.prompt_batch(tokenizer, size)

        @torch.inference_mode()
        def generate(chosen: list[Any], batch: Any = batch) -> None:
            with bridge.hooks(fwd_hooks=chosen):
                bridge.generate(
                    batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    max_new_tokens=job.tokens,
                    stop_at_eos=False,
                    do_sample=False,
                    verbose=False,
                )

        variants = {
            name: lambda chosen=chosen, generate=generate: generate(chosen) for name, chosen in hooks.items()
        }
        report.decoding(size, variants, "against its own unsteered loop")


if __name__ == "__main__":
    run(("transformer-lens",), {"extraction": extraction, "decoding": decoding})
