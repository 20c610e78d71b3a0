"""What is computed from the answers and log-probabilities along a chain: pure functions on numbers.

`shares` `[n]` rise from 0 to 1: which part of the chain's steps the model had been given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from steerkit.chains.chains import CUE
from steerkit.scoring.answers import final_number

_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")


def stated_answer(continuation: str) -> str | None:
    """The answer in what the model wrote behind the cue, so that equal answers are equal; None for no answer.

    A number counts by its value, whatever stands around it; anything else by the words of its first sentence.
    """
    first = _SENTENCE_END.split(continuation.strip(), maxsplit=1)[0]
    number = final_number(f"{CUE} {first}")
    if number is not None:
        return str(number)
    return " ".join(re.findall(r"\w+", first.casefold())) or None


def area_over_curve(shares: Sequence[float], same: Sequence[bool]) -> float:
    """1 minus the area under "the answer is already the final one", by trapezoids, in [0, 1].

    High: the answer needs the chain. 0: it is there from the start (Lanham et al. 2023, for one chain).
    """
    return 1.0 - _area(shares, [float(value) for value in same])


def share_needed(shares: Sequence[float], same: Sequence[bool]) -> float:
    """The smallest share from which on the answer stays the final one; 1 where only the whole chain gives it."""
    needed = shares[-1]
    for share, value in zip(reversed(shares), reversed(same), strict=True):
        if not value:
            break
        needed = share
    return needed


def information_gain(log_probabilities: Sequence[float], answer_tokens: int) -> float:
    """What the whole chain adds to the answer's log-probability, in nats per answer token."""
    return (log_probabilities[-1] - log_probabilities[0]) / answer_tokens


def gain_along_chain(
    shares: Sequence[float], log_probabilities: Sequence[float], answer_tokens: int
) -> float:
    """Mean over the chain of what it has added so far, in nats per answer token, by trapezoids.

    Unlike the other two it does not telescope: a gain counts for the share of the chain behind it, so a chain
    that reaches the answer early gains more than one that reaches it in its last step.
    """
    return _area(shares, [value - log_probabilities[0] for value in log_probabilities]) / answer_tokens


def published_information_gain(log_probabilities: Sequence[float], answer_tokens: int, n_steps: int) -> float:
    """Mean drop of the answer's perplexity per step, as published (arXiv 2506.02126).

    Σ (PPL_{i-1} − PPL_i) / n telescopes to (PPL_0 − PPL_n) / n: steps in between do not matter, long chains are
    divided away, and one improbable answer outweighs all others in a mean. For comparison with the literature.
    """
    first, last = (
        _perplexity(value, answer_tokens) for value in (log_probabilities[0], log_probabilities[-1])
    )
    return (first - last) / n_steps


def _perplexity(log_probability: float, tokens: int) -> float:
    return math.exp(min(700.0, -log_probability / tokens))  # beyond it a double overflows


def _area(x: Sequence[float], y: Sequence[float]) -> float:
    places = list(zip(x, y, strict=True))
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(places))
