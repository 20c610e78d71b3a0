"""Given texts whose prompts are run once, unsteered, and whose completions are run again and again behind them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import EncodedText
from steerkit.engines.forward import Rows, in_passes, left_padded, logits, prefill, right_padded
from steerkit.engines.shortcuts import shortcuts
from steerkit.models import LanguageModel

PROMPTS_A_PASS = 16
NO_PROMPT = (
    "a prompt shares no token with its completion, so nothing predicts the first token: give a longer prompt"
)


class Continuations:
    """Texts whose prompts, up to the last token, are run once each and unsteered.

    What is run behind them is a row's last prompt token and its completion but the last token: the positions of
    scope `completion`, so a hook that edits all it sees acts there. Rows are padded on the right, where a causal
    model does not look. Raises MisuseError for a text without a prompt token, and for a model of which no several
    tokens at once can be run behind a prompt.
    """

    def __init__(self, lm: LanguageModel, texts: Sequence[EncodedText]) -> None:
        if not all(text.prompt_length for text in texts):
            raise MisuseError(NO_PROMPT)
        taken = shortcuts(lm, max(len(text.ids) for text in texts))
        if taken.states is None or not taken.continues:
            raise MisuseError(
                f"{lm.name} keeps more of a prompt than keys and values, behind which gradients are not followed: use "
                "a method that is not trained"
            )
        self._lm = lm
        self._states = taken.states
        self.texts = texts
        heads = list(dict.fromkeys(text.ids[: text.prompt_length - 1] for text in texts))
        padded = left_padded(heads, lm)
        self._width = padded.ids.shape[1]

        def heads_of(some: Sequence[int]) -> Cache:
            part = slice(some[0], some[-1] + 1)
            with torch.no_grad():  # not inference mode, whose tensors no later gradient may pass by
                return prefill(lm, Rows(*(column[part] for column in padded if column is not None)))

        passes = in_passes(range(len(heads)), lambda _: self._width, PROMPTS_A_PASS * self._width, heads_of)
        parts = [(part, torch.arange(len(some), device=lm.device)) for some, part in passes]
        self._heads = self._states.packed(parts, self._width, in_place=False)
        self._mask = padded.mask
        self._head_of = [heads.index(text.ids[: text.prompt_length - 1]) for text in texts]

    def logits(self, rows: Sequence[int]) -> list[Tensor]:
        """Return, for each of the texts `rows`, the logits `[token, vocabulary]` that predict its completion."""
        lm = self._lm
        texts = [self.texts[row] for row in rows]
        ids, mask, _ = right_padded([text.ids[text.prompt_length - 1 : -1] for text in texts], lm)
        owner = torch.tensor([self._head_of[row] for row in rows], device=lm.device)
        first = torch.tensor([text.prompt_length - 1 for text in texts], device=lm.device)
        places = first[:, None] + torch.arange(ids.shape[1], device=lm.device)
        cache = self._states.packed([(self._heads, owner)], self._width, in_place=False)
        found = logits(lm, Rows(ids, torch.cat([self._mask[owner], mask], dim=1), places), cache=cache)
        return [row[: text.completion_length] for row, text in zip(found, texts, strict=True)]
