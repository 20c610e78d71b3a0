"""A run scored again: what today's scorers say of its completions.

Their scores are kept beside the run's records (see `steerkit.runs.scores`), in whose place they are read; delete the
folder, and the run is as it was. Token counts stay as recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from steerkit.analysis.judging import answered
from steerkit.analysis.run import open_run
from steerkit.core.errors import MisuseError
from steerkit.core.prompts import as_text
from steerkit.core.registry import SCORERS
from steerkit.engines.base import Completion, Request
from steerkit.models.markers import ThinkingMarkers
from steerkit.models.thinking import Span
from steerkit.runs.record import Record
from steerkit.runs.scores import Added, Scores, write_scores
from steerkit.scoring.metrics import Scorer
from steerkit.suites.items import Kind, SuiteItem

AGAIN = (
    "abstention",
    "answers",
    "degeneration",
)  # a record has all that these read of an item and its completion


@dataclass(frozen=True)
class Moved:
    """How far a metric moved over a run's cells: on average and at most, in its own unit, and in which cell (its id).

    `changed` of the run's records have another score than before.
    """

    metric: str
    mean: float
    most: float
    cell: str
    changed: int


def score_again(path: Path) -> list[Moved]:
    """Score the completions of a run anew, and return what moved of the metrics that rest on it, furthest first.

    Raises MisuseError where none of its scorers can do that.
    """
    run = open_run(path)
    names = [name for name in run.scorers if name in AGAIN]
    if not names:
        raise MisuseError(f"none of the scorers of {path} can score a text again, as {', '.join(AGAIN)} can")
    before = levels(path)
    records = list(run.records())
    changed: Counter[str] = Counter()
    for name in names:
        scorer = SCORERS.resolve(name)
        added = [Added(record.key, _scores(scorer, record, run.protocol.markers)) for record in records]
        for record, each in zip(records, added, strict=True):
            changed.update(score for score, value in each.scores.items() if record.scores.get(score) != value)
        write_scores(run.directory.scores_folder, name, {"again": True}, added)
    after = levels(path)
    moved = []
    for name, metric in run.metrics.items():
        by = {cell: abs(after[cell][name] - was[name]) for cell, was in before.items() if name in was}
        if by and changed[metric.score or name]:
            furthest = max(by, key=by.__getitem__)
            mean = sum(by.values()) / len(by)
            moved.append(Moved(name, mean, by[furthest], furthest, changed[metric.score or name]))
    return sorted(moved, key=lambda each: -each.most)


def levels(path: Path) -> dict[str, Mapping[str, float]]:
    """Return what each cell of a run has of each metric, by cell id."""
    return {
        row.cell: {name: estimate.value for name, estimate in row.levels.items()}
        for row in open_run(path).summary()
    }


def _scores(scorer: Scorer, record: Record, markers: ThinkingMarkers) -> Scores:
    """What the scorer gives a record's text; what it cannot say without tokens is left out."""
    prompt, kind = as_text(record.prompt), cast(Kind, record.kind)
    item = SuiteItem(record.item, prompt, record.should_abstain, record.answers, kind)
    text = record.completion
    # All of it thinking, as its tokens said, whether or not the text shows that: there is no reply, and yet a text.
    spans = (Span("thinking", 0, len(text)),) if text and not answered(record) else ()
    completion = Completion(Request(record.prompt), text, (), "stop", 0, markers=markers, spans=spans)
    return {name: score for name, score in scorer(item, completion).items() if score is not None}
