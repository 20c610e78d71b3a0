"""The run directory: `run.json` (the protocol) and `records.jsonl` (one line a completion).

What holds, kill -9 included:
1. `run.json` is there whole or not at all: it is written beside itself and renamed.
2. A record is one appended line, handed to the operating system before `append` returns. It survives the
   death of the process. Only a clean close waits for the disk (fsync), so a power failure may cost the last
   seconds' records, which a resumed sweep makes again.
3. A line without its newline is a torn last line. If it is a whole record it counts, else it is cut off when
   the run is next written to, and overlooked by whoever only reads. A damaged line elsewhere is an error.
4. A record is identified by cell, item and sample, and stands in the file once.
5. One writer at a time, by an advisory `flock` that dies with its process. Readers need no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from steerkit.core.errors import InputError, MisuseError, RunLockedError, SteerkitError
from steerkit.core.files import replacing
from steerkit.runs.protocol import Environment, Protocol

RUN_FILE, RECORDS_FILE, LOCK_FILE = "run.json", "records.jsonl", ".lock"
REMEDY = (
    "free space or choose a folder that you may write to, and run the same command again: finished records are "
    "kept"
)

Record = dict[str, Any]
Key = tuple[str, str, int]


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

    def add(self, key: Key) -> None:
        """Mark a record as there."""
        cell, item, sample = key
        place = self._columns.setdefault((item, sample), len(self._columns))
        row = self._rows[cell]
        row.extend(bytes(max(0, (place >> 3) + 1 - len(row))))
        row[place >> 3] |= 1 << (place & 7)


class RunDirectory:
    """A run on disk, read while or after it is written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises MisuseError where there is no run, InputError where `run.json` is damaged."""
        self.path = Path(path)
        if not (self.path / RUN_FILE).is_file():
            raise MisuseError(f"{self.path} holds no run (no {RUN_FILE}): name the --out of a sweep")
        with _explained(self.path):
            run = _read_run_file(self.path / RUN_FILE)
        self.protocol = run.protocol
        self.environments = run.environments

    def records(self) -> Iterator[Record]:
        """The records in file order, one at a time; InputError at the first damaged or repeated line."""
        with _explained(self.path):
            for record, _ in _whole_lines(self.path / RECORDS_FILE, RecordIndex()):
                yield record


class RunWriter:
    """The one writer of a run directory; `key in writer` says whether a record is there already.

    Opening begins the run or continues it. Raises RunLockedError while another process writes,
    ProtocolMismatchError where the recorded protocol is another one, InputError where a file is damaged,
    SteerkitError where the folder cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], protocol: Protocol, environment: Environment) -> None:
        self.path = Path(path)
        self._index = RecordIndex()
        with contextlib.ExitStack() as opened, _explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            opened.enter_context(_locked(self.path))
            run = _begun_or_continued(self.path, protocol, environment)
            self.protocol = run.protocol
            if (self.path / RECORDS_FILE).exists():
                _repair(self.path / RECORDS_FILE, self._index)
            _write_run_file(self.path / RUN_FILE, run)  # only now: damaged records leave the run as it was
            self._file: BinaryIO = opened.enter_context((self.path / RECORDS_FILE).open("ab", buffering=0))
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._opened, _explained(self.path):
            os.fsync(self._file.fileno())

    def __contains__(self, key: Key) -> bool:
        return key in self._index

    def append(self, record: Record) -> None:
        """Write one record; SteerkitError, and nothing half-written, where the disk is full.

        A record that is there already is a ValueError: asking first is the caller's part.
        """
        key = record_key(record)
        if key in self._index:
            raise ValueError(f"record {key} is in {self.path} already")
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        # A lone surrogate has no UTF-8; as a backslash escape it is valid JSON for itself.
        line = text.encode("utf-8", "backslashreplace") + b"\n"
        with _explained(self.path):
            _append_whole(self._file, line)
        self._index.add(key)


def record_key(record: Record) -> Key:
    """What identifies a record: cell, item, sample."""
    return record["cell"], record["item"], record["sample"]


def _append_whole(file: BinaryIO, line: bytes) -> None:
    """Append all of `line`, or leave the file as it was and raise OSError."""
    start, written = file.seek(0, os.SEEK_END), 0
    try:
        while written < len(line):
            written += file.write(line[written:])
    except OSError:
        file.truncate(start)
        raise


def _whole_lines(path: Path, index: RecordIndex) -> Iterator[tuple[Record, bytes]]:
    """Each record with its line, a torn last line left out; marks them in `index`."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line.decode("utf-8"))
                key = record_key(record)
                repeated = key in index
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if not line.endswith(b"\n"):
                    return
                raise InputError(
                    f"{path}, line {number}: not a record; delete that line and run the same sweep again "
                    "to have it made anew"
                ) from error
            if repeated:
                raise InputError(f"{path}, line {number}: repeats record {key}; delete one of the two")
            index.add(key)
            yield record, line


def _repair(path: Path, index: RecordIndex) -> None:
    """Index the records, cut off a torn last line, and close a whole one that lacks its newline."""
    end, last = 0, b"\n"
    for _, last in _whole_lines(path, index):
        end += len(last)
    os.truncate(path, end)
    if not last.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def _begun_or_continued(path: Path, protocol: Protocol, environment: Environment) -> RunFile:
    """What `run.json` is to say: this protocol, held against and merged with the one that is there."""
    environments = [environment]
    if (path / RUN_FILE).exists():
        recorded = _read_run_file(path / RUN_FILE)
        protocol = protocol.continuing(recorded.protocol)
        for change in environment.version_changes(recorded.environments[-1]):
            warnings.warn(f"{path} was last written with other software: {change}", stacklevel=3)
        known = [other for other in recorded.environments if other != environment]
        environments = [*known, environment]
    elif (path / RECORDS_FILE).exists():
        raise InputError(
            f"{path} has {RECORDS_FILE} but no {RUN_FILE}: not a run to continue; name another --out"
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
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise InputError(
            f"{path} is damaged at {where}: {first['msg']}; start a new run with another --out"
        ) from error
    if not run.environments:
        raise InputError(f"{path} names no environment that wrote it; start a new run with another --out")
    return run


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the run's writer lock, or raise RunLockedError."""
    with (path / LOCK_FILE).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunLockedError(
                f"another process is writing to {path}: wait until it ends, or name another --out"
            ) from error
        yield


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one line that names the run."""
    try:
        yield
    except OSError as error:
        raise SteerkitError(f"cannot read or write the run {path}: {error.strerror}; {REMEDY}") from error
