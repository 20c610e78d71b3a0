"""A run judged a second time: another's verdicts on its completions, beside those of the phrase rules.

They are the scores of the scorer `judge`, or of the bundled `detector`, kept beside the run's records (see
`steerkit.runs.scores`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steerkit.analysis.outcomes import Outcomes
from steerkit.core.bootstrap import Floats
from steerkit.runs.directory import RunDirectory
from steerkit.runs.record import Record
from steerkit.runs.scores import Added, write_scores
from steerkit.scoring.agreement import Agreement, agreement
from steerkit.scoring.detector import DETECTED, DETECTOR, READER, Detector
from steerkit.scoring.judge import JUDGE, JUDGED, Judge, Progress
from steerkit.scoring.reply import final_reply

READ_AT_ONCE = 256  # replies, between two reports of progress


@dataclass(frozen=True)
class Judged:
    """How far judge and phrase rules agree, by cell id and over all completions that have both verdicts.

    `missing` completions have no verdict of the judge: it was malformed, or they were recorded since.
    """

    model: str
    cells: Mapping[str, Agreement]
    agreement: Agreement
    missing: int


def judge_run(run: RunDirectory, judge: Judge, progress: Progress | None = None) -> Path:
    """Put every completion of the run to the judge and write its verdicts beside the records; their path.

    The judge sees the question and the completion, nothing else of a record. Thinking that never closed
    leaves no reply, which does not abstain, as for the phrase rules. Raises SteerkitError where the endpoint
    fails for good; verdicts already given are in the judge's cache.
    """
    records = list(run.records())
    examples = ((record.prompt, answered(record)) for record in records)
    verdicts = judge.verdicts(examples, progress, markers=run.protocol.markers)
    settings = {
        "endpoint": judge.base_url,
        "model": judge.model,
        "instruction_digest": judge.instruction_digest,
    }
    added = (Added(record.key, {JUDGED: verdict}) for record, verdict in zip(records, verdicts, strict=True))
    return write_scores(run.scores_folder, JUDGE, settings, added)


def detect_run(run: RunDirectory, detector: Detector, progress: Progress | None = None) -> Agreement:
    """Let the detector read every reply of the run, and keep its verdicts beside the records; how far the rules agree.

    Equal replies are read once. A completion that is all thinking has no reply, which does not abstain.
    """
    records = list(run.records())
    markers = run.protocol.markers
    replies = [final_reply(answered(record), markers) for record in records]
    distinct = sorted(set(replies))
    verdicts: dict[str, bool] = {}
    for start in range(0, len(distinct), READ_AT_ONCE):
        some = distinct[start : start + READ_AT_ONCE]
        verdicts |= zip(some, detector.abstain(some), strict=True)
        if progress is not None:
            progress(len(verdicts), len(distinct))
    added = (
        Added(record.key, {DETECTED: verdicts[reply]}) for record, reply in zip(records, replies, strict=True)
    )
    write_scores(run.scores_folder, DETECTOR, {"reader": READER}, added)
    rules = (record.scores.get("abstained") for record in records)
    pairs = zip(rules, map(verdicts.__getitem__, replies), strict=True)
    return agreement((None if rule is None else bool(rule), verdict) for rule, verdict in pairs)


def judged(outcomes: Outcomes, model: str) -> Judged:
    """Return how far the verdicts of the judge `model` agree with those of the phrase rules."""
    rules, judge = outcomes.scores["abstained"], outcomes.scores[JUDGED]
    cells = {
        cell: _agreement(rules[outcomes.cell == number], judge[outcomes.cell == number])
        for number, cell in enumerate(outcomes.cells)
    }
    return Judged(model, cells, _agreement(rules, judge), int(np.isnan(judge).sum()))


def _agreement(rules: Floats, judge: Floats) -> Agreement:
    """Counts over the completions that have both verdicts, `[n]` each, NaN for none."""
    return Agreement(*(int(((rules == one) & (judge == other)).sum()) for one in (1, 0) for other in (1, 0)))


def answered(record: Record) -> str:
    """Return the record's completion; empty where all of it went into thinking, so that there is no reply."""
    unanswered = 0 < record.tokens == record.scores.get("thinking_tokens")
    return "" if unanswered else record.completion
