from __future__ import annotations

import pytest

from steerkit.analysis.judging import judge_run
from steerkit.analysis.run import Run
from steerkit.core.errors import InputError
from steerkit.runs.cells import Cell
from steerkit.runs.directory import RunWriter
from tests.sweeps.rows import scored
from tests.sweeps.synthetic import environment, grid, items, protocol, write_run


class Critic:
    """Finds that whoever is not sure answers, and gives no verdict on `silent` completions."""

    base_url, model, instruction_digest = "http://host/v1", "critic", "ab" * 6

    def __init__(self, silent=0):
        self.silent = silent
        self.seen = []

    def verdicts(self, examples, _progress=None, **_):
        self.seen = list(examples)
        said = [not text.startswith(("The answer", "I'm not sure")) and text != "" for _, text in self.seen]
        return [None] * self.silent + said[self.silent :]


@pytest.fixture
def run(tmp_path) -> Run:
    write_run(tmp_path, grid(), items(40))
    return Run(tmp_path)


def test_the_judge_sees_question_and_completion_and_the_records_stay_as_they_are(run):
    before = (run.path / "records.jsonl").read_bytes()
    critic = Critic()
    judge_run(run.directory, critic)
    assert critic.seen == [(record.prompt, record.completion) for record in run.records()]
    assert (run.path / "records.jsonl").read_bytes() == before


def test_both_opinions_stand_beside_each_other_cell_by_cell(run):
    assert run.judged() is None
    judge_run(run.directory, Critic())
    run = Run(run.path)
    judged = run.judged()
    assert (judged.model, judged.missing) == ("critic", 0)
    records = list(run.records())
    assert judged.agreement.n == len(records)
    doubted = sum(record.completion.startswith("I'm not sure") for record in records)
    assert judged.agreement.raw == pytest.approx(1 - doubted / len(records))
    assert doubted > 0
    for row in run.summary():
        here = [record for record in records if record.cell == row.cell and record.should_abstain]
        for metric, abstained in (
            ("abstention_recall", [record.scores["abstained"] for record in here]),
            (
                "judged_abstention_recall",
                [not record.completion.startswith(("The answer", "I'm not")) for record in here],
            ),
        ):
            assert row.levels[metric].value == pytest.approx(sum(abstained) / len(here))
    assert sum(agreement.n for agreement in judged.cells.values()) == len(records)


def test_a_completion_without_a_verdict_is_left_out_of_the_agreement_and_of_the_judges_opinion(run):
    judge_run(run.directory, Critic(silent=7))
    run = Run(run.path)
    judged = run.judged()
    assert judged.missing == 7
    assert judged.agreement.n == len(list(run.records())) - 7
    opinions = ("judged_abstention_recall", "judged_over_abstention")
    counted = sum(row.levels[name].n for row in run.summary() for name in opinions)
    assert counted == judged.agreement.n


def test_thinking_that_never_closed_leaves_the_judge_no_reply(tmp_path):
    with RunWriter(tmp_path, protocol(), environment(), [Cell()]) as writer:
        for item, thinking in (("a", 5), ("b", 3)):
            writer.append(scored(Cell().id, item, tokens=5, thinking_tokens=thinking))
    critic = Critic()
    judge_run(Run(tmp_path).directory, critic)
    assert [completion for _, completion in critic.seen] == ["", "So."]


def test_a_damaged_file_says_what_to_delete(run):
    judge_run(run.directory, Critic()).write_text("{")
    with pytest.raises(InputError, match="delete it"):
        Run(run.path).judged()
