"""Choosing the next token, row by row: as `generate` of transformers does, by randomness that belongs to the row.

1. Rows are grouped by setting. Transformers' own processors of a setting run on its rows alone, in float32 and in
   `generate`'s order: the repetition penalty, what rules on logits add (`generate` has its caller's processors there),
   then, in sampled rows, temperature, top-k, top-p, min-p.
2. The repetition penalty sees a row's own prompt and completion, never padding or another row.
3. A sampled row takes the token at which the cumulative probability, likeliest token first, passes its uniform number.
4. Greedy rows without a repetition penalty take the largest logit in the model's own number format. A batch of them
   costs nothing else.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from steerkit.engines.base import Decoding, Finish


class ChoosingRow(Protocol):
    """What decides a row's next token beside its logits."""

    prompt_ids: tuple[int, ...]
    generated: list[int]
    uniforms: np.ndarray | None
    finish: Finish | None

    @property
    def decoding(self) -> Decoding:
        """How its tokens are chosen."""


class Bias(NamedTuple):
    """Nats to add to logits: three tensors `[entry]`, each entry a row, a token and what is added."""

    rows: Tensor
    tokens: Tensor
    nats: Tensor


class Setting(NamedTuple):
    """What of a `Decoding` acts on logits; what a greedy row does not look at is left out."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, decoding: Decoding) -> Setting:
        """Return that of a decoding."""
        if decoding.temperature == 0:
            return cls(repetition_penalty=decoding.repetition_penalty)
        return cls(
            decoding.temperature,
            decoding.top_k,
            decoding.top_p,
            decoding.min_p,
            decoding.repetition_penalty,
        )

    @property
    def warpers(self) -> LogitsProcessorList:
        """What `generate` does to a sampled row's scores, behind all other processors; nothing for a greedy one."""
        warpers = LogitsProcessorList()
        if self.temperature not in (0.0, 1.0):
            warpers.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k > 0:
            warpers.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            warpers.append(TopPLogitsWarper(self.top_p))
        if self.min_p > 0:
            warpers.append(MinPLogitsWarper(self.min_p))
        return warpers


PLAIN = Setting()


def row_uniforms(decoding: Decoding, prompt_ids: Sequence[int], sample: int) -> np.ndarray:
    """The random numbers of one row, `[max_new_tokens]` in [0, 1): a function of seed, prompt and sample alone.

    Packing cannot change them, and the steering does not enter: all cells of a grid draw the same numbers for
    an item, so that their comparison is paired.
    """
    key = f"{decoding.seed}/{sample}/{','.join(map(str, prompt_ids))}"
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    return np.random.Generator(np.random.PCG64(seed)).random(decoding.max_new_tokens, dtype=np.float32)


class Choosing:
    """How the rows of one batch choose their tokens; made anew whenever rows join, leave or move.

    `rows` are those of the batch in order, as far as they have come. Finished rows take the largest logit.
    """

    def __init__(self, rows: Sequence[ChoosingRow], device: torch.device) -> None:
        groups: defaultdict[Setting, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            setting = PLAIN if row.finish is not None else Setting.of(row.decoding)
            groups[setting].append(place)
        self._any_plain = groups.pop(PLAIN, None) is not None
        self._groups = [_Group(setting, rows, places, device) for setting, places in groups.items()]

    def next_tokens(self, logits: Tensor, bias: Bias | None = None) -> Tensor:
        """Return the next token of each row, `[row]`, from `logits` `[row, vocabulary]`; called once a step."""
        if self._any_plain:
            biased = logits
            if bias is not None:
                biased = logits.index_put(
                    (bias.rows, bias.tokens), bias.nats.to(logits.dtype), accumulate=True
                )
            # As argmax, ties and NaN too, in a fifth of its time in bfloat16 on a CPU.
            chosen = biased.max(-1).indices
        else:
            chosen = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        for group in self._groups:
            chosen = chosen.index_put((group.places,), group.next_tokens(logits, bias))
        return chosen

    def take(self, tokens: Tensor) -> None:
        """Read the tokens `[row]` that the rows took in the end, which may have been forced."""
        for group in self._groups:
            group.take(tokens)


class _Group:
    """The rows of one setting: where they stand in the batch, their text so far, their random numbers to come."""

    def __init__(
        self, setting: Setting, rows: Sequence[ChoosingRow], places: Sequence[int], device: torch.device
    ) -> None:
        self._warpers = setting.warpers
        self._all = len(places) == len(rows)
        self.places = torch.tensor(places, device=device)
        within = torch.full((len(rows),), -1)
        within[places] = torch.arange(len(places))
        self._within = within.to(device)
        mine = [rows[place] for place in places]
        self._penalty: RepetitionPenaltyLogitsProcessor | None = None
        if setting.repetition_penalty != 1:
            texts = [[*row.prompt_ids, *row.generated] for row in mine]
            width = max(map(len, texts))
            # Padding repeats a token of the row, which is penalised once however often it occurs.
            padded = [text[:1] * (width - len(text)) + text for text in texts]
            self._texts = torch.tensor(padded, device=device)
            self._penalty = RepetitionPenaltyLogitsProcessor(setting.repetition_penalty)
        self._uniforms: Tensor | None = None
        if setting.temperature > 0:
            longest = max(row.decoding.max_new_tokens for row in mine)
            table = np.zeros((len(mine), longest + 1), dtype=np.float32)
            for i, row in enumerate(mine):
                assert row.uniforms is not None
                table[i, : len(row.uniforms)] = row.uniforms
            self._uniforms = torch.from_numpy(table).to(device)
            self._drawn = torch.tensor([[len(row.generated)] for row in mine], device=device)

    def next_tokens(self, logits: Tensor, bias: Bias | None) -> Tensor:
        """Return the next token of each of its rows, `[row of the group]`, from the whole batch's logits."""
        scores = (logits if self._all else logits.index_select(0, self.places)).float()
        if self._penalty is not None:
            scores = self._penalty(self._texts, scores)
        if (
            bias is not None
        ):  # other rows' entries add 0 to the group's first row: taking them out would wait for them
            at = self._within[bias.rows]
            nats = torch.where(at < 0, 0.0, bias.nats).to(scores.dtype)
            scores = scores.index_put((at.clamp_min(0), bias.tokens), nats, accumulate=True)
        if self._uniforms is None:
            return scores.max(-1).indices
        uniforms = self._uniforms.gather(1, self._drawn)
        # Rows that are finished run on, beyond the last of their numbers.
        self._drawn = (self._drawn + 1).clamp_max(self._uniforms.shape[1] - 1)
        return drawn(self._warpers(self.places[:, None], scores), uniforms)

    def take(self, tokens: Tensor) -> None:
        """Read what its rows took, from the whole batch's tokens."""
        if self._penalty is not None:
            self._texts = torch.cat([self._texts, tokens[self.places, None]], dim=1)


def drawn(scores: Tensor, uniforms: Tensor) -> Tensor:
    """The token of each row, `[row]`, at which its uniform number `[row, 1]` falls, the likeliest token first.

    `scores` `[row, vocabulary]` are unnormalised log-probabilities; a token of -inf is never taken.
    """
    probabilities, order = scores.softmax(-1).sort(dim=-1, descending=True, stable=True)
    reached = probabilities.cumsum(-1)
    place = (reached <= uniforms * reached[:, -1:]).sum(-1, keepdim=True)
    # A cumulative sum may waver by its last bit along tokens that have no probability.
    possible = (probabilities > 0).sum(-1, keepdim=True)
    return order.gather(-1, place.minimum(possible - 1).clamp_min(0)).squeeze(-1)
