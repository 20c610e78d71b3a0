"""Scores that were added to a run afterwards: `scores/SCORER.jsonl`, beside `records.jsonl`, which stays as it is.

The first line names the scorer and the settings that it was asked under; each other line is a record's key with its
scores. A file is written whole or not at all. A record without a line has no scores of that scorer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerkit.core.errors import InputError
from steerkit.core.files import replacing
from steerkit.runs.record import Key, Score

Scores = Mapping[str, Score]


@dataclass(frozen=True)
class Added:
    """What a scorer gave for the record of this key; `evidence` is what it went by, as JSON, for who looks it up."""

    key: Key
    scores: Scores
    evidence: Mapping[str, Any] = field(default_factory=dict)


def write_scores(folder: Path, scorer: str, settings: Mapping[str, Any], added: Iterable[Added]) -> Path:
    """Write what `scorer` gave for records into a run's folder of scores; the file, which takes an earlier one's place.

    Raises SteerkitError where it cannot be written.
    """
    path = folder / f"{scorer}.jsonl"
    with (
        replacing(path, "the scores") as scratch,
        scratch.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write(json.dumps({"scorer": scorer, "settings": settings}) + "\n")
        for each in added:
            line = dict(zip(("cell", "item", "sample"), each.key, strict=True))
            line |= {"scores": dict(each.scores)} | ({"evidence": each.evidence} if each.evidence else {})
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_added(folder: Path, scorer: str) -> tuple[Mapping[str, Any], list[Added]] | None:
    """Return the settings of a scorer's scores, and these; None where there are none. Raises InputError for damage."""
    path = folder / f"{scorer}.jsonl"
    if not path.exists():
        return None
    with _opened(path) as (head, lines):
        return dict(head["settings"]), list(map(_added, lines))


def read_settings(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return, by scorer, the settings of the scores in a folder. Raises InputError for a damaged file."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in _files(folder):
        with _opened(path) as (head, _):
            found[head["scorer"]] = dict(head["settings"])
    return found


def read_scores(folder: Path) -> dict[Key, Scores]:
    """Return all scores in a run's folder of scores, by record. Raises InputError for a damaged file."""
    scores: dict[Key, Scores] = {}
    for path in _files(folder):
        with _opened(path) as (_, lines):
            for added in map(_added, lines):
                scores[added.key] = {**scores.get(added.key, {}), **added.scores}
    return scores


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.jsonl"))


def _added(line: Mapping[str, Any]) -> Added:
    return Added((line["cell"], line["item"], line["sample"]), dict(line["scores"]), line.get("evidence", {}))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Mapping[str, Any], Iterator[Mapping[str, Any]]]]:
    """The first line of a file of scores, and its other lines. Raises InputError for whatever another form leads to."""
    try:
        with path.open(encoding="utf-8") as lines:
            yield json.loads(next(lines, "")), map(json.loads, lines)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: delete it, and ask for these scores again") from error
