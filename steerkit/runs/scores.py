"""Scores that were added to a run afterwards: `scores/SCORER.jsonl`, beside `records.jsonl`, which stays as it is.

The first line names the scorer and the settings that it was asked under; each other line is a record's key with its
scores. A file is written whole or not at all. A record without a line has no scores of that scorer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from steerkit.core.errors import InputError
from steerkit.core.files import replacing
from steerkit.runs.record import Key, Score

Scores = Mapping[str, Score]


def write_scores(
    folder: Path, scorer: str, settings: Mapping[str, Any], scores: Iterable[tuple[Key, Scores]]
) -> Path:
    """Write what `scorer` gave for records into a run's folder of scores; the file, which takes an earlier one's place.

    Raises SteerkitError where it cannot be written.
    """
    path = folder / f"{scorer}.jsonl"
    with replacing(path, "the scores") as scratch, scratch.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"scorer": scorer, "settings": settings}) + "\n")
        for (cell, item, sample), given in scores:
            line = {"cell": cell, "item": item, "sample": sample, "scores": dict(given)}
            file.write(json.dumps(line, allow_nan=False) + "\n")
    return path


def read_settings(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return the settings of all scores in a run's folder of scores, by scorer; InputError for a damaged file."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in _files(folder):
        with path.open(encoding="utf-8") as lines, _damaged(path):
            head = json.loads(next(lines, ""))
            found[head["scorer"]] = dict(head["settings"])
    return found


def read_scores(folder: Path) -> dict[Key, Scores]:
    """Return all scores in a run's folder of scores, by record. Raises InputError for a damaged file."""
    scores: dict[Key, Scores] = {}
    for path in _files(folder):
        with path.open(encoding="utf-8") as lines, _damaged(path):
            next(lines, "")
            for line in map(json.loads, lines):
                key = line["cell"], line["item"], line["sample"]
                scores[key] = {**scores.get(key, {}), **line["scores"]}
    return scores


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.jsonl"))


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Raise InputError for whatever a file of another form leads to."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: delete it, and ask for these scores again") from error
