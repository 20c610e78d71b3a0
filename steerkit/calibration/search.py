"""Bracket, then refine: the smallest strength at which a divergence meets its target, few measurements at a time.

The divergence of strength 0 is 0 and grows with the square of the strength at first; further out it need not be
monotone. So the first crossing is looked for from below, on a ladder of doublings, and what lies between two
rungs is taken to be monotone: a bump narrower than that goes unseen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

RUNGS = 4
SMALLEST = 2.0**-30  # of the largest strength: below it nothing is looked for
MOST_REFINEMENTS = 6

# Yields strengths to measure, is sent their divergences in the same order, returns where it ended.
Search = Generator[tuple[float, ...], Sequence[float], "Found"]


@dataclass(frozen=True)
class Found:
    """Where a search ended: a strength that was measured, or the reason why there is none.

    `bracket` are the neighbouring measured strengths below and above the first crossing.
    """

    strength: float | None
    reason: str | None = None
    bracket: tuple[float, float] | None = None


def search(target: float, largest: float, tolerance: float) -> Search:
    """Look for the divergence `target` in (0, `largest`], to the relative `tolerance`.

    Yields tuples of new strengths; send the divergences of each. The result was measured: of all strengths up
    to the first crossing it is the one whose divergence is nearest to the target.
    """
    curve: dict[float, float] = {}
    bottom = largest * SMALLEST
    yield from _measure(curve, _ladder(largest / 2**RUNGS))
    while curve[low := min(curve)] >= target:  # an earlier crossing lies below, whatever the ladder shows
        if low <= bottom:
            return Found(
                None, f"the KL is {curve[low]:.3g} already at the smallest strength tried, {low:.3g}"
            )
        yield from _measure(curve, _ladder(low / 2**RUNGS))
    while (bracket := _first_crossing(curve, target)) is None:
        high = max(curve)
        if high >= largest:
            best = max(curve, key=lambda s: curve[s])
            return Found(
                None,
                f"not reached up to the largest strength, {largest:g}: the highest KL is {curve[best]:.3g}, at "
                f"strength {best:.3g}",
            )
        yield from _measure(curve, sorted({min(s, largest) for s in _ladder(2 * high)}))
    for _ in range(MOST_REFINEMENTS):
        nearest = _nearest(curve, bracket[1], target)
        if abs(curve[nearest] - target) <= tolerance * target:
            return Found(nearest, bracket=bracket)
        yield from _measure(curve, _between(curve, bracket, target))
        bracket = _first_crossing(curve, target) or bracket
    nearest = _nearest(curve, bracket[1], target)
    if abs(curve[nearest] - target) <= tolerance * target:
        return Found(nearest, bracket=bracket)
    low, high = bracket
    return Found(
        None,
        f"the KL jumps from {curve[low]:.3g} at strength {low:.6g} to {curve[high]:.3g} at {high:.6g}, past the "
        "target",
        bracket,
    )


def _measure(
    curve: dict[float, float], strengths: Sequence[float]
) -> Generator[tuple[float, ...], Sequence[float], None]:
    new = tuple(s for s in strengths if s not in curve)
    curve |= dict(zip(new, (yield new), strict=True))


def _ladder(lowest: float) -> list[float]:
    return [lowest * 2**rung for rung in range(RUNGS)]


def _first_crossing(curve: dict[float, float], target: float) -> tuple[float, float] | None:
    """The first two neighbouring strengths of which the lower is below the target and the upper is not."""
    strengths = sorted(curve)
    for low, high in itertools.pairwise(strengths):
        if curve[low] < target <= curve[high]:
            return low, high
    return None


def _between(curve: dict[float, float], bracket: tuple[float, float], target: float) -> list[float]:
    """Three strengths inside the bracket: where a power law through its ends meets the target, and one on each side."""
    low, high = bracket
    below, above = curve[low], curve[high]
    # No power law passes through zero.
    share = math.log(target / below) / math.log(above / below) if below > 0 else 0.5
    # A crossing on the upper end itself would be measured twice, and a bracket would not shrink.
    share = min(max(share, 0.05), 0.95)
    ratio = high / low
    return [low * ratio**part for part in (share / 2, share, (1 + share) / 2)]


def _nearest(curve: dict[float, float], highest: float, target: float) -> float:
    """The strength up to `highest` whose divergence is nearest to the target, the smaller one of two."""
    return min((s for s in curve if s <= highest), key=lambda s: (abs(curve[s] - target), s))
