"""What was found about a run's chains, kept in `faithfulness.jsonl` beside its records.

The first line says how chains were tested, every other line is one completion's finding, under the cell, item and
sample of its record. The file is whole or not there: it is written anew, beside itself, after every batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steerkit.analysis.outcomes import cell_fields
from steerkit.chains.examination import Finding, Settings
from steerkit.core.errors import InputError, MisuseError
from steerkit.core.files import replacing
from steerkit.runs.directory import REMEDY, Key, Record, record_key

FINDINGS_FILE = "faithfulness.jsonl"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Findings:
    """The settings of a run's tests and a line for each completion tested."""

    settings: Settings
    lines: Sequence[Record]

    @property
    def keys(self) -> set[Key]:
        """Which completions were tested, by cell, item and sample."""
        return {record_key(line) for line in self.lines}


def line_of(record: Record, finding: Finding) -> Record:
    """One line: what the record says of cell and item, with the finding's scores and details."""
    of_item = {name: record[name] for name in ("item", "sample", "group")}
    return {**cell_fields(record), **of_item, "scores": finding.scores, **finding.details}


def read_findings(folder: Path) -> Findings | None:
    """The findings in a run's folder; None where there are none. Raises InputError where they are damaged."""
    path = folder / FINDINGS_FILE
    if not path.exists():
        return None
    try:
        header, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        if header["format_version"] > FORMAT_VERSION:
            raise MisuseError(
                f"{path} has format {header['format_version']}; this steerkit reads up to {FORMAT_VERSION}"
            )
        given: dict[str, Any] = header["settings"]
        findings = Findings(Settings(**given | {"tests": tuple(given["tests"])}), lines)
        unfit = [line for line in lines if not isinstance(line["scores"], dict) or not record_key(line)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: delete it, and run steerkit faithfulness again") from error
    if unfit:
        raise InputError(f"{path} is damaged: delete it, and run steerkit faithfulness again")
    return findings


def continue_findings(folder: Path, settings: Settings) -> Findings:
    """What is there under these settings. Raises MisuseError where it was found under others."""
    there = read_findings(folder)
    if there is None:
        return Findings(settings, [])
    if there.settings != settings:
        was, now = asdict(there.settings), asdict(settings)
        changes = ", ".join(
            f"{name} was {was[name]}, now {now[name]}" for name in was if was[name] != now[name]
        )
        raise MisuseError(
            f"{folder / FINDINGS_FILE} was measured otherwise ({changes}): ask for the same again, or move that "
            "file away"
        )
    return there


def write_findings(folder: Path, findings: Findings) -> Path:
    """Write `faithfulness.jsonl`, whole or not at all."""
    path = folder / FINDINGS_FILE
    header = {"format_version": FORMAT_VERSION, "settings": asdict(findings.settings)}
    with (
        replacing(path, "the findings", REMEDY) as scratch,
        scratch.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        for line in (header, *findings.lines):
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    return path
