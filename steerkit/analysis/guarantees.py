"""A guarantee: a bound on a share that holds at a stated confidence for the cell that is chosen.

    QUANTITY<=VALUE@CONFIDENCE        e.g.  over_abstention<=0.1@95%, over_abstention_rise<=0.05@95%

A bound of a rule (`steerkit.analysis.choosing`) is met by a point estimate, and the best of many cells may meet it by
luck. A guarantee is tested by learn-then-test (`steerkit.core.learn_then_test`), where what was chosen pays for the
choice:

1. The cells that differ in nothing but the strength (signs apart) are a *sequence*, from the smallest dose to the
   largest. The order is a function of the grid, not of what was measured; the level 1 - CONFIDENCE is shared among the
   sequences equally.
2. Each cell is tested, exactly, for a risk above the bound; the first of a sequence that fails ends it. All that passed
   are *certified* together, and the rule picks the best of them, on the same items.
3. A group of items (twins together) counts once, and loses where any completion of its items does: for
   `over_abstention`, where one of its answerable items is abstained from. The share of groups that lose is what is
   bounded; the share of items is at most that where groups have equally many items that the metric concerns.
4. Of a change (`METRIC_rise`, `METRIC_drop`), an item loses where it is worse than under the unsteered model. The share
   of those is at least the net change, so its bound is one on the change too; what is gained elsewhere does not count.

It holds for questions that are drawn as those were that chose, and for no others.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steerkit.analysis.choosing import Bound, CertifiedBound, parse_bound
from steerkit.analysis.outcomes import Outcomes
from steerkit.core.bootstrap import Floats
from steerkit.core.errors import MisuseError
from steerkit.core.learn_then_test import (
    binomial_p_value,
    check_enough,
    fixed_sequence,
    group_losses,
    level_of,
)
from steerkit.runs.cells import RunCell

EXAMPLE = '"over_abstention<=0.1@95%"'
ORDER = "cells that differ in strength alone, by its size, from the smallest"
_GUARANTEE = re.compile(r"(.*)@\s*(\d*\.?\d+)\s*(%?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Guarantee:
    """`bound` holds with at least the probability `confidence` over the draw of the groups that chose."""

    bound: Bound
    confidence: float

    @property
    def limit(self) -> float:
        """The largest share of groups that may lose."""
        return self.bound.limit if self.bound.relation == "<=" else round(1 - self.bound.limit, 12)

    @property
    def metric(self) -> str:
        """Name of the metric that it bounds."""
        return self.bound.quantity.metric.name

    def losses(self, levels: Floats, unsteered: Floats | None) -> Floats:
        """Return 1 for each item that loses, 0 for one that does not, NaN without a measurement, `[n_items]`.

        `levels` are a cell's means over samples: one sample that loses is enough. Raises MisuseError for a change
        without the unsteered model, and where a value is no share.
        """
        sign = self.bound.quantity.sign
        if sign is not None and unsteered is None:
            raise MisuseError(
                f"{self} needs the unsteered model beside the cells, and the run has no records of it"
            )
        there = levels[~np.isnan(levels)]
        if ((there < 0) | (there > 1)).any():
            raise MisuseError(f"{self.metric} has values that are no shares: no exact test bounds it")
        if sign is not None and unsteered is not None:
            values, lost = levels - unsteered, sign * (levels - unsteered) > 0
        else:
            values, lost = levels, levels > 0 if self.bound.relation == "<=" else levels < 1
        found: Floats = np.where(np.isnan(values), np.nan, lost)
        return found

    def __str__(self) -> str:
        return f"{self.bound}@{100 * self.confidence:.10g}%"


@dataclass(frozen=True)
class Tested:
    """A cell's test: how many of its `n` groups lost, its p-value, and whether it and all before it passed."""

    cell: str
    losses: int
    n: int
    p_value: float
    certified: bool


@dataclass(frozen=True)
class Certification:
    """What a guarantee found: the cells of each sequence in the order of testing, and the `level` of each sequence."""

    guarantee: Guarantee
    level: float
    sequences: tuple[tuple[Tested, ...], ...]

    @property
    def tested(self) -> dict[str, Tested]:
        """Every cell's test by its id."""
        return {each.cell: each for sequence in self.sequences for each in sequence}

    @property
    def certified(self) -> list[str]:
        """The ids of the cells of which the guarantee holds, all at once."""
        return [name for name, each in self.tested.items() if each.certified]

    def bound_of(self, cell: str, source: str) -> CertifiedBound:
        """Return what is guaranteed of a certified cell, for questions drawn as those of `source` were."""
        tested = self.tested[cell]
        return CertifiedBound(
            guarantee=str(self.guarantee),
            losses=tested.losses,
            n=tested.n,
            p_value=tested.p_value,
            level=self.level,
            sequences=len(self.sequences),
            order=ORDER,
            assumption=f"questions are drawn as those of {source} were; a group of twins is one question",
        )


