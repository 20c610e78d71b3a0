"""How long a completion is, in tokens."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.engines.base import Completion


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens spent on thinking (its closing marker included), on the answer, and in total.

    `truncated`: the token limit cut the completion off, so the lengths are lower bounds.
    """

    thinking: int
    answer: int
    total: int
    truncated: bool


def lengths(completion: Completion) -> Lengths:
    """The lengths of a completion; the end-of-sequence token is not counted."""
    total = completion.tokens
    return Lengths(
        thinking=completion.thinking_tokens,
        answer=total - completion.thinking_tokens,
        total=total,
        truncated=completion.finish == "length",
    )
