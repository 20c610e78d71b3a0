"""compare: several actuators, with and without a gate, under several rules, each chosen once and reported once.

    OUT/choose        every cell without its gate, and one cell under each gate, on the split `choose`
    OUT/choices.json  what each rule picks of each actuator, written before anything is measured on `report`
    OUT/report        the picks without their gates, random directions beside them, and what else is asked for

Gated cells are put together from these (see `steerkit.analysis.gating`), so that thresholds cost nothing. OUT takes no
other choices once `report` has begun: a second look at it would be a choice on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from steerkit.analysis.choosing import Choice, Rule, choose_cell, parse_rule
from steerkit.analysis.frontier import by_actuator
from steerkit.analysis.gating import composed, detector_of, gate_of, without_gates
from steerkit.analysis.outcomes import Outcomes, collect
from steerkit.analysis.run import Run
from steerkit.analysis.summary import Row, summarise
from steerkit.core.errors import InputError, MisuseError
from steerkit.core.files import replacing
from steerkit.core.progress import shows_progress
from steerkit.engines.base import Engine, steerings_of
from steerkit.interventions.gate import RowGate
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell, RunCell
from steerkit.sweeps.confirmation import check_measurable, relative_doses
from steerkit.sweeps.grid import distinct, with_steerings
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.runner import Progress
from steerkit.sweeps.sweep import sweep

CHOICES_FILE = "choices.json"
_CHOICES = TypeAdapter(dict[str, dict[str, Choice | None]])


@dataclass(frozen=True)
class Measured:
    """Cells that were measured in `run`, and those put together from them: outcomes, and a row each."""

    run: Run
    cells: tuple[Cell, ...]
    outcomes: Outcomes
    rows: tuple[Row, ...]

    def row(self, cell: Cell) -> Row:
        """Return the cell's row. Raises MisuseError for a cell that is not there."""
        found = next((row for row in self.rows if row.cell == cell.id), None)
        if found is None:
            raise MisuseError(f"{cell!r} was not measured in {self.run.path}")
        return found


@dataclass(frozen=True)
class Comparison:
    """What the rules picked on `choose`, and both measurements.

    `picks[rule][actuator]` is a cell, None where none meets the bounds; an actuator under a gate is one of its own, as
    `steerkit.analysis.frontier.actuator` names it. `controls` are random directions of a pick's norms, by its id.
    """

    rules: Mapping[str, Rule]
    picks: Mapping[str, Mapping[str, Cell | None]]
    controls: Mapping[str, tuple[Cell, ...]]
    choose: Measured
    report: Measured

    @property
    def chosen(self) -> list[Cell]:
        """Every cell that was picked, each once."""
        return distinct(cell for cell in _cells(self.picks))


@shows_progress("comparing")
def compare(
    model: LanguageModel | Engine,
    cells: Iterable[Cell],
    rules: Mapping[str, Rule | str],
    measurement: Measurement = Measurement(),
    *,
    out: str | os.PathLike[str],
    gates: Sequence[RowGate] = (),
    seeds: Mapping[str, int] | None = None,
    whole: Iterable[str] = (),
    progress: Progress | None = None,
) -> Comparison:
    """Choose a cell of each actuator by each rule on the split `choose`, and measure them once on `report`.

    `cells` are ungated; every one of them is considered under each of `gates` too. `seeds` says how many random
    directions stand beside the picks of a vector (by its name; 1 by default). Of the vectors named in `whole` every
    ungated cell is measured on `report`, chosen or not, for what is said of all of them together. Resumable as `sweep`.

    Raises MisuseError, before anything is measured, for a rule that cannot be read or that the suite cannot answer and
    for a cell that has a gate already; and where OUT has measured other choices on `report`.
    """
    read = {name: parse_rule(rule) if isinstance(rule, str) else rule for name, rule in rules.items()}
    if measurement.split != "choose":
        raise MisuseError("choosing and reporting use the splits choose and report: leave split out")
    for rule in read.values():
        check_measurable(rule, measurement)
    acting = [cell for cell in distinct(cells) if cell.interventions]
    if any(gate_of(cell) for cell in acting):
        raise MisuseError("cells are given without their gate, and the gates apart (gates)")
    gated = [under(cell, gate) for cell in acting for gate in gates]
    wide = measure([*acting, *gated], model, measurement, Path(out) / "choose", progress)
    picks = _picks(wide, [*acting, *gated], read)
    _write(Path(out), picks, {name: str(rule) for name, rule in read.items()})
    controls = {cell.id: tuple(_controls(cell, seeds or {})) for cell in distinct(_cells(picks))}
    several = [*_cells(picks), *(each for some in controls.values() for each in some)]
    several += [
        cell for cell in acting if {s.vector.name for s in steerings_of(cell.interventions)} & set(whole)
    ]
    several += [cell for cell in gated if without_gates(cell).id in {each.id for each in several}]
    narrow = measure(several, model, measurement.on("report"), Path(out) / "report", progress)
    return Comparison(read, picks, controls, wide, narrow)


