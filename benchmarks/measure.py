"""Timing by turns, and what is said about the times.

The machine drifts: other processes come and go, clocks change. So variants are never timed one after the other
but in turns, and what is compared are the ratios within a turn. Standard library only, because the peers'
environments import this module too.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)


def seconds_of(work: Callable[[], object], wait: Callable[[], None] = lambda: None) -> float:
    """How long `work` takes once; `wait` lets a device finish what was queued on it."""
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def take_turns(
    variants: Mapping[str, Callable[[], object]],
    repeats: int,
    wait: Callable[[], None] = lambda: None,
    *,
    warm_up: bool = True,
) -> Seconds:
    """Seconds of every variant in every turn; the order is reversed from turn to turn.

    With `warm_up` each variant runs once before, untimed: the first call pays for allocations and caches.
    """
    if warm_up:
        for work in variants.values():
            work()
    seconds: Seconds = {name: [] for name in variants}
    for turn in range(repeats):
        gc.collect()  # what earlier work left behind is nobody's cost here
        for name in list(variants)[:: -1 if turn % 2 else 1]:
            seconds[name].append(seconds_of(variants[name], wait))
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], variant: str, reference: str) -> list[float]:
    """Time of `variant` over time of `reference`, turn by turn."""
    return [a / b for a, b in zip(seconds[variant], seconds[reference], strict=True)]
