"""The table of families: what was found of each, on record as JSON, and as a page for readers.

The record is written family by family, so that a long run may be ended and gone on with.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steerkit.checks.check import Report, check_model
from steerkit.checks.families import Family, byte_tokenizer, families, tiny
from steerkit.checks.reference import kind_of
from steerkit.core.errors import InputError, MisuseError
from steerkit.core.files import read_text, replacing
from steerkit.models import load_model

SECONDS = 600  # that one cell may take, on a machine that is busy
PACKAGES = ("transformers", "torch", "transformer-lens")


@dataclass(frozen=True)
class Entry:
    """What is on record of a family.

    `kind` is what the plain model is, or `not built`; `reason` says why it was not checked. `cells` are the marks by
    column, `details` what was said of those that are not `ok`. `rows` were written and judged, `tied` of them hold a
    token that the reference has as good as equal to its own.
    """

    class_name: str
    kind: str
    reason: str = ""
    cells: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    packing: str = ""
    rows: int = 0
    tied: int = 0
    seconds: float = 0.0


def check_family(family: Family) -> Iterator[tuple[str, Any] | Entry]:
    """Check a tiny model of a family; each cell is yielded with its column as it is found, the entry at the end."""
    try:
        with at_most(SECONDS):
            hf = tiny(family)
    except Exception as error:  # of every kind: a package that is not there, sizes that do not fit
        said = (str(error).strip() or "no message").splitlines()
        yield Entry(
            family.class_name, "not built", f"{type(error).__name__}: {' '.join(said[-1].split())[:160]}"
        )
        return
    with at_most(SECONDS):
        kind, reason = kind_of(hf)
    if kind == "not of text alone":
        yield Entry(family.class_name, kind, reason[:160])
        return
    hf.config.name_or_path = f"tiny-{family.name}"
    steps = check_model(family.name, lambda: load_model(hf, byte_tokenizer()))
    while True:
        with at_most(SECONDS):
            found = next(steps)
        if isinstance(found, Report):
            break
        yield found
    cells = found.cells
    yield Entry(
        family.class_name,
        kind,
        cells={column: cell.mark for column, cell in cells.items()},
        details={column: cell.detail for column, cell in cells.items() if cell.detail},
        packing=found.packing,
        rows=sum(cell.rows for cell in cells.values()),
        tied=sum(cell.tied for cell in cells.values()),
        seconds=round(found.seconds, 1),
    )


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block once it has taken so long. In the main thread alone, where signals arrive."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def chosen(names: Sequence[str]) -> dict[str, Family]:
    """Return the families of these names, all without any. Raises MisuseError for an unknown one."""
    known = families()
    if unknown := [name for name in names if name not in known]:
        raise MisuseError(
            f"transformers {version('transformers')} has no family {unknown[0]!r} that writes text"
        )
    return {name: known[name] for name in names} if names else known


def read_record(path: Path) -> dict[str, Entry]:
    """Read a record; none where there is no file. Raises InputError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        return {name: Entry(**entry) for name, entry in json.loads(read_text(path))["families"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is no record of `steerkit models --check`: remove it") from error


def read_packages(path: Path) -> dict[str, str]:
    """Read which versions a record was made with."""
    versions: dict[str, str] = json.loads(read_text(path))["packages"]
    return versions


def write_record(path: Path, record: Mapping[str, Entry]) -> None:
    """Write a record, whole or not at all."""
    packages = {package: version(package) for package in PACKAGES}
    entries = {name: asdict(entry) for name, entry in sorted(record.items())}
    text = json.dumps({"packages": packages, "families": entries}, indent=1, ensure_ascii=False)
    with replacing(path, "record") as part:
        part.write_text(text + "\n", encoding="utf-8")


def worse(entry: Entry, recorded: Entry) -> list[str]:
    """Return what of a family is no longer as recorded: an exact cell that is not, or one that went wrong."""
    if recorded.kind != entry.kind:
        return [f"it was {recorded.kind} and is {entry.kind}: {entry.reason}"]
    found = []
    for column, mark in entry.cells.items():
        was = recorded.cells.get(column)
        if mark != was and (was == "ok" or mark in ("wrong", "crash")):
            found.append(f"{column} was {was} and is {mark}: {entry.details.get(column, '')}")
    missing = [
        column for column, mark in recorded.cells.items() if mark == "ok" and column not in entry.cells
    ]
    return found + [f"{column} was ok and was not reached" for column in missing]
