"""Training rows as token ids, and the order in which a run meets them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from experiments.reasoning_tax.data import TrainingRow
from steerkit.core.prompts import Renderer, common_prefix_length

BUCKET_STEPS = 16  # rows of so many steps are sorted by length together: little padding, and still a mixture


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A rendered row with its closing token; the loss is on `ids[prompt_length:]` alone."""

    ids: tuple[int, ...]
    prompt_length: int


def encode(renderer: Renderer, row: TrainingRow, closing: int) -> TokenRow:
    """The row as the chat template renders it, ended by the token that closes a turn."""
    text = renderer.encode_pair(row.prompt, row.given + row.completion)
    learnt_from = text.prompt_length
    if row.given:
        learnt_from = common_prefix_length(text.ids, renderer.encode_pair(row.prompt, row.given).ids)
    return TokenRow((*text.ids, closing), learnt_from)


def plan(lengths: Sequence[int], rows_a_step: int, seed: int) -> list[list[int]]:
    """Row numbers step by step, each row once: drawn from the seed, rows of like length together."""
    random = Random(f"order-{seed}")
    order = list(range(len(lengths)))
    random.shuffle(order)
    steps: list[list[int]] = []
    bucket = rows_a_step * BUCKET_STEPS
    for start in range(0, len(order), bucket):
        rows = sorted(order[start : start + bucket], key=lambda row: lengths[row])
        some = [rows[i : i + rows_a_step] for i in range(0, len(rows), rows_a_step)]
        random.shuffle(some)
        steps += some
    return steps


def portions(rows: Sequence[TokenRow], most_tokens: int) -> list[list[TokenRow]]:
    """The rows in portions of at most `most_tokens` padded tokens, or of one row."""
    parts: list[list[TokenRow]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):  # so the newest is the longest
        if parts and (len(parts[-1]) + 1) * len(row.ids) <= most_tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def tensors(rows: Sequence[TokenRow], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and whether each one is to be predicted, both `[row, position]`.

    Attention is causal, so what stands behind a row's end changes nothing in it and needs no mask.
    """
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    wanted = torch.zeros(len(rows), width, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        wanted[place, row.prompt_length : len(row.ids)] = True
    return ids.to(device), wanted.to(device)
