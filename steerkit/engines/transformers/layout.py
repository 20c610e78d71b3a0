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
    open_at = thinking_positions(lm, ids, mask, first) if table.tells_thinking_apart else None
    table.point(phases(ids, mask, first, open_at, ends)[:, shown], ages)


def phases(
    ids: Tensor, mask: Tensor, first: Tensor, open_at: Tensor | None = None, ends: Tensor | None = None
) -> Tensor:
    """The phase of each position, `[row, position]`.

    `first` `[row]` is the position from whose output the first completion token comes (the last prompt token).
    `open_at` says at which thinking is open (`thinking_positions`), `ends` which end a line or a step (`line_ends`),
    where that is to be told apart.
    """
    places = torch.arange(ids.shape[1], device=ids.device)[None]
    completion = torch.full_like(ids, ANSWER) if open_at is None else torch.where(open_at, THINKING, ANSWER)
    completion = completion + LAST * (places == first[:, None])
    if ends is not None:
        completion = completion + ends
    phase = torch.where(places < first[:, None], PROMPT, completion)
    return torch.where(mask.bool(), phase, NOWHERE)


def thinking_positions(lm: LanguageModel, ids: Tensor, mask: Tensor, first: Tensor) -> Tensor:
    """At which positions of the completion thinking is open, `[row, position]`; `first` as for `phases`.

    A position from whose output the closing marker's last token is sampled is still inside. The texts are read on the
    host, before a pass.
    """
    open_at = torch.zeros(ids.shape, dtype=torch.bool)
    texts = zip(ids.tolist(), mask.bool().tolist(), first.tolist(), strict=True)
    for row, (text, real, last) in enumerate(texts):
        read = zip(text[: last + 1], real[: last + 1], strict=True)
        prompt = [
            token for token, kept in read if kept and token >= 0
        ]  # of embeddings alone no text is known
        state = lm.thinking.start(prompt)
        for place, token in enumerate(text[last:], last):
            if place > last:
                state = lm.thinking.after(state, token)
            open_at[row, place] = lm.thinking.is_open(state)
    return open_at.to(ids.device)


def line_ends(ids: Tensor, line_breaks: Tensor) -> Tensor:
    """What each position ends, `[row, position]`: STEP_END where the text read so far ends in an empty line.

    LINE_END where it ends in one newline, else 0. `line_breaks` `[vocabulary]` is `LanguageModel.line_breaks`: two
    newlines may be one token or two.
    """
    breaks = line_breaks[ids]
    before = torch.nn.functional.pad(breaks, (1, 0))[:, :-1]
    empty = (breaks == 3) | ((breaks == 2) & (before > 0))
    return torch.where(empty, STEP_END, torch.where(breaks > 0, LINE_END, 0))
