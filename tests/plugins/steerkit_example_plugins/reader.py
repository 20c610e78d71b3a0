"""Two readers: `--read norm@layer=2` of the states, `--read rank` of the logits that a token was chosen from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import steerkit as sk

if TYPE_CHECKING:
    from torch import Tensor


@sk.reader("norm", of="states")
def norm(states: Tensor) -> Tensor:
    """Euclidean norm of the state."""
    return states.float().norm(dim=-1)


@sk.reader("rank", of="logits")
def rank(logits: Tensor, tokens: Tensor) -> Tensor:
    """How many tokens were likelier than the one that came."""
    taken = logits.gather(-1, tokens[..., None])
    return (logits > taken).sum(dim=-1)
