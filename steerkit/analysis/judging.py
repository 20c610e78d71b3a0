"""A run judged a second time: a language model's verdicts on its completions, beside those of the phrase rules.

They are kept in `judged.json` in the run's directory, whole or not there: `records.jsonl` stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from steerkit.analysis.summary import Row, summarise
from steerkit.core.bootstrap import RESAMPLES
from steerkit.core.errors import InputError
from steerkit.core.files import replacing
from steerkit.runs.directory import REMEDY, Key, Record, RunDirectory, record_key
from steerkit.scoring.agreement import Agreement, agreement
from steerkit.scoring.judge import Judge, Progress

JUDGED_FILE = "judged.json"


class JudgedFile(BaseModel):
    """`judged.json`. `verdicts` are (cell, item, sample, whether it abstains, null without a verdict).

    `agreement` is over all of them, the phrase rules first, the judge second; for readers of the file alone.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    endpoint: str
    model: str
    instruction_digest: str
    agreement: dict[str, float | int | None]
    verdicts: list[tuple[str, str, int, bool | None]]


@dataclass(frozen=True)
class JudgedRow:
    """A cell as the phrase rules see it (`rules`) and as the judge does, over the completions with a verdict.

    `judge` has the metrics that abstention alone decides: `abstention_recall` and `over_abstention`.
    """

    rules: Row
    judge: Row
    agreement: Agreement


@dataclass(frozen=True)
class Judged:
    """Both opinions on a run; `missing` completions have no verdict (malformed, or recorded since)."""

    endpoint: str
    model: str
    rows: Sequence[JudgedRow]
    agreement: Agreement
    missing: int


def judge_run(run: RunDirectory, judge: Judge, progress: Progress | None = None) -> Path:
    """Put every completion of the run to the judge and write `judged.json`; its path.

    The judge sees the question and the completion, nothing else of a record. Thinking that never closed
    leaves no reply, which does not abstain, as for the phrase rules. Raises SteerkitError where the endpoint
    fails for good; verdicts already given are in the judge's cache.
    """
    records = list(run.records())
    verdicts = judge.verdicts(((r["prompt"], _completion(r)) for r in records), progress)
    both = agreement((r["scores"]["abstained"], v) for r, v in zip(records, verdicts, strict=True))
    judged = JudgedFile(
        endpoint=judge.base_url,
        model=judge.model,
        instruction_digest=judge.instruction_digest,
        agreement=both.summary(),
        verdicts=[(*record_key(r), v) for r, v in zip(records, verdicts, strict=True)],
    )
    path = run.path / JUDGED_FILE
    with replacing(path, "the judge's verdicts", REMEDY) as scratch:
        scratch.write_text(judged.model_dump_json() + "\n", encoding="utf-8", errors="backslashreplace")
    return path


def judged_rows(run: RunDirectory, resamples: int = RESAMPLES) -> Judged | None:
    """Both opinions cell by cell, from the run's directory; None where no judge was asked.

    Raises InputError where `judged.json` is damaged.
    """
    path = run.path / JUDGED_FILE
    if not path.exists():
        return None
    try:
        file = JudgedFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} is damaged: delete it, and report with --judge again") from error
    verdicts: dict[Key, bool | None] = {(cell, item, n): verdict for cell, item, n, verdict in file.verdicts}
    pairs: defaultdict[str, list[tuple[bool, bool | None]]] = defaultdict(list)
    for record in run.records():
        pairs[record["cell"]].append((record["scores"]["abstained"], verdicts.get(record_key(record))))
    rules = summarise(_with_a_verdict(run.records(), verdicts), resamples)
    judge = summarise(_as_judged(run.records(), verdicts), resamples)
    return Judged(
        endpoint=file.endpoint,
        model=file.model,
        rows=[
            JudgedRow(one, other, agreement(pairs[one.cell])) for one, other in zip(rules, judge, strict=True)
        ],
        agreement=agreement(pair for cell in pairs.values() for pair in cell),
        missing=sum(verdict is None for cell in pairs.values() for _, verdict in cell),
    )


def _completion(record: Record) -> str:
    unanswered = 0 < record["tokens"] == record["scores"]["thinking_tokens"]
    return "" if unanswered else record["completion"]


def _with_a_verdict(records: Iterable[Record], verdicts: dict[Key, bool | None]) -> Iterator[Record]:
    return (record for record in records if verdicts.get(record_key(record)) is not None)


def _as_judged(records: Iterable[Record], verdicts: dict[Key, bool | None]) -> Iterator[Record]:
    """The records with the judge's verdict in place of the phrase rules'; what else depends on it is left out."""
    for record in _with_a_verdict(records, verdicts):
        scores: dict[str, Any] = {"abstained": verdicts[record_key(record)], "correct": None}
        yield {**record, "scores": scores}
