from __future__ import annotations

import json

import pytest

from steerkit.analysis.judging import JUDGED_FILE, judge_run, judged_rows
from steerkit.core.errors import InputError
from steerkit.runs.directory import RunDirectory, RunWriter
from steerkit.sweeps.grid import build_grid
from steerkit.sweeps.runner import run_sweep
from tests.sweeps.synthetic import SyntheticEngine, environment, items, protocol, vector


class Critic:
    """Finds that whoever is not sure answers, and gives no verdict on `silent` completions."""

    base_url, model, instruction_digest = "http://host/v1", "critic", "ab" * 6

    def __init__(self, silent=0):
        self.silent = silent
        self.seen = []

    def verdicts(self, examples, _progress=None):
        self.seen = list(examples)
        said = [not text.startswith(("The answer", "I'm not sure")) and text != "" for _, text in self.seen]
        return [None] * self.silent + said[self.silent :]


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    with RunWriter(tmp_path, protocol(), environment()) as writer:
        run_sweep(SyntheticEngine(), items(40), build_grid([vector()], [6], [1]), writer)
    return RunDirectory(tmp_path)


def test_the_judge_sees_question_and_completion_and_the_records_stay_as_they_are(run):
    before = (run.path / "records.jsonl").read_bytes()
    critic = Critic()
    judge_run(run, critic)
    assert critic.seen == [(record["prompt"], record["completion"]) for record in run.records()]
    assert (run.path / "records.jsonl").read_bytes() == before


def test_both_opinions_stand_beside_each_other_cell_by_cell(run):
    assert judged_rows(run) is None
    judge_run(run, Critic())
    judged = judged_rows(run, resamples=20)
    assert judged.missing == 0
    records = list(run.records())
    assert judged.agreement.n == len(records)
    doubted = sum(r["completion"].startswith("I'm not sure") for r in records)
    assert judged.agreement.raw == pytest.approx(1 - doubted / len(records))
    assert doubted > 0
    for row in judged.rows:
        here = [r for r in records if r["cell"] == row.rules.cell and r["should_abstain"]]
        for opinion, abstained in (
            (row.rules, [r["scores"]["abstained"] for r in here]),
            (row.judge, [not r["completion"].startswith(("The answer", "I'm not")) for r in here]),
        ):
            assert opinion.levels["abstention_recall"].value == pytest.approx(sum(abstained) / len(here))


def test_a_completion_without_a_verdict_is_left_out_of_both_opinions(run):
    judge_run(run, Critic(silent=7))
    judged = judged_rows(run, resamples=20)
    assert judged.missing == 7
    assert judged.agreement.n == len(list(run.records())) - 7
    assert all(row.rules.n_items == row.judge.n_items for row in judged.rows)


def test_thinking_that_never_closed_leaves_the_judge_no_reply(run):
    path = run.path / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record["scores"]["thinking_tokens"] = record["tokens"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    critic = Critic()
    judge_run(run, critic)
    assert {completion for _, completion in critic.seen} == {""}


def test_a_damaged_file_says_what_to_delete(run):
    (run.path / JUDGED_FILE).write_text("{")
    with pytest.raises(InputError, match="delete it"):
        judged_rows(run)
