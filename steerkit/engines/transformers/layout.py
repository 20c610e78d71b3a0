"""The phase of each position of padded texts."""

from __future__ import annotations

import torch
from torch import Tensor

from steerkit.engines.transformers.table import (
    ANSWER,
    LAST,
    LINE_END,
    NOWHERE,
    PROMPT,
    STEP_END,
    THINKING,
    RowTable,
    thinking_positions,
)
from steerkit.models import LanguageModel


def point_at_text(
    table: RowTable, lm: LanguageModel, ids: Tensor, mask: Tensor, first: Tensor, newest: int | None = None
) -> None:
    """Point `table` at the `newest` positions (None: all) of whole texts; see `phases` for what is given."""
    shown = slice(None) if newest is None else slice(-newest, None)
    ends = line_ends(ids, lm.line_breaks) if table.tells_steps_apart else None
    places = torch.arange(ids.shape[1], device=ids.device)[None]
    ages = (places - first[:, None]).clamp_min(0)[:, shown] if table.fades else None
    table.point(phases(ids, mask, first, lm.thinking_markers, ends)[:, shown], ages)


def phases(
    ids: Tensor, mask: Tensor, first: Tensor, markers: tuple[Tensor, Tensor], ends: Tensor | None = None
) -> Tensor:
    """The phase of each position, `[row, position]`.

    `first` `[row]` is the position from whose output the first completion token comes (the last prompt token).
    `ends` says which positions end a line or a step (`line_ends`), where that is to be told apart.
    """
    places = torch.arange(ids.shape[1], device=ids.device)[None]
    completion = completion_phases(ids, markers, ends) + LAST * (places == first[:, None])
    phase = torch.where(places < first[:, None], PROMPT, completion)
    return torch.where(mask.bool(), phase, NOWHERE)


def completion_phases(ids: Tensor, markers: tuple[Tensor, Tensor], ends: Tensor | None = None) -> Tensor:
    """The phase that each position of the texts `ids` has if it belongs to the completion, `[row, position]`."""
    phase = torch.where(thinking_positions(ids, *markers), THINKING, ANSWER)
    return phase if ends is None else phase + ends


def line_ends(ids: Tensor, line_breaks: Tensor) -> Tensor:
    """What each position ends, `[row, position]`: STEP_END where the text read so far ends in an empty line.

    LINE_END where it ends in one newline, else 0. `line_breaks` `[vocabulary]` is `LanguageModel.line_breaks`: two
    newlines may be one token or two.
    """
    breaks = line_breaks[ids]
    before = torch.nn.functional.pad(breaks, (1, 0))[:, :-1]
    empty = (breaks == 3) | ((breaks == 2) & (before > 0))
    return torch.where(empty, STEP_END, torch.where(breaks > 0, LINE_END, 0))
