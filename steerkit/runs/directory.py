"""The run directory: a run as data.

    run.json         the protocol, its readers among it, and the environments that carried it out
    cells.jsonl      a line a cell: its id, its interventions as JSON
    vectors/         every vector and probe of cells and readers, once, as DIGEST.safetensors
    records.jsonl    a line a completion
    scores/          scores that were added afterwards, a file a scorer (see `steerkit.runs.scores`)

What holds, kill -9 included:
1. `run.json`, a vector, a probe are there whole or not at all: written beside their place and renamed into it.
2. A record is one appended line, handed to the operating system before `append` returns. It survives the
   death of the process. Only a clean close waits for the disk (fsync), so a power failure may cost the last
   seconds' records, which a resumed sweep makes again.
3. A cell's vectors, probes and line are on the disk before its first record.
4. A line without its newline is a torn last line. If it is whole it counts, else it is cut off when
   the run is next written to, and overlooked by whoever only reads. A damaged line elsewhere is an error.
5. A record is identified by cell, item and sample, a cell by its id, and stands in its file once.
6. One writer at a time, by an advisory `flock` that dies with its process. Readers need no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from steerkit.core.errors import InputError, MisuseError, RunLockedError, SteerkitError
from steerkit.core.files import fault_of, replacing
from steerkit.runs.cells import Cell, RunCell, stored_part, tensor_file
from steerkit.runs.protocol import Environment, Protocol
from steerkit.runs.record import Key, Record
from steerkit.runs.scores import read_scores

if TYPE_CHECKING:
    from steerkit.interventions.readers import Reader

RUN_FILE, CELLS_FILE, RECORDS_FILE, LOCK_FILE = "run.json", "cells.jsonl", "records.jsonl", ".lock"
VECTORS_FOLDER, SCORES_FOLDER = "vectors", "scores"
REMEDY = (
    "free space or choose a folder that you may write to, and run the same command again: finished records are "
    "kept"
)

T = TypeVar("T")


class RunFile(BaseModel):
    """`run.json`. `environments` holds each environment that wrote to the run, the latest last."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    protocol: Protocol
    environments: list[Environment]


