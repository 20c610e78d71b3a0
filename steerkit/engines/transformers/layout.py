"""The phase of each position of padded texts."""

from __future__ import annotations

import torch
from torch import Tensor

from steerkit.engines.transformers.table import (
    ANSWER,
    LAST,
    LINE_END,
    NOWHERE,
    PHASE_OF_KIND,
    PROMPT,
    STEP_END,
    RowTable,
)
from steerkit.models import LanguageModel


def point_at_text(
    table: RowTable,
    lm: LanguageModel,
    ids: Tensor,
    mask: Tensor,
    first: Tensor,
    newest: int | None = None,
    *,
    is_whole: bool = True,
) -> None:
    """Point `table` at the `newest` positions (None: all) of whole texts; see `phases` for what is given.

    Of what is no whole text the completion is taken for answer.
    """
    shown = slice(None) if newest is None else slice(-newest, None)
    ends = line_ends(ids, lm.line_breaks) if table.tells_steps_apart else None
    places = torch.arange(ids.shape[1], device=ids.device)[None]
    ages = (places - first[:, None]).clamp_min(0)[:, shown] if table.fades else None
    kinds = completion_kinds(lm, ids, mask, first) if is_whole and table.follows_kinds else None
    table.point(phases(ids, mask, first, kinds, ends)[:, shown], ages)


def phases(
    ids: Tensor, mask: Tensor, first: Tensor, kinds: Tensor | None = None, ends: Tensor | None = None
) -> Tensor:
    """The phase of each position, `[row, position]`.

    `first` `[row]` is the position from whose output the first completion token comes (the last prompt token).
    `kinds` says which belong to thinking, answer and calls of tools (`completion_kinds`), `ends` which end a line or a
    step (`line_ends`), where that is to be told apart.
    """
    places = torch.arange(ids.shape[1], device=ids.device)[None]
    completion = torch.full_like(ids, ANSWER) if kinds is None else kinds
    completion = completion + LAST * (places == first[:, None])
    if ends is not None:
        completion = completion + ends
    phase = torch.where(places < first[:, None], PROMPT, completion)
    return torch.where(mask.bool(), phase, NOWHERE)


def completion_kinds(lm: LanguageModel, ids: Tensor, mask: Tensor, first: Tensor) -> Tensor:
    """THINKING, ANSWER or TOOL for each position of the completion, `[row, position]`; `first` as for `phases`.

    A position from whose output the closing marker's last token is sampled is still thinking. The texts are read on the
    host, before a pass.
    """
    found = torch.full(ids.shape, ANSWER)
    texts = zip(ids.tolist(), mask.bool().tolist(), first.tolist(), strict=True)
    for row, (text, real, last) in enumerate(texts):
        read = zip(text[: last + 1], real[: last + 1], strict=True)
        prompt = [
            token for token, kept in read if kept and token >= 0
        ]  # of embeddings alone no text is known
        if last < len(text):  # else the prompt is read in chunks, and this is one of the first
            kinds = lm.thinking.kinds(prompt, text[last + 1 :])
            found[row, last:] = torch.tensor([PHASE_OF_KIND[kind] for kind in kinds])
    return found.to(ids.device)


def line_ends(ids: Tensor, line_breaks: Tensor) -> Tensor:
    """What each position ends, `[row, position]`: STEP_END where the text read so far ends in an empty line.

    LINE_END where it ends in one newline, else 0. `line_breaks` `[vocabulary]` is `LanguageModel.line_breaks`: two
    newlines may be one token or two.
    """
    breaks = line_breaks[ids]
    before = torch.nn.functional.pad(breaks, (1, 0))[:, :-1]
    empty = (breaks == 3) | ((breaks == 2) & (before > 0))
    return torch.where(empty, STEP_END, torch.where(breaks > 0, LINE_END, 0))
