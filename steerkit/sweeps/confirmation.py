"""choose_then_report: the grid on one split, the cell that the rule picks, and that cell once on another.

    OUT/choose   the grid, on the split `choose`
    OUT/report   the chosen cell beside the unsteered model, its negative, and a random direction of the same
                 norm, on the split `report`; `choice.json` there says which rule chose it

`choice.json` is written before anything is measured on `report`, and OUT takes no other choice after that:
a second look at `report` would be a choice on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steerkit.analysis.choosing import (
    Choice,
    Rule,
    choose_cell,
    nearest_cell,
    parse_rule,
    read_choice,
    write_choice,
)
from steerkit.analysis.summary import Row
from steerkit.core.errors import MisuseError
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.suites.suite import load_suite
from steerkit.sweeps.carrier import SweepEngine
from steerkit.sweeps.grid import Cell, distinct
from steerkit.sweeps.sweep import Run, grid_cells, measure_cells

GRID_OPTIONS = (
    "scopes",
    "operation",
    "target",
    "gates",
    "decorations",
)  # of `sweep`; the others say how to measure


@dataclass(frozen=True)
class Confirmation:
    """What was chosen, and what came of it.

    `chosen` is the cell's row on `choose`; None, and then `report` too, where no cell meets the bounds.
    `nearest` is then the one that comes nearest.
    """

    rule: Rule
    choose: Run
    report: Run | None
    chosen: Row | None
    nearest: Row | None


def choose_then_report(
    model: LanguageModel | SweepEngine,
    vectors: Sequence[SteeringVector | str | os.PathLike[str]],
    rule: Rule | str,
    *,
    layers: str | Sequence[int],
    strengths: str | Sequence[float],
    out: str | os.PathLike[str],
    control_strengths: str | Sequence[float] | None = (),
    seed: int = 0,
    **options: Any,
) -> Confirmation:
    """Sweep the grid on the split `choose`, pick a cell by the rule, measure it once on `report`.

    The rule is a text such as `"recall s.t. over_abstention<=0.05"` (see `steerkit.analysis.choosing`); among
    ties the cell with the smallest relative dose wins, or the smallest strength where a vector does not know
    the norm of the states. `options` are those of `sweep`, without `split`; `limit` holds for each split.

    The grid has no random controls unless `control_strengths` asks for some: the chosen cell gets its own on
    `report`, and stands there beside the decoration that is best by the rule, if the grid has any. Resumable
    as `sweep` is. Raises MisuseError, before anything is measured, for a rule that cannot be read or that the
    suite cannot answer; and where `out` has measured another choice on `report` already.
    """
    rule = parse_rule(rule) if isinstance(rule, str) else rule
    if "split" in options:
        raise MisuseError("choosing and reporting use the splits choose and report: leave split out")
    _check_measurable(rule, options.get("suite", "abstention"), bool(options.get("perplexity")))
    earlier = read_choice(Path(out) / "report")
    if earlier is not None and earlier.rule != str(rule):
        raise MisuseError(_taken(out, earlier, f"the rule {str(rule)!r}"))

    own = ("scopes", "operation", "target", "gates", "decorations")
    axes = {name: options.pop(name) for name in own if name in options}
    cells = grid_cells(vectors, layers, strengths, control_strengths=control_strengths, seed=seed, **axes)
    wide = measure_cells(model, cells, out=Path(out) / "choose", split="choose", seed=seed, **options)
    asked = {cell.id for cell in cells}
    rows = [row for row in wide.summary() if row.cell in asked]
    doses = relative_doses(cells)
    chosen = choose_cell(rows, rule, doses=doses)
    if chosen is None:
        return Confirmation(rule, wide, None, None, nearest_cell(rows, rule, doses))
    choice = Choice(rule=str(rule), cell=chosen.cell, steering=chosen.steering)
    if earlier is not None and earlier.cell != choice.cell:
        raise MisuseError(_taken(out, earlier, f"{chosen.steering!r}"))
    write_choice(Path(out) / "report", choice)
    by_id = {cell.id: cell for cell in cells}
    shown = companions(by_id[chosen.cell], seed)
    decorated = [row for row in rows if row.role == "decorated"]
    best_decoration = choose_cell(decorated, rule) or nearest_cell(decorated, rule)
    if best_decoration is not None:
        shown = distinct([*shown, by_id[best_decoration.cell]])
    narrow = measure_cells(model, shown, out=Path(out) / "report", split="report", seed=seed, **options)
    return Confirmation(rule, wide, narrow, chosen, None)


def companions(cell: Cell, seed: int = 0) -> list[Cell]:
    """The unsteered model, the cell, its negative, and its random control, those that differ.

    The negative has every strength negated; in the control each vector is a random one of the same norms.
    """
    if not cell.steerings:
        return distinct([Cell(), cell])
    negative = replace(cell, steerings=tuple(replace(s, strength=-s.strength) for s in cell.steerings))
    random = tuple(replace(s, vector=s.vector.random_control(seed)) for s in cell.steerings)
    controls = " + ".join(steering.vector.name for steering in cell.steerings)
    return distinct([Cell(), cell, negative, replace(cell, steerings=random, controls=controls)])


def relative_doses(cells: Sequence[Cell]) -> Mapping[str, float] | None:
    """By cell id, the sum of `|strength| · ||v|| / ||h||` over steerings and layers; a decoration pushes nothing.

    None where a vector does not know the norm of the states: doses and strengths do not compare.
    """
    if any(s.vector.activation_norm is None for cell in cells for s in cell.steerings):
        return None
    return {
        cell.id: sum(
            s.vector.relative_dose(layer, s.strength) or 0.0 for s in cell.steerings for layer in s.layers
        )
        for cell in cells
    }


def _check_measurable(rule: Rule, suite: str | os.PathLike[str], perplexity: bool) -> None:
    """Raise MisuseError where both splits' items cannot give a metric of the rule: before a grid is run for nothing."""
    if "perplexity" in rule.metrics and not perplexity:
        raise MisuseError(
            "the rule reads perplexity, which is measured only when asked for: add --perplexity"
        )
    whole = load_suite(suite)
    for split in ("choose", "report"):
        items = whole.split(split)
        given = {
            "abstention_recall": any(item.should_abstain is True for item in items),
            "over_abstention": any(item.should_abstain is False for item in items),
            "accuracy": any(item.answers is not None for item in items),
        }
        for metric in sorted(rule.metrics):
            if not given.get(metric, True):
                raise MisuseError(
                    f"the rule reads {metric}, which no item of {whole.name} / {split} can give"
                )


def _taken(out: str | os.PathLike[str], earlier: Choice, now: str) -> str:
    return (
        f"{out} has measured {earlier.steering!r} on report already, chosen by {earlier.rule!r}, and now {now} would "
        "have it measure again: name another --out (a copy of its folder choose saves the grid)"
    )