def measure(
    cells: Iterable[Cell],
    model: LanguageModel | Engine,
    measurement: Measurement,
    out: Path,
    progress: Progress | None = None,
) -> Measured:
    """Return what the cells and the unsteered model do, gated ones put together from cells without their gate.

    Those are measured, and of the cells under one probe or detector the first. Raises as `sweep` does.
    """
    asked = distinct([Cell(), *cells])
    ungated = distinct(without_gates(cell) for cell in asked)
    readers = {detector_of(gate): cell for cell in reversed(asked) if (gate := gate_of(cell))}
    direct = distinct([*ungated, *readers.values()])
    run = sweep(model, direct, measurement, out=out, progress=progress)
    records = list(run.records({cell.id for cell in direct}))
    outcomes = collect([*records, *composed(records, asked, direct)], run.metrics)
    every = distinct([*direct, *asked])
    rows = summarise(outcomes, {cell.id: RunCell.of(cell) for cell in every})
    return Measured(run, tuple(every), outcomes, tuple(rows))


def under(cell: Cell, gate: RowGate) -> Cell:
    """Return the cell with all of its interventions under a gate."""
    return Cell(tuple(replace(each, gate=gate) for each in cell.interventions), cell.controls)  # type: ignore[type-var]


def _picks(
    wide: Measured, cells: Sequence[Cell], rules: Mapping[str, Rule]
) -> dict[str, dict[str, Cell | None]]:
    """What each rule picks of each actuator; ties go to the smaller dose."""
    by_id, doses = {cell.id: cell for cell in cells}, relative_doses(cells)
    actuators = by_actuator([row for row in wide.rows if row.cell in by_id])
    return {
        name: {
            actuator: by_id[row.cell] if (row := choose_cell(rows, rule, doses=doses)) else None
            for actuator, rows in actuators.items()
        }
        for name, rule in rules.items()
    }


def _cells(picks: Mapping[str, Mapping[str, Cell | None]]) -> Iterator[Cell]:
    return (cell for by_actuator in picks.values() for cell in by_actuator.values() if cell is not None)


def _controls(cell: Cell, seeds: Mapping[str, int]) -> Iterator[Cell]:
    """Random directions of the cell's norms under its gate, as many as its first vector is to have."""
    steerings = steerings_of(cell.interventions)
    controlled = " + ".join(steering.vector.name for steering in steerings)
    for seed in range(seeds.get(steerings[0].vector.name, 1) if steerings else 0):

        def random(steering: Steering, seed: int = seed) -> Steering:
            return replace(steering, vector=steering.vector.random_control(seed))

        yield Cell(with_steerings(cell.interventions, random), controlled)


def _write(out: Path, picks: Mapping[str, Mapping[str, Cell | None]], rules: Mapping[str, str]) -> None:
    """Write the choices. Raises MisuseError where others were measured on `report` already."""
    choices: dict[str, dict[str, Choice | None]] = {
        name: {
            actuator: Choice(rule=rules[name], cell=cell.id, spec=RunCell.of(cell).spec) if cell else None
            for actuator, cell in chosen.items()
        }
        for name, chosen in picks.items()
    }
    path = out / CHOICES_FILE
    try:
        earlier = _CHOICES.validate_json(path.read_bytes()) if path.is_file() else choices
    except ValidationError as error:
        raise InputError(f"{path} is damaged: start again with another folder (out)") from error
    if earlier != choices and (out / "report").exists():
        raise MisuseError(
            f"{out} has measured other choices on report already: name another place (out) (a copy of its folder "
            "choose saves the grid)"
        )
    with replacing(path, "the choices") as scratch:
        scratch.write_bytes(_CHOICES.dump_json(choices, indent=2) + b"\n")
