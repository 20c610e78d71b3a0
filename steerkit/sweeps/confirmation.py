"""choose_then_report: the grid on one split, the cell that the rule picks, and that cell once on another.

    OUT/choose   the grid, on the split `choose`
    OUT/report   the chosen cell beside the unsteered model, its negative, and a random direction of the same
                 norm, on the split `report`; `choice.json` there says which rule chose it

`choice.json` is written before anything is measured on `report`, and OUT takes no other choice after that:
a second look at `report` would be a choice on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from steerkit.analysis.choosing import (
    CertifiedBound,
    Choice,
    Rule,
    choose_cell,
    nearest_cell,
    parse_rule,
    read_choice,
    write_choice,
)
from steerkit.analysis.guarantees import (
    Certification,
    Guarantee,
    certify_cells,
    parse_guarantee,
    sequences_of,
)
from steerkit.analysis.run import Run
from steerkit.analysis.summary import Row
from steerkit.core.errors import MisuseError
from steerkit.core.learn_then_test import check_enough
from steerkit.core.progress import shows_progress
from steerkit.engines.base import Engine, steerings_of
from steerkit.engines.catalogue import engine_for
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell, RunCell
from steerkit.scoring.metrics import Metric, metrics, scorers_of
from steerkit.suites.items import SuiteItem
from steerkit.sweeps.grid import Grid, distinct, with_steerings
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.runner import Progress
from steerkit.sweeps.sweep import sweep


@dataclass(frozen=True)
class Confirmation:
    """What was chosen, and what came of it.

    `chosen` is the cell's row on `choose`; None, and then `report` too, where no cell meets the bounds.
    `nearest` is then the one that comes nearest. `certification` is what the guarantee found, and `bound` what is
    guaranteed of the chosen cell, where one was asked for.
    """

    rule: Rule
    choose: Run
    report: Run | None
    chosen: Row | None
    nearest: Row | None
    certification: Certification | None = None
    bound: CertifiedBound | None = None


@shows_progress("choosing, then reporting")
def choose_then_report(
    model: LanguageModel | Engine,
    grid: Grid,
    rule: Rule | str,
    measurement: Measurement = Measurement(),
    *,
    guarantee: Guarantee | str | None = None,
    out: str | os.PathLike[str],
    batch_size: int | None = None,
    allow_mismatch: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
) -> Confirmation:
    """Sweep the grid on the split `choose`, pick a cell by the rule, measure it once on `report`.

    The rule is a text such as `"recall s.t. over_abstention<=0.05"` (see `steerkit.analysis.choosing`); among
    ties the cell with the smallest relative dose wins, or the smallest strength where a vector does not know
    the norm of the states. The other arguments are those of `sweep`; `limit` holds for each split.

    With a `guarantee` such as `"over_abstention<=0.1@95%"` only cells of which it holds can be chosen: they are tested
    on `choose` in an order that the grid fixes (`steerkit.analysis.guarantees`), and `choice.json` says the bound.

    The grid has no random controls unless its `control_strengths` ask for some: the chosen cell gets its own on
    `report`, and stands there beside the edit that is best by the rule, if the grid has any. Resumable as `sweep` is.
    Raises MisuseError, before anything is measured, for a rule that cannot be read or that the suite cannot answer, for
    a guarantee that no data of so few groups can give, and where `out` has measured another choice on `report` already.
    """
    rule = parse_rule(rule) if isinstance(rule, str) else rule
    if measurement.split != "choose":
        raise MisuseError("choosing and reporting use the splits choose and report: leave split out")
    check_measurable(rule, measurement)
    promise = None if guarantee is None else parse_guarantee(guarantee)
    if promise is not None:
        check_guarantee(promise, grid, measurement)
    earlier = read_choice(Path(out) / "report")
    asked = str(rule) + (f" with {promise}" if promise is not None else "")
    if earlier is not None and earlier.asked != asked:
        raise MisuseError(_taken(out, earlier, f"the rule {asked!r}"))

    def measured(cells: Sequence[Cell], split: str) -> Run:
        return sweep(
            engine, cells, measurement.on(split), out=Path(out) / split, command=command, progress=progress
        )

    engine = engine_for(model, batch_size, allow_mismatch=allow_mismatch)
    cells = (grid if grid.control_strengths is not None else replace(grid, control_strengths=())).cells()
    by_id = {cell.id: cell for cell in cells}
    wide = measured(cells, "choose")
    rows = [row for row in wide.summary() if row.cell in by_id]
    doses = relative_doses(cells)
    held = None if promise is None else certify_cells(wide.outcomes, _run_cells(cells), promise)
    fit = rows if held is None else [row for row in rows if row.cell in held.certified]
    chosen = choose_cell(fit, rule, doses=doses)
    if chosen is None:
        return Confirmation(rule, wide, None, None, nearest_cell(fit, rule, doses), held)
    source = f"{measurement.whole.name} / choose"
    bound = None if held is None else held.bound_of(chosen.cell, source)
    choice = Choice(rule=str(rule), cell=chosen.cell, spec=chosen.at.spec, bound=bound)
    if earlier is not None and earlier.cell != choice.cell:
        raise MisuseError(_taken(out, earlier, repr(choice.spec)))
    write_choice(Path(out) / "report", choice)
    shown = companions(by_id[chosen.cell], grid.seed)
    edited = [row for row in rows if row.role == "edited"]
    best_edit = choose_cell(edited, rule) or nearest_cell(edited, rule)
    if best_edit is not None:
        shown = distinct([*shown, by_id[best_edit.cell]])
    return Confirmation(rule, wide, measured(shown, "report"), chosen, None, held, bound)


def companions(cell: Cell, seed: int = 0) -> list[Cell]:
    """Return the unsteered model, the cell, its edits alone, its negative, and its random control, those that differ.

    The negative has every strength negated; in the control each vector is a random one of the same norms.
    """
    steerings = steerings_of(cell.interventions)
    cells = [Cell(), cell, Cell(tuple(each for each in cell.interventions if each not in steerings))]
    if steerings:
        controls = " + ".join(steering.vector.name for steering in steerings)
        negative = with_steerings(cell.interventions, lambda s: replace(s, strength=-s.strength))
        random = with_steerings(
            cell.interventions, lambda s: replace(s, vector=s.vector.random_control(seed))
        )
        cells += [Cell(negative), Cell(random, controls=controls)]
    return distinct(cells)


def relative_doses(cells: Iterable[Cell]) -> Mapping[str, float] | None:
    """Return, by cell id, the sum of `|strength| · ||v|| / ||h||` over steerings and layers; an edit pushes nothing.

    None where a vector does not know the norm of the states: doses and strengths do not compare.
    """
    doses: dict[str, float] = {}
    for cell in cells:
        steerings = steerings_of(cell.interventions)
        if any(steering.vector.activation_norm is None for steering in steerings):
            return None
        doses[cell.id] = sum(
            s.vector.relative_dose(layer, s.strength) or 0.0 for s in steerings for layer in s.layers
        )
    return doses


def check_measurable(rule: Rule, measurement: Measurement) -> None:
    """Raise MisuseError where a metric of the rule cannot be measured: before a grid is run for nothing."""
    for name in sorted(rule.metrics):
        _check_scored("the rule reads", name, measurement)


def check_guarantee(guarantee: Guarantee, grid: Grid, measurement: Measurement) -> None:
    """Raise MisuseError where the guarantee cannot be had of this grid, whatever comes of it.

    Its metric cannot be measured, or the split `choose` has fewer groups of items that it concerns than the least
    number, which is named.
    """
    _check_scored("the guarantee bounds", guarantee.metric, measurement)
    metric, on_choose = metrics(measurement.scored_by)[guarantee.metric], measurement.on("choose")
    groups = {item.group for item in on_choose.items if _concerns(metric, item)}
    sequences = len(sequences_of(_run_cells(grid.cells()).values()))
    what = f"groups of items of {measurement.whole.name} / choose" + (
        f" and {sequences} sequences of cells" if sequences > 1 else ""
    )
    check_enough(len(groups), guarantee.limit, guarantee.confidence, max(1, sequences), what)


def _check_scored(what: str, name: str, measurement: Measurement) -> None:
    given = metrics(measurement.scored_by)
    if name not in given:
        scorer = next(each.name for each in scorers_of() if name in metrics([each]))
        raise MisuseError(
            f"{what} {name}, which nothing scores on {measurement.whole.name}: add the scorer {scorer}"
        )
    for split in ("choose", "report"):
        if not any(_concerns(given[name], item) for item in measurement.on(split).items):
            raise MisuseError(f"{what} {name}, which no item of {measurement.whole.name} / {split} can give")


def _run_cells(cells: Iterable[Cell]) -> dict[str, RunCell]:
    return {cell.id: RunCell.of(cell) for cell in cells}


def _concerns(metric: Metric, item: SuiteItem) -> bool:
    """Whether a completion of the item may have the metric."""
    if metric.concerns != "all":
        return item.should_abstain is (metric.concerns == "unanswerable")
    return metric.score != "correct" or item.answers is not None


def _taken(out: str | os.PathLike[str], earlier: Choice, now: str) -> str:
    return (
        f"{out} has measured {earlier.spec!r} on report already, chosen by {earlier.asked!r}, and now {now} would "
        "have it measure again: name another place (out) (a copy of its folder choose saves the grid)"
    )
