"""sweep: a grid, measured, in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Never

from steerkit.analysis.run import Run
from steerkit.core.errors import MisuseError
from steerkit.core.progress import shows_progress
from steerkit.engines.base import Engine, Request
from steerkit.engines.catalogue import engine_for
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell
from steerkit.runs.directory import RunWriter
from steerkit.runs.protocol import Environment, Protocol
from steerkit.suites.suite import Suite
from steerkit.sweeps.grid import Grid, distinct
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.runner import Progress, run_sweep


@shows_progress("sweeping")
def sweep(
    model: LanguageModel | Engine,
    grid: Grid | Sequence[Cell],
    measurement: Measurement | Suite | str | os.PathLike[str] = Measurement(),
    *,
    out: str | os.PathLike[str],
    batch_size: int | None = None,
    allow_mismatch: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
    **misplaced: Never,
) -> Run:
    """Measure every cell of a grid, or just these cells, each content once, beside the unsteered model.

        grid = sk.Grid("abstain.safetensors", layers="8:16:4", strengths=[0.5, 1, 2], axes={"half_life": [None, 64]})
        run = sk.sweep(lm, grid, sk.Measurement(suite="abstention", limit=100), out="runs/first")

    `measurement` may be a suite, by itself or by name, for one with the defaults. `model` is a loaded model, or an
    engine that runs one elsewhere: `VllmEngine`, `ServerEngine`. The records are the same, and a greedy run that one
    engine began another may go on with; sampled tokens are drawn by the engine. `batch_size` and `allow_mismatch`
    (accept vectors of other weights) are for a loaded model; an engine has its own.

    Records go to the run directory `out` as they come; calling again with the same arguments resumes, with more
    cells or items extends. `command` is how to start it again, for the record; `progress` is called with the records
    there and those asked for.

    What belongs to the grid or the measurement is refused here, and it is said where it belongs (`misplaced`). Raises
    MisuseError, before the run is begun, for what the engine cannot do and for a prompt that is too long;
    ProtocolMismatchError where `out` holds another experiment, RunLockedError where another process writes to it.
    """
    if isinstance(measurement, Suite | str | os.PathLike):
        measurement = Measurement(measurement)
    _check_places(grid, measurement, misplaced)
    engine = engine_for(model, batch_size, allow_mismatch=allow_mismatch)
    cells = grid.cells() if isinstance(grid, Grid) else distinct(grid)
    _check(engine, cells, measurement)
    protocol = Protocol(
        suite=measurement.whole.name,
        suite_digest=measurement.whole.digest,
        split=measurement.split,
        model=engine.model.name,
        fingerprint=engine.model.fingerprint,
        template_digest=engine.model.renderer.digest,
        dtype=engine.dtype,
        decoding=measurement.decoding,
        samples=measurement.samples,
        system=measurement.system,
        markers=engine.model.markers,
        scorers=tuple(scorer.name for scorer in measurement.scored_by),
        template_options=dict(engine.model.renderer.options),
        readers=tuple(reader.to_json() for reader in measurement.read_by),
        reading=measurement.reading if measurement.read_by else None,
    )
    environment = Environment.current(engine.batch_size, command)
    environment = replace(environment, versions={**environment.versions, "engine": engine.name})
    readers = measurement.read_by
    with RunWriter(out, protocol, environment, cells, readers) as writer:
        run_sweep(
            engine,
            measurement.items,
            cells,
            writer,
            measurement.scored_by,
            readers=readers,
            progress=progress,
        )
    return Run(out)


def _check_places(grid: object, measurement: object, misplaced: Mapping[str, object]) -> None:
    """Raise MisuseError, saying where it belongs, for what is not given in its place."""
    places = {
        name: cls.__name__ for cls in (Grid, Measurement) for name in (f.name for f in fields(cls) if f.init)
    }
    for name in misplaced:
        if name not in places:
            raise MisuseError(f"a sweep has no argument {name!r}")
    several = [grid] if isinstance(grid, Grid) else grid
    cells = isinstance(several, Sequence) and all(isinstance(each, Grid | Cell) for each in several)
    if misplaced or not cells:
        raise MisuseError(
            "a sweep takes a grid, and what it is measured on: write sk.sweep(lm, sk.Grid(vector, layers=…, "
            "strengths=…), sk.Measurement(suite=…, limit=…), out=…)"
        )
    if not isinstance(measurement, Measurement):
        raise MisuseError(
            "what cells are measured on is a Measurement: write sk.Measurement(suite=…, limit=…)"
        )


def _check(engine: Engine, cells: Sequence[Cell], measurement: Measurement) -> None:
    """Raise MisuseError where the engine refuses a cell, or an item under any of the prompt edits."""
    decoding, system = measurement.decoding, measurement.system
    edits = {tuple(each for each in cell.interventions if isinstance(each, PromptEdit)) for cell in cells}
    for cell in cells:
        request = Request(measurement.items[0].prompt, cell.interventions, decoding, system)
        engine.check(replace(request, readers=measurement.read_by))
    for edit in edits | {()}:
        for item in measurement.items:
            try:
                engine.check(Request(item.prompt, edit, decoding, system))
            except MisuseError as error:
                raise MisuseError(f"item {item.id}: {error}") from error