class RecordIndex:
    """Which (cell, item, sample) are recorded: exact, one bit a record."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, int], int] = {}
        self._rows: defaultdict[str, bytearray] = defaultdict(bytearray)

    def __contains__(self, key: Key) -> bool:
        cell, item, sample = key
        row, place = self._rows.get(cell, b""), self._columns.get((item, sample))
        return place is not None and place >> 3 < len(row) and bool(row[place >> 3] >> (place & 7) & 1)

    def add(self, key: Key) -> bool:
        """Mark a record as there; whether it was not."""
        cell, item, sample = key
        place = self._columns.setdefault((item, sample), len(self._columns))
        row, byte, bit = self._rows[cell], place >> 3, 1 << (place & 7)
        if byte >= len(row):
            row.extend(bytes(byte + 1 - len(row)))
        elif row[byte] & bit:
            return False
        row[byte] |= bit
        return True


class RunDirectory:
    """A run on disk, read while or after it is written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises MisuseError where there is no run, InputError where `run.json` is damaged."""
        if not isinstance(path, str | os.PathLike):
            raise MisuseError(f"a run is named by its folder, got {type(path).__name__}")
        self.path = Path(path)
        if not (self.path / RUN_FILE).is_file():
            raise MisuseError(
                f"{self.path} holds no run (no {RUN_FILE}): name the folder of a sweep (its out)"
            )
        with _explained(self.path):
            run = _read_run_file(self.path / RUN_FILE)
        self.protocol = run.protocol
        self.environments = run.environments

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def scores_folder(self) -> Path:
        """Where scores are kept that were added afterwards."""
        return self.path / SCORES_FOLDER

    @property
    def cells(self) -> dict[str, RunCell]:
        """The cells by id, in the order in which they were added; those without records too."""
        with _explained(self.path):
            return {cell.id: cell for cell, _ in _cells(self.path)}

    @property
    def readers(self) -> tuple[Reader, ...]:
        """What is read of each row, in the protocol's order, from the run's own files alone.

        Raises InputError where a vector or probe is not there or has other contents than it had.
        """
        from steerkit.interventions.store import (  # heavy, and not needed to read a run
            Store,
            reader_from_json,
        )

        parts = [
            stored_part(self.path / VECTORS_FOLDER, noun, form[noun]["sha256"], f"a reader of {self.path}")
            for form in self.protocol.readers
            for noun in ("vector", "probe")
            if noun in form
        ]
        store = Store(parts, files=False)
        return tuple(reader_from_json(form, store) for form in self.protocol.readers)

    def cell(self, cell: str) -> RunCell:
        """Return the cell of this id, or of the one id that begins so. Raises MisuseError where there is not one."""
        cells = self.cells
        found = [each for name, each in cells.items() if name.startswith(cell)]
        if len(found) != 1:
            what = f"{len(found)} cells that begin with" if found else "no cell"
            raise MisuseError(f"{self.path} has {what} {cell!r}: its cells are {', '.join(cells) or 'none'}")
        return found[0]

    def records(self, cells: Collection[str] | None = None) -> Iterator[Record]:
        """Yield the records in file order, those of some cells (ids) alone if given; one is in memory at a time.

        Scores that were added afterwards stand beside those of the sweep, and are held in memory. Raises InputError
        at the first line that is damaged or, among those that are read, repeated.
        """
        added = read_scores(self.scores_folder)
        wanted = None if cells is None else [cell.encode() for cell in cells]
        with _explained(self.path):
            for record, _ in _records(self.path / RECORDS_FILE, RecordIndex(), wanted):
                if cells is None or record.cell in cells:
                    more = added.get(record.key) if added else None
                    yield replace(record, scores={**record.scores, **more}) if more else record


class RunWriter:
    """The one writer of a run directory; `key in writer` says whether a record is there already.

    Opening begins the run or continues it; `cells` are those to be measured, with their vectors, and `readers` those of
    the protocol, with theirs. Raises RunLockedError
    while another process writes, ProtocolMismatchError where the recorded protocol is another one, InputError where a
    file is damaged, SteerkitError where the folder cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        protocol: Protocol,
        environment: Environment,
        cells: Sequence[Cell] = (),
        readers: Sequence[Reader] = (),
    ) -> None:
        self.path = Path(path)
        self._index = RecordIndex()
        with contextlib.ExitStack() as opened, _explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            opened.enter_context(_locked(self.path))
            run = _begun_or_continued(self.path, protocol, environment)
            self.protocol = run.protocol
            _repair(self.path / RECORDS_FILE, _records(self.path / RECORDS_FILE, self._index))
            _repair(self.path / CELLS_FILE, _cells(self.path))
            _write_run_file(self.path / RUN_FILE, run)  # only now: damaged files leave the run as it was
            self._cells = _add_cells(self.path, cells, readers)
            self._file: BinaryIO = opened.enter_context((self.path / RECORDS_FILE).open("ab", buffering=0))
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._opened, _explained(self.path):
            os.fsync(self._file.fileno())

    def __contains__(self, key: Key) -> bool:
        return key in self._index

    def append(self, record: Record) -> None:
        """Write one record; SteerkitError, and nothing half-written, where the disk is full.

        A record that is there already, or of an unknown cell, is a ValueError: asking first is the caller's part.
        """
        if record.key in self._index:
            raise ValueError(f"record {record.key} is in {self.path} already")
        if record.cell not in self._cells:
            raise ValueError(f"cell {record.cell!r} is not one of {self.path}")
        line = record.to_line()
        with _explained(self.path):
            _append_whole(self._file, line)
        self._index.add(record.key)


def _append_whole(file: BinaryIO, line: bytes) -> None:
    """Append all of `line`, or leave the file as it was and raise OSError."""
    start, written = file.seek(0, os.SEEK_END), 0
    try:
        while written < len(line):
            written += file.write(line[written:])
    except OSError:
        file.truncate(start)
        raise


def _records(
    path: Path, index: RecordIndex, wanted: Collection[bytes] | None = None
) -> Iterator[tuple[Record, bytes]]:
    """Each record with its line; marks them in `index`. Lines that hold none of `wanted` are not looked at."""
    for number, line, record in _whole_lines(path, Record.from_line, "record", wanted):
        if not index.add(record.key):
            raise InputError(f"{path}, line {number}: repeats record {record.key}; delete one of the two")
        yield record, line


