"""Labels that people give: kept beside the run, read back with it, and compared with the scorers."""

from __future__ import annotations

import json

import pytest

from steerkit.analysis.labels import Labels
from steerkit.analysis.run import open_run
from steerkit.core.errors import InputError, MisuseError
from tests.sweeps.synthetic import grid, items, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", grid([4], [1]), items(12))


def test_a_label_is_in_the_file_at_once_and_can_be_taken_back(run):
    labels, first = Labels(run), next(run.records())
    path = labels.give(first.key, "abstained", True, blind=True)
    head, line = map(json.loads, path.read_text().splitlines())
    assert head["scorer"] == "label"
    assert line["scores"] == {"labelled_abstained": True}
    assert line["evidence"] == {"abstained": {"blind": True}}
    assert Labels(run).of(first.key, "abstained") is True
    labels.give(first.key, "abstained", None, blind=True)
    assert labels.of(first.key, "abstained") is None
    assert not len(Labels(run))


def test_labels_on_two_scores_stand_side_by_side(run):
    labels, first = Labels(run), next(run.records())
    labels.give(first.key, "abstained", False, blind=False)
    labels.give(first.key, "correct", True, blind=False)
    again = Labels(run)
    assert (again.of(first.key, "abstained"), again.of(first.key, "correct"), len(again)) == (False, True, 1)


def test_agreement_is_of_the_scorer_with_the_person(run):
    labels, records = Labels(run), list(run.records())
    for record in records[:6]:
        labels.give(record.key, "abstained", bool(record.scores["abstained"]), blind=True)
    labels.give(records[6].key, "abstained", not records[6].scores["abstained"], blind=True)
    counts = labels.agreement(records, "abstained")
    assert (counts.n, counts.both + counts.neither) == (7, 6)


def test_the_run_has_the_labelled_metrics(run):
    labels = Labels(run)
    for record in run.records():
        labels.give(record.key, "abstained", True, blind=False)
    row = open_run(run.path).summary()[0]
    assert (
        row.levels["labelled_abstention_recall"].value == row.levels["labelled_over_abstention"].value == 1.0
    )


def test_another_score_and_a_damaged_file_are_refused(run):
    with pytest.raises(MisuseError, match="abstained or correct"):
        Labels(run).give(next(run.records()).key, "tokens", True, blind=False)
    run.scores_folder.mkdir()
    (run.scores_folder / "label.jsonl").write_text("nonsense\n")
    with pytest.raises(InputError, match="damaged"):
        Labels(run)
