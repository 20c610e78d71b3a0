"""Run: what came of a sweep, read from its directory alone."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from steerkit.analysis.choosing import Rule, choose_cell
from steerkit.analysis.frontier import actuator_frontiers, pareto_frontier
from steerkit.analysis.guarantees import Certification, Guarantee, certify_cells
from steerkit.analysis.judging import Judged, judged
from steerkit.analysis.outcomes import Outcomes, collect
from steerkit.analysis.questions import questions
from steerkit.analysis.reliability import ReadCell, read_cells
from steerkit.analysis.risk_coverage import RiskCoverage, risk_coverage
from steerkit.analysis.summary import Row, flat_record, flat_rows, summarise
from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.registry import SCORERS, VIEWS
from steerkit.interventions.readers import Reader
from steerkit.reading.reduction import PER_TOKEN
from steerkit.runs.cells import RunCell
from steerkit.runs.directory import RunDirectory
from steerkit.runs.protocol import Protocol
from steerkit.runs.record import Record
from steerkit.runs.scores import read_settings
from steerkit.scoring.judge import JUDGE
from steerkit.scoring.metrics import Metric, Question, metrics


class Run:
    """A sweep's directory: its cells and records, its rows, its frontier, its report.

    The records are read and resampled once, when a number is first asked for: open a run that has grown again.

        run = sk.open_run("runs/first")
        best = run.choose("recall s.t. over_abstention_rise<=0.05")
        lm_interventions = run.cell(best.cell).interventions
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises MisuseError where there is no run, InputError where it is damaged."""
        self.directory = RunDirectory(path)
        self.path: Path = self.directory.path
        self._read: dict[str | None, list[ReadCell]] = {}

    @property
    def protocol(self) -> Protocol:
        """What all of its records have in common."""
        return self.directory.protocol

    @property
    def cells(self) -> dict[str, RunCell]:
        """Its cells by id."""
        return self.directory.cells

    def cell(self, cell: str) -> RunCell:
        """Return the cell of this id, or of the one id that begins so. Raises MisuseError where there is not one."""
        return self.directory.cell(cell)

    def records(self, cells: Collection[str] | None = None) -> Iterator[Record]:
        """Yield the records in file order, those of some cells (ids) alone if given."""
        return self.directory.records(cells)

    def to_dicts(self, of: Literal["records", "cells"] = "records") -> list[dict[str, Any]]:
        """Return a flat object a record, with what its cell is and its scores; or of `cells` one a cell, as in the CSV.

        A score that is called like a field of a record is under `score_NAME`. Raises MisuseError for anything else.
        """
        if of == "cells":
            return flat_rows(self._rows)
        if of != "records":
            raise MisuseError(f"a run's records or cells are listed, got {of!r}")
        return [flat_record(record, self.cells[record.cell]) for record in self.records()]

    def to_dataframe(self, of: Literal["records", "cells"] = "records") -> Any:
        """Return the same as a pandas DataFrame. Raises SteerkitError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise SteerkitError("pandas is not installed: pip install pandas, or use to_dicts") from None
        return pandas.DataFrame(self.to_dicts(of))

    @functools.cached_property
    def scorers(self) -> tuple[str, ...]:
        """The scorers of its records and of the scores that were added; those that are not installed are left out."""
        named = dict.fromkeys((*self.protocol.scorers, *self._added))
        for name in sorted(named.keys() - set(SCORERS)):
            warnings.warn(f"{self.path} was scored by {name!r}, which is not installed here", stacklevel=2)
        return tuple(name for name in named if name in SCORERS)

    @functools.cached_property
    def _added(self) -> dict[str, Mapping[str, Any]]:
        """The settings of the scores that were added, by scorer."""
        return read_settings(self.directory.scores_folder)

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics of its scorers by name."""
        return metrics(self.scorers)

    @functools.cached_property
    def outcomes(self) -> Outcomes:
        """Its records as arrays."""
        return collect(self.records(), self.metrics)

    @functools.cached_property
    def _rows(self) -> list[Row]:
        return summarise(self.outcomes, self.cells)

    def summary(self) -> list[Row]:
        """Return a row a cell, unsteered first, with 95% intervals (paired bootstrap over groups of items)."""
        return list(self._rows)

    @functools.cached_property
    def questions(self) -> list[Question]:
        """The questions of its scorers that its measurements answer."""
        return questions(self._rows, self.scorers)

    def frontier(self, first: str | None = None, second: str | None = None) -> list[Row]:
        """Return the cells that no other cell matches in both metrics and beats in one.

        By default the two metrics of the run's first question. Raises MisuseError where it answers none.
        """
        return pareto_frontier(self._rows, *self._traded(first, second))

    def actuator_frontiers(self, first: str | None = None, second: str | None = None) -> dict[str, list[Row]]:
        """Return the frontier of each actuator (vector, prompt edit, rule or several of them) by name."""
        return actuator_frontiers(self._rows, *self._traded(first, second))

    def risk_coverage(self) -> RiskCoverage | None:
        """Return how often each cell answers and errs, and the curves of gates; None where that cannot be judged."""
        return risk_coverage(self.outcomes, self.cells)

    def judged(self) -> Judged | None:
        """Return how far a judge agrees with the phrase rules; None where none was asked."""
        settings = self._added.get(JUDGE)
        return None if settings is None else judged(self.outcomes, str(settings.get("model")))

    @property
    def readers(self) -> tuple[Reader, ...]:
        """What read each row, with its vectors and probes, from the run's own files."""
        return self.directory.readers

    def read_cells(self, reduction: str | None = None) -> list[ReadCell]:
        """Return what each reader read in each cell: its mean, how well it tells what to abstain from, the changes.

        Of per-token readings it is the `reduction` that counts: `mean`, which is the default, `max` or `last`. Empty
        where nothing was read.
        """
        chosen = (reduction or "mean") if self.protocol.reading == PER_TOKEN else None
        if chosen not in self._read:
            self._read[chosen] = read_cells(self.records(), self.cells, len(self.protocol.readers), chosen)
        return list(self._read[chosen])

    def choose(self, rule: Rule | str, bounds: Mapping[str, float] | None = None) -> Row | None:
        """Return the best cell by a rule such as `"recall s.t. over_abstention<=0.05"`; see `choose_cell`.

        Choose on one split, report on another: `choose_then_report` does both.
        """
        return choose_cell(self._rows, rule, bounds)

    def certify(self, guarantee: Guarantee | str) -> Certification:
        """Return of which cells a guarantee such as `"over_abstention<=0.1@95%"` holds, all at once.

        The run's cells are the candidates: they must have been fixed before anything was measured. Raises MisuseError
        for a guarantee that cannot be had of the run.
        """
        return certify_cells(self.outcomes, self.cells, guarantee)

    def report(self) -> Path:
        """Write `summary.csv`, the plots and `report.html` into the run's directory and return the page."""
        from steerkit.report.page import write_report  # the one lazy call up, so that a run can show itself

        return write_report(self)

    def _repr_html_(self) -> str:
        return str(VIEWS["run"](self))

    def __repr__(self) -> str:
        protocol = self.protocol
        return f"Run({str(self.path)!r}: {protocol.suite}/{protocol.split}, {protocol.model}, {len(self.cells)} cells)"

    def _traded(self, first: str | None, second: str | None) -> tuple[str, str]:
        if first is not None and second is not None:
            return first, second
        if not self.questions:
            raise SteerkitError(f"{self.path} answers no question that has a trade-off: name two metrics")
        return first or self.questions[0].y, second or self.questions[0].x


def open_run(path: str | os.PathLike[str]) -> Run:
    """Return a run that a sweep wrote. Raises MisuseError where there is none, InputError where it is damaged."""
    return Run(path)
