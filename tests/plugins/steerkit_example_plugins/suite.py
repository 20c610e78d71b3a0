"""A suite: `steerkit sweep --suite years`, `sk.load_suite("years")`. It names the scorers that make sense for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import steerkit as sk

if TYPE_CHECKING:
    from steerkit import SuiteItem


@sk.suite("years", scorers=["answers", "lengths", "degeneration", "shouting"])
def years(first: str = "1900") -> Iterator[SuiteItem]:
    """Which year comes after another, from the year behind the colon on."""
    for year in range(int(first), int(first) + 60):
        yield sk.SuiteItem(
            id=f"year-{year}",
            prompt=f"Which year comes after {year}?",
            answers=(str(year + 1),),
        )
