"""sweep: the grid in one call; Run: what came of it, read back from its directory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from steerkit.analysis.choosing import Rule, choose_cell
from steerkit.analysis.frontier import actuator_frontiers, pareto_frontier
from steerkit.analysis.risk_coverage import RiskCoverage, risk_coverage
from steerkit.analysis.summary import Row, summarise
from steerkit.engines.base import Decoding, Request
from steerkit.interventions.decoration import Decoration
from steerkit.interventions.spec import parse_range
from steerkit.interventions.steering import Operation, ProbeGate, Scope
from steerkit.interventions.vector import SteeringVector, load_vector
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory, RunWriter
from steerkit.runs.protocol import Environment, Protocol
from steerkit.suites.suite import load_suite
from steerkit.sweeps.carrier import SweepEngine, carrier
from steerkit.sweeps.grid import Cell, build_grid, decoration_digests, vector_digests
from steerkit.sweeps.runner import Progress, run_sweep


class Run:
    """A sweep's directory, read: its rows, its frontier, its report."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.directory = RunDirectory(path)
        self.path: Path = self.directory.path

    def summary(self) -> list[Row]:
        """One row a cell, unsteered first, with 95% intervals (paired bootstrap over groups of items)."""
        return summarise(self.directory.records())

    def frontier(self, first: str = "abstention_recall", second: str = "over_abstention") -> list[Row]:
        """The cells that no other cell matches in both metrics and beats in one."""
        return pareto_frontier(self.summary(), first, second)

    def actuator_frontiers(
        self, first: str = "abstention_recall", second: str = "over_abstention"
    ) -> dict[str, list[Row]]:
        """The frontier of each actuator (vector, decoration or both) by name."""
        return actuator_frontiers(self.summary(), first, second)

    def risk_coverage(self) -> RiskCoverage | None:
        """How often each cell answers and errs, and the curves of gates; see `steerkit.analysis.risk_coverage`."""
        return risk_coverage(self.directory.records())

    def choose(self, rule: Rule | str, bounds: Mapping[str, float] | None = None) -> Row | None:
        """The best cell by a rule such as `"recall s.t. over_abstention<=0.05"`; see `choose_cell`.

        Choose on one split, report on another: `choose_then_report` does both.
        """
        return choose_cell(self.summary(), rule, bounds)

    def report(self) -> Path:
        """Write `summary.csv`, the plots and `report.html` into the run's directory; returns the page."""
        from steerkit.report.page import write_report  # the one lazy call up, so that a run can show itself

        return write_report(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def open_run(path: str | os.PathLike[str]) -> Run:
    """A run that an earlier sweep wrote."""
    return Run(path)


def sweep(
    model: LanguageModel | SweepEngine,
    vectors: Sequence[SteeringVector | str | os.PathLike[str]],
    *,
    layers: str | Sequence[int],
    strengths: str | Sequence[float],
    out: str | os.PathLike[str],
    suite: str | os.PathLike[str] = "abstention",
    split: str = "choose",
    limit: int | None = None,
    scopes: Sequence[Scope] = ("completion",),
    operation: Operation = "add",
    target: float | None = None,
    control_strengths: str | Sequence[float] | None = None,
    gates: Sequence[ProbeGate | None] = (None,),
    decorations: Sequence[Decoration] = (),
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
    system: str | None = None,
    batch_size: int | None = None,
    perplexity: bool = False,
    allow_mismatch: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure every vector at every layer, strength and scope on a suite, beside the unsteered model.

    `model` is a loaded model, or an engine that runs one elsewhere: `VllmEngine`, `ServerEngine`. The records are
    the same, and a greedy run that one engine began another may go on with; sampled tokens are drawn by the engine.
    What an engine cannot do is refused before the run is begun.

    `layers` and `strengths` are sequences or ranges as the command line writes them (`"8:16:4"`, the stop
    included). A random direction of the same norm stands beside every cell, or only at `control_strengths`.
    Every cell is measured under each of `gates`, None for ungated; `decorations` are cells of their own.
    Records go to the run directory `out` as they come; calling again with the same arguments resumes, with
    more layers, strengths, vectors or items extends. `limit` takes a balanced part of the split's items.
    Raises ProtocolMismatchError where `out` holds another experiment, RunLockedError where another process
    is writing to it.
    """
    cells = grid_cells(
        vectors,
        layers,
        strengths,
        scopes=scopes,
        operation=operation,
        target=target,
        control_strengths=control_strengths,
        gates=gates,
        decorations=decorations,
        seed=seed,
    )
    return measure_cells(
        model,
        cells,
        out=out,
        suite=suite,
        split=split,
        limit=limit,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        system=system,
        batch_size=batch_size,
        perplexity=perplexity,
        allow_mismatch=allow_mismatch,
        command=command,
        progress=progress,
    )


def grid_cells(
    vectors: Sequence[SteeringVector | str | os.PathLike[str]],
    layers: str | Sequence[int],
    strengths: str | Sequence[float],
    *,
    scopes: Sequence[Scope] = ("completion",),
    operation: Operation = "add",
    target: float | None = None,
    control_strengths: str | Sequence[float] | None = None,
    gates: Sequence[ProbeGate | None] = (None,),
    decorations: Sequence[Decoration] = (),
    seed: int = 0,
) -> list[Cell]:
    """The cells of a sweep's grid, from its arguments; see `sweep` and `build_grid`."""
    return build_grid(
        [v if isinstance(v, SteeringVector) else load_vector(v) for v in vectors],
        parse_range(layers, int, what="layers") if isinstance(layers, str) else layers,
        _numbers(strengths, "strengths"),
        scopes,
        operation,
        target,
        control_strengths=None
        if control_strengths is None
        else _numbers(control_strengths, "control strengths"),
        random_seed=seed,
        gates=gates,
        decorations=decorations,
    )


def measure_cells(
    model: LanguageModel | SweepEngine,
    cells: Sequence[Cell],
    *,
    out: str | os.PathLike[str],
    suite: str | os.PathLike[str] = "abstention",
    split: str = "choose",
    limit: int | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
    system: str | None = None,
    batch_size: int | None = None,
    perplexity: bool = False,
    allow_mismatch: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure just these cells on a suite; everything else is as in `sweep`."""
    engine = carrier(model, batch_size, allow_mismatch=allow_mismatch)
    whole = load_suite(suite)
    items = whole.split(split)
    if limit is not None:
        items = items.limit(limit)
    decoding = Decoding(max_new_tokens, temperature, top_p, seed)
    # Before the run is begun: what cannot be carried out must not leave a run behind.
    for cell in cells:
        asked = Request(items.items[0].prompt, cell.steerings, decoding, system, decoration=cell.decoration)
        engine.check(asked)
    for item in items.items:
        engine.check(Request(item.prompt, (), decoding, system))
    protocol = Protocol(
        suite=whole.name,
        suite_digest=whole.digest,
        split=split,
        model=engine.model.name,
        fingerprint=engine.model.fingerprint,
        template_digest=engine.model.renderer.digest,
        dtype=engine.dtype,
        decoding=decoding,
        samples=samples,
        system=system,
        vectors=vector_digests(cells),
        decorations=decoration_digests(cells),
    )
    environment = Environment.current(engine.batch_size, command)
    environment = replace(environment, versions={**environment.versions, "engine": engine.name})
    with RunWriter(out, protocol, environment) as writer:
        run_sweep(engine, items.items, cells, writer, perplexity=perplexity, progress=progress)
    return Run(out)


def _numbers(values: str | Sequence[float], what: str) -> Sequence[float]:
    return parse_range(values, float, what=what) if isinstance(values, str) else values
