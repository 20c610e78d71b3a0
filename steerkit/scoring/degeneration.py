"""Has a completion fallen apart? Empty texts and loops, the two ways in which too strong a steering shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.scoring.metrics import Metric, Scores, scorer

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.suites.items import SuiteItem

NGRAM = 4
LOOP_REPETITION = 0.5
LOOP_MIN_TOKENS = 24

METRICS = (
    Metric("degenerate", "degenerate", "lower", "degen."),
    Metric("repetition", "repetition", "lower", show="hidden"),
)


@scorer("degeneration", metrics=METRICS, needs="tokens")
def degeneration(_item: SuiteItem, completion: Completion) -> Scores:
    """Say whether the completion is blank or a loop, and how much of it repeats."""
    return {"degenerate": is_degenerate(completion), "repetition": repetition(completion.token_ids)}


def repetition(token_ids: Sequence[int]) -> float:
    """The share, 0 to 1, of a text's 4-grams of tokens that occurred earlier in it (0 where it has none)."""
    ngrams = [tuple(token_ids[start : start + NGRAM]) for start in range(len(token_ids) - NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def is_degenerate(completion: Completion) -> bool:
    """Whether a completion is blank, or has at least 24 tokens and half of its 4-grams repeat earlier ones.

    The minimum keeps short answers out, which repeat their question's words for good reasons.
    """
    if not completion.text.strip():
        return True
    return completion.tokens >= LOOP_MIN_TOKENS and repetition(completion.token_ids) >= LOOP_REPETITION
