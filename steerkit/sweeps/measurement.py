"""Measurement: what the cells of a sweep are measured on, and how."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_whole
from steerkit.engines.base import Decoding
from steerkit.interventions.readers import Reader
from steerkit.interventions.spec import readers_of
from steerkit.reading.reduction import check_reduction
from steerkit.scoring.metrics import Scorer, scorers_of
from steerkit.suites.items import SuiteItem
from steerkit.suites.splits import SPLITS
from steerkit.suites.suite import Suite, load_suite


@dataclass(frozen=True)
class Measurement:
    """A suite's split, how its prompts are completed, and how the completions are scored.

    `suite` is a suite, its name or a `.jsonl` file; it is read once. `limit` takes a balanced part of the split's
    items. `samples` counts completions per item and cell. `system` stands before every prompt. `scorers` are names or
    scorers beside those that the suite names. `readers` read every token, each a reader or its spec string, and
    `reading` says what the records keep of that: `per-token`, or one number (see `steerkit.reading.reduction`). Raises
    MisuseError for a split or reading that there is not, counts below 1, and readers that cannot be read.
    """

    suite: Suite | str | os.PathLike[str] = "abstention"
    split: str = "choose"
    limit: int | None = None
    decoding: Decoding = Decoding()
    samples: int = 1
    system: str | None = None
    scorers: Scorer | str | Sequence[Scorer | str] = ()
    readers: Reader | str | Iterable[Reader | str] = ()
    reading: str = "mean"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise MisuseError(f"unknown split {self.split!r}: choose one of {', '.join(SPLITS)}")
        check_reduction(self.reading)
        object.__setattr__(self, "readers", readers_of(self.readers))
        for name in ("limit", "samples"):
            if (count := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_whole(name, count, 1))

    @functools.cached_property
    def whole(self) -> Suite:
        """The whole suite. Raises MisuseError or InputError where it cannot be had."""
        return load_suite(self.suite)

    @functools.cached_property
    def items(self) -> tuple[SuiteItem, ...]:
        """The items that are asked. Raises MisuseError where the split has none."""
        part = self.whole.split(self.split)
        return tuple(part if self.limit is None else part.limit(self.limit))

    @functools.cached_property
    def scored_by(self) -> tuple[Scorer, ...]:
        """The suite's scorers and those beside them, each once. Raises MisuseError for one that a sweep cannot ask."""
        scorers = scorers_of([*self.whole.scorers, *scorers_of(self.scorers)])
        for scorer in scorers:
            if scorer.needs == "run":
                raise MisuseError(f"no sweep can ask the scorer {scorer.name!r}: {scorer.doc}")
        return tuple({scorer.name: scorer for scorer in scorers}.values())

    @property
    def read_by(self) -> tuple[Reader, ...]:
        """What reads every row."""
        return readers_of(self.readers)

    def check(self) -> None:
        """Raise what `items` and `scored_by` raise, where that is to be known beforehand."""
        _ = self.items, self.scored_by

    def on(self, split: str) -> Measurement:
        """Return the same measurement on another split of the suite, which is not read again."""
        return replace(self, suite=self.whole, split=split)
