"""Log-probabilities of the tokens that rows take and of the likeliest ones there, for the rows that ask for them.

They are the steered model's own, as vLLM's: before temperature, penalties and rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token's log-probability in nats, and the likeliest tokens in its place with theirs, likeliest first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class LogprobRow(Protocol):
    """What is known of a row here."""

    generated: list[int]
    logprobs: list[TokenLogprobs]
    top_logprobs: int | None


class TopLogprobs:
    """The rows of a batch that ask for log-probabilities; made anew whenever rows join, leave or move."""

    def __init__(self, rows: Sequence[LogprobRow], device: torch.device) -> None:
        self._asking = [(i, row) for i, row in enumerate(rows) if row.top_logprobs is not None]
        self._most = max((row.top_logprobs or 0 for _, row in self._asking), default=0)
        self._places = torch.tensor([i for i, _ in self._asking], device=device, dtype=torch.long)

    def hand_out(self, logits: Tensor, chosen: Tensor) -> None:
        """Give each row those of the token that it took, from `logits` `[row, vocabulary]` and `chosen` `[row]`."""
        if not self._asking:
            return
        nats = logits.index_select(0, self._places).float().log_softmax(-1)
        tokens = chosen.index_select(0, self._places)
        own = nats.gather(-1, tokens[:, None]).squeeze(-1).tolist()
        values, ids = (found.tolist() for found in nats.topk(min(self._most, nats.shape[-1])))
        for n, ((_, row), token) in enumerate(zip(self._asking, tokens.tolist(), strict=True)):
            if len(row.generated) > len(row.logprobs):  # a token that ended the row is none of its tokens
                top = tuple(zip(ids[n], values[n], strict=True))[: row.top_logprobs]
                row.logprobs.append(TokenLogprobs(token, own[n], top))