def parse_guarantee(text: str | Guarantee) -> Guarantee:
    """Return the guarantee that a text writes down. Raises MisuseError where none can be had in these words."""
    if isinstance(text, Guarantee):
        return text
    said, found = f"guarantee {text!r}", _GUARANTEE.fullmatch(text)
    if found is None:
        raise MisuseError(f"{said} cannot be read: write BOUND@CONFIDENCE, such as {EXAMPLE}")
    bound = parse_bound(found[1], said)
    confidence = float(found[2]) / (100 if found[3] else 1)
    if not 0 < confidence < 1:
        raise MisuseError(f"{said}: the confidence is a share between 0 and 1; write 95%")
    _check_countable(bound, said)
    guarantee = Guarantee(bound, confidence)
    if not 0 < guarantee.limit < 1:
        raise MisuseError(
            f"{said}: only a share strictly between 0 and 1 can be bounded, not {bound.limit:g}"
        )
    return guarantee


def certify_cells(
    outcomes: Outcomes, cells: Mapping[str, RunCell], guarantee: Guarantee | str
) -> Certification:
    """Test the cells of `cells` that steer or edit, and return which of them are certified.

    `cells` are the candidates, by id, as they were fixed before anything was measured, the unsteered model and controls
    among them or not. Raises MisuseError for a metric that `outcomes` do not have, where fewer groups were measured
    than the bound takes, and as `Guarantee.losses` does.
    """
    guarantee = parse_guarantee(guarantee)
    if guarantee.metric not in outcomes.values:
        raise MisuseError(f"the run does not measure {guarantee.metric}, which {guarantee} bounds")
    values, row = outcomes.values[guarantee.metric], {name: i for i, name in enumerate(outcomes.cells)}
    unsteered = next(
        (values[row[c.id]] for c in cells.values() if c.role == "unsteered" and c.id in row), None
    )
    sequences = sequences_of(cells.values())
    level = level_of(guarantee.confidence, max(1, len(sequences)))
    nothing = np.full(len(outcomes.items), np.nan)

    def counted(cell: RunCell) -> tuple[int, int]:
        levels = values[row[cell.id]] if cell.id in row else nothing
        losses = guarantee.losses(levels, unsteered)
        there = ~np.isnan(losses)
        lost = group_losses(losses[there] > 0, outcomes.groups[there])
        return int(lost.sum()), len(lost)

    def tested(sequence: Sequence[RunCell]) -> tuple[Tested, ...]:
        counts = [counted(cell) for cell in sequence]
        p_values = [float(binomial_p_value(*count, guarantee.limit)) for count in counts]
        passed = fixed_sequence(p_values, level)
        results = enumerate(zip(sequence, counts, p_values, strict=True))
        return tuple(Tested(cell.id, *count, p, place < passed) for place, (cell, count, p) in results)

    found = tuple(map(tested, sequences))
    most = max((each.n for sequence in found for each in sequence), default=0)
    check_enough(most, guarantee.limit, guarantee.confidence, max(1, len(sequences)))
    return Certification(guarantee, level, found)


def sequences_of(cells: Iterable[RunCell]) -> list[list[RunCell]]:
    """Return the cells that steer or edit, those that differ in strength alone together, the smallest first.

    Strengths of another sign are another sequence: they do something else.
    """
    sequences: dict[str, list[RunCell]] = {}
    for cell in cells:
        if cell.role in ("steered", "edited"):
            sequences.setdefault(_but_for_strength(cell), []).append(cell)
    return [sorted(sequence, key=_size) for sequence in sequences.values()]


def _but_for_strength(cell: RunCell) -> str:
    forms = [
        {**form, "strength": math.copysign(1, form["strength"])} if form["kind"] == "steering" else form
        for form in cell.forms
    ]
    return json.dumps(forms, sort_keys=True)


def _size(cell: RunCell) -> float:
    return sum(abs(steering["strength"]) for steering in cell.steerings)


def _check_countable(bound: Bound, said: str) -> None:
    metric, sign = bound.quantity.metric, bound.quantity.sign
    if metric.unit != "share" or metric.graded:
        raise MisuseError(
            f"{said}: {metric.name} is not yes or no for a completion, and only such shares have an exact bound"
        )
    if sign is not None and bound.relation == ">=":
        raise MisuseError(
            f"{said}: of a change only the most can be guaranteed: write {bound.quantity}<=VALUE"
        )
