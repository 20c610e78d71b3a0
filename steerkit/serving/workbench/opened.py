"""Runs that are open in the workbench: read and resampled once, and again only once their files have changed."""

from __future__ import annotations

import functools
from pathlib import Path

from steerkit.analysis.labels import Labels
from steerkit.analysis.run import Run, open_run
from steerkit.analysis.summary import Row
from steerkit.report.side_by_side import Beside, beside_unsteered
from steerkit.runs.directory import CELLS_FILE, RECORDS_FILE

OPEN_RUNS, OPEN_CELLS = 4, 32


class OpenRun:
    """A run with its rows, its labels, and the completions of the cells that were looked at last."""

    def __init__(self, path: Path) -> None:
        """Raises MisuseError where there is no run, InputError where it is damaged."""
        self.run: Run = open_run(path)
        self.rows: list[Row] = self.run.summary()
        self.labels = Labels(self.run.directory)
        self.unsteered = next((row.cell for row in self.rows if row.role == "unsteered"), None)
        self._beside = functools.lru_cache(maxsize=OPEN_CELLS)(self._read)

    def row(self, cell: str) -> Row | None:
        """Return the row of a cell; None where it has no records."""
        return next((row for row in self.rows if row.cell == cell), None)

    def beside(self, cell: str) -> list[Beside]:
        """Return a cell's completions beside the unsteered ones."""
        return self._beside(cell)

    def _read(self, cell: str) -> list[Beside]:
        wanted = {cell} if self.unsteered is None else {cell, self.unsteered}
        return beside_unsteered(self.run.records(wanted), cell, self.unsteered)


def opened(path: Path) -> OpenRun:
    """Return a run, opened anew where it has grown since."""
    return _opened(path, tuple(_state(path / name) for name in (CELLS_FILE, RECORDS_FILE)))


@functools.lru_cache(maxsize=OPEN_RUNS)
def _opened(path: Path, _state: tuple[tuple[int, int], ...]) -> OpenRun:
    return OpenRun(path)


def _state(path: Path) -> tuple[int, int]:
    """Size and time of a file; zeros where there is none."""
    if not path.exists():
        return 0, 0
    found = path.stat()
    return found.st_size, found.st_mtime_ns
