"""The model of a study, how its runs are kept, and what it does on the levels of the suite without steering."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

import steerkit as sk
from experiments.brevity import items
from steerkit.engines.base import Decoding
from steerkit.runs.cells import Cell
from steerkit.suites import brevity
from steerkit.suites.suite import Suite

LEAST_ACCURACY = 0.30
TOKENS = 512  # the longest chain that was trained on has fewer
LEVEL_ITEMS = 100
FINAL_ITEMS = 160
REPORT_ITEMS = 1000
BASE_FINAL_ITEMS, BASE_REPORT_ITEMS = 80, 200  # of a model that does not think, which has no target to meet


@dataclass(frozen=True)
class Study:
    """A model, where its runs are kept, and how large they are; a `limit` makes a trial of it."""

    lm: sk.LanguageModel
    short: Path | None
    out: Path
    threads: int
    limit: int | None

    def size(self, count: int) -> int:
        """So many items, or fewer in a trial."""
        return count if self.limit is None else min(count, self.limit)

    def measured(
        self,
        cells: Sequence[Cell],
        name: str,
        suite: Suite | str,
        split: str,
        count: int,
        lm: sk.LanguageModel | None = None,
    ) -> sk.Run:
        """The cells on `count` items of a suite's split; what is recorded already is not run again."""
        started = time.monotonic()
        with Progress() as bar:
            task = bar.add_task(name)
            run = sk.sweep(
                lm or self.lm,
                cells,
                sk.Measurement(suite, split, self.size(count), Decoding(TOKENS)),
                out=self.out / name,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        print(f"{name}: {len(cells)} cells, {time.monotonic() - started:.0f} s", flush=True)
        return run


@dataclass(frozen=True)
class Levels:
    """What the unsteered model does on the levels of `choose`, and which of them take part."""

    accuracies: Mapping[int, tuple[float, int]]
    taking_part: tuple[int, ...]
    mean_tokens: float
    thinks: bool

    @property
    def qualified(self) -> bool:
        """Whether those that take part are there by the rule."""
        return all(self.accuracies[level][0] >= LEAST_ACCURACY for level in self.taking_part)

    @property
    def final_items(self) -> int:
        """How many items the finalists are compared on."""
        return FINAL_ITEMS if self.thinks else BASE_FINAL_ITEMS

    @property
    def report_items(self) -> int:
        """How many items the chosen cell is measured on."""
        return REPORT_ITEMS if self.thinks else BASE_REPORT_ITEMS

    @property
    def tokens(self) -> str:
        """The metric that is to fall."""
        return "thinking_tokens" if self.thinks else "tokens"


def unsteered_levels(study: Study) -> Levels:
    """Measure every level of `choose` without steering; the easiest stands in where none qualifies."""
    every = Suite("brevity-levels", items.answerable(brevity.generate()))
    records = list(study.measured([Cell()], "levels", every, "choose", LEVEL_ITEMS).records())
    accuracies = items.accuracy_by_level(records)
    found = items.qualifying(accuracies, LEAST_ACCURACY)
    easiest = max(accuracies, key=lambda level: accuracies[level])
    mean = sum(record.tokens for record in records) / len(records)
    thinks = any(record.scores["thinking_tokens"] for record in records)
    return Levels(accuracies, found or (easiest,), mean, thinks)
