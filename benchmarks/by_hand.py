"""The loop that people write by hand: transformers' `generate` under a forward hook, one cell after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.engines.base import steerings_of
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell


@contextmanager
def adding(cell: Cell, blocks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """While open, each block of the cell adds its vector to the newest position, as scope `completion` does."""

    def hook(delta: Tensor) -> Callable[..., None]:
        def add(_block: nn.Module, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[:, -1:] += delta

        return add

    handles = [
        blocks[layer].register_forward_hook(
            hook(steering.strength * steering.vector.direction[layer].to(device))
        )
        for steering in steerings_of(cell.interventions)
        for layer in steering.layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Produced:
    """What a stretch of work brought forth. `decoded` counts the end-of-sequence tokens too."""

    records: int
    decoded: int
    completions: tuple[tuple[int, ...], ...] = ()


def generate_cell(
    lm: LanguageModel, cell: Cell, prompts: Sequence[str], max_new_tokens: int, batch_size: int
) -> Produced:
    """Every prompt (rendered) under one cell, `batch_size` at a time, greedy, until each row has stopped."""
    completions: list[tuple[int, ...]] = []
    decoded = 0
    for start in range(0, len(prompts), batch_size):
        encoded = lm.tokenizer(
            list(prompts[start : start + batch_size]),
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        ).to(lm.device)
        with adding(cell, lm.blocks, lm.device):
            output = lm.hf.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=list(lm.stop_ids),
                pad_token_id=lm.pad_id,
            )
        for row in output[:, encoded["input_ids"].shape[1] :].tolist():
            end = next((i for i, token in enumerate(row) if token in lm.stop_ids), len(row))
            completions.append(tuple(row[:end]))
            decoded += min(end + 1, len(row))
    return Produced(len(completions), decoded, tuple(completions))
