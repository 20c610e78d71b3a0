"""References to cells of runs: `RUN#CELL` wherever a spec string is understood."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from steerkit.interventions.base import Intervention, written_text
from steerkit.interventions.spec import Vectors, is_whole, parse_all, split, unquoted
from steerkit.runs.directory import RunDirectory

_REFERENCE = re.compile(r"(.+)#([0-9a-f]{1,12})", re.DOTALL)  # a name that holds a # is in quotes in a spec


def interventions(reference: str) -> tuple[Intervention, ...] | None:
    """Return what the cell of a run does, for `RUN#CELL`: a run's folder, and a cell's id or how that alone begins.

    None where the text is no such reference. Raises MisuseError where there is no such run or cell, InputError where
    the run lacks a vector of it.
    """
    found = _REFERENCE.fullmatch(reference.strip())
    return RunDirectory(unquoted(found[1], reference)).cell(found[2]).interventions if found else None


def cell_reference(run: Path, cell: str) -> str:
    """Return `RUN#CELL` as `interventions` reads it, the folder in quotes where a spec would take it apart."""
    folder = str(run)
    return f"{folder if is_whole(folder) else written_text(folder)}#{cell}"


def read_interventions(texts: Sequence[str], vectors: Vectors = None) -> tuple[Intervention, ...]:
    """Return all interventions that spec strings or `RUN#CELL` name, in order; see `steerkit.interventions.spec`."""
    read: list[Intervention] = []
    for part in (part for text in texts for part in split(text, ";")):
        found = interventions(part)
        read += parse_all([part], vectors) if found is None else found
    return tuple(read)