def _cells(path: Path) -> Iterator[tuple[RunCell, bytes]]:
    """Each cell of the run at `path` with its line."""
    known: set[str] = set()
    file, folder = path / CELLS_FILE, path / VECTORS_FOLDER
    for number, line, cell in _whole_lines(file, lambda line: RunCell.from_line(line, folder), "cell"):
        if cell.id in known:
            raise InputError(f"{file}, line {number}: repeats cell {cell.id}; delete one of the two")
        known.add(cell.id)
        yield cell, line


def _whole_lines(
    path: Path, parse: Callable[[bytes], T], what: str, wanted: Collection[bytes] | None = None
) -> Iterator[tuple[int, bytes, T]]:
    """Each line with its number and what it says, a torn last line left out."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if wanted is not None and not any(text in line for text in wanted):
                continue
            try:
                parsed = parse(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise InputError(
                    f"{path}, line {number}: not a {what} ({error}); delete that line and run the same sweep again "
                    "to have it made anew"
                ) from error
            yield number, line, parsed


def _repair(path: Path, lines: Iterator[tuple[object, bytes]]) -> None:
    """Read all lines, cut off a torn last one, and close a whole one that lacks its newline."""
    if not path.exists():
        return
    end, last = 0, b"\n"
    for _, last in lines:
        end += len(last)
    os.truncate(path, end)
    if not last.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def _add_cells(path: Path, cells: Sequence[Cell], readers: Sequence[Reader]) -> set[str]:
    """Write the vectors and lines that the run does not have yet; the ids of all cells that it has."""
    from steerkit.interventions.store import Store, tensors_of  # heavy, and not needed to read a run

    known = {cell.id for cell, _ in _cells(path)}
    added = {cell.id: cell for cell in cells if cell.id not in known}
    parts = tensors_of(each for cell in cells for each in cell.interventions)
    for part in (*parts, *(part for reader in readers for part in reader.tensors)):
        file = tensor_file(path / VECTORS_FOLDER, part.digest)
        if not file.exists():
            with part.save(file).open("rb") as saved:
                os.fsync(saved.fileno())  # waits until its contents are on the disk
    if added:
        names = Store(parts).name_of
        lines = b"".join(cell.to_line(names) for cell in added.values())
        with (path / CELLS_FILE).open("ab", buffering=0) as cells_file:
            _append_whole(cells_file, lines)
            os.fsync(cells_file.fileno())
    return known | added.keys()


def _begun_or_continued(path: Path, protocol: Protocol, environment: Environment) -> RunFile:
    """Return the run file of this protocol: a new one, or the recorded one with this environment added."""
    environments = [environment]
    if (path / RUN_FILE).exists():
        recorded = _read_run_file(path / RUN_FILE)
        protocol.check_continues(recorded.protocol)
        for change in environment.version_changes(recorded.environments[-1]):
            warnings.warn(f"{path} was last written with other software: {change}", stacklevel=3)
        environments = [*(other for other in recorded.environments if other != environment), environment]
    elif (path / RECORDS_FILE).exists():
        raise InputError(
            f"{path} has {RECORDS_FILE} but no {RUN_FILE}: not a run to continue; name another place (out)"
        )
    return RunFile(protocol=protocol, environments=environments)


def _write_run_file(path: Path, run: RunFile) -> None:
    with replacing(path, "the run", REMEDY) as scratch, scratch.open("w", encoding="utf-8") as file:
        file.write(run.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read_run_file(path: Path) -> RunFile:
    try:
        run = RunFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} is {fault_of(error)}; start a new run with another folder (out)") from error
    if not run.environments:
        raise InputError(
            f"{path} names no environment that wrote it; start a new run with another folder (out)"
        )
    return run


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the run's writer lock, or raise RunLockedError."""
    with (path / LOCK_FILE).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunLockedError(
                f"another process is writing to {path}: wait until it ends, or name another place (out)"
            ) from error
        yield


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one line that names the run."""
    try:
        yield
    except OSError as error:
        raise SteerkitError(f"cannot read or write the run {path}: {error.strerror}; {REMEDY}") from error
