"""A run scored again, with the records untouched and the same numbers where nothing changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.analysis.rescoring import score_again
from steerkit.analysis.run import open_run
from tests.command_line import steerkit
from tests.sweeps.synthetic import grid, items, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path, grid(), items(12))
    return tmp_path


def test_a_run_that_todays_scorers_scored_does_not_move(run: Path) -> None:
    score_again(run)
    assert score_again(run) == []


def test_scores_of_another_day_move_and_the_records_stay_as_they_are(run: Path) -> None:
    score_again(run)
    right = open_run(run).summary()
    for path in (run / "scores").iterdir():
        path.unlink()
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for line in lines:
        line["scores"]["abstained"] = not line["scores"]["abstained"]
    (run / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = (run / "records.jsonl").read_bytes()
    moved = {each.metric: each for each in score_again(run)}
    assert moved["abstention_recall"].most > 0
    assert [row.levels["abstention_recall"] for row in open_run(run).summary()] == [
        row.levels["abstention_recall"] for row in right
    ]
    assert (run / "records.jsonl").read_bytes() == before


def test_what_needs_tokens_stays_as_recorded(run: Path) -> None:
    was = [(record.scores["tokens"], record.scores.get("repetition")) for record in open_run(run).records()]
    score_again(run)
    assert [(r.scores["tokens"], r.scores.get("repetition")) for r in open_run(run).records()] == was


def test_a_thought_that_never_closed_is_no_reply_and_no_blank_text(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for line in lines:
        line["completion"] = "I don't know yet, so let me think about it."
        line["scores"] |= {"thinking_tokens": line["tokens"]}
    (run / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score_again(run)
    scores = [record.scores for record in open_run(run).records() if record.tokens]
    assert {(each["abstained"], each["degenerate"]) for each in scores} == {(False, False)}


def test_the_command_says_what_moved(run: Path) -> None:
    assert steerkit("report", str(run), "--score-again").code == 0
    done = steerkit("report", str(run), "--score-again")
    assert (done.code, "every completion is scored as before" in done.out + done.err) == (0, True)
