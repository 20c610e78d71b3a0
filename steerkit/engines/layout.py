"""Ragged texts as padded batches, and the phase of each of their positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from steerkit.engines.table import ANSWER, NOWHERE, PROMPT, THINKING, thinking_positions
from steerkit.models import LanguageModel

T = TypeVar("T")


def left_padded(texts: Sequence[Sequence[int]], lm: LanguageModel) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, mask (true where real) and positions of `texts`, each `[row, position]`, ends aligned.

    At least one position wide: a model cannot run on none, even where every text is empty.
    """
    width = max(1, *map(len, texts))
    ids = torch.tensor([[lm.pad_id] * (width - len(text)) + list(text) for text in texts], device=lm.device)
    lengths = torch.tensor([len(text) for text in texts], device=lm.device)
    positions = torch.arange(width, device=lm.device)[None] - (width - lengths)[:, None]
    return ids, positions >= 0, positions.clamp_min(0)


def phases(ids: Tensor, mask: Tensor, first: Tensor, markers: tuple[Tensor, Tensor]) -> Tensor:
    """The phase of each position, `[row, position]`.

    `first` `[row]` is the position from whose output the first completion token comes (the last prompt token).
    """
    places = torch.arange(ids.shape[1], device=ids.device)[None]
    completion = torch.where(thinking_positions(ids, *markers), THINKING, ANSWER)
    phase = torch.where(places < first[:, None], PROMPT, completion)
    return torch.where(mask.bool(), phase, NOWHERE)


def chunk_by_tokens(items: Sequence[T], length: Callable[[T], int], budget: int) -> list[T]:
    """The leading items whose padded batch stays within `budget` tokens; at least one."""
    longest = 0
    for count, item in enumerate(items):
        longest = max(longest, length(item))
        if count and longest * (count + 1) > budget:
            return list(items[:count])
    return list(items)
