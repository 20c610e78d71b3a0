"""What people say of a run's completions, label by label; see `steerkit.analysis.labels`, which keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.core.errors import MisuseError
from steerkit.scoring.metrics import Metric, Scores, scorer

LABEL = "label"  # the scorer
PREFIX = "labelled_"  # of its scores: labelled_abstained is what a person says of what abstained says
LABELLED_SCORES = ("abstained", "correct")

METRICS = (
    Metric(
        "labelled_abstention_recall", "abstention recall, labelled", "higher",
        concerns="unanswerable", score=f"{PREFIX}abstained", show="hidden",
    ),
    Metric(
        "labelled_over_abstention", "over-abstention, labelled", "lower",
        concerns="answerable", score=f"{PREFIX}abstained", show="hidden",
    ),
    Metric(
        "labelled_accuracy", "accuracy, labelled", "higher",
        concerns="answerable", score=f"{PREFIX}correct", show="hidden",
    ),
)  # fmt: skip


@scorer(LABEL, metrics=METRICS, needs="run")
def label(_engine: object, _completions: Sequence[object]) -> list[Scores]:
    """Say what a person says of the reply; labels are given in the workbench, once a run is there."""
    raise MisuseError("labels are given by people, to a run that is there: steerkit serve --runs FOLDER")
