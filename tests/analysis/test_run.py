"""Run: a directory that is read once, whatever is asked of it."""

from __future__ import annotations

import pytest

from steerkit.analysis.judging import judge_run
from steerkit.analysis.run import Run, open_run
from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.registry import SCORERS
from steerkit.report.tables import main_metrics
from steerkit.runs.directory import RunWriter
from steerkit.runs.record import Record
from steerkit.scoring.metrics import Metric, Question, scorer
from tests.analysis.test_judging import Critic
from tests.sweeps.rows import scored
from tests.sweeps.synthetic import environment, grid, items, protocol, write_run


@pytest.fixture
def run(tmp_path) -> Run:
    write_run(tmp_path / "run", grid([4, 6], [1, 2]), items(12))
    return open_run(tmp_path / "run")


@pytest.fixture
def taste():
    """A scorer of somebody else's."""
    question = Question(
        "taste", "How sweet", "sweetness", "tokens", ("sweetness",), "sweetness", {}, "the sweetest"
    )

    @scorer("taste", metrics=[Metric("sweetness", "sweetness", "higher", show="main")], questions=[question])
    def taste(_item, _completion):
        return {"sweetness": 1.0}

    yield taste
    SCORERS._things.pop("taste")


def test_the_records_are_parsed_once_whatever_is_asked(run, monkeypatch):
    parsed = []
    from_line = Record.from_line
    monkeypatch.setattr(Record, "from_line", lambda line: parsed.append(line) or from_line(line))
    (
        run.summary(),
        run.frontier(),
        run.actuator_frontiers(),
        run.risk_coverage(),
        run.choose("recall"),
        run.summary(),
    )
    assert len(parsed) == 12 * len(run.cells)


def test_a_run_says_what_it_is(run):
    assert repr(run) == f"Run({str(run.path)!r}: boats/choose, synthetic, 9 cells)"
    assert run.cell(run.summary()[1].cell[:8]).layer == 4
    assert len(list(run.records([run.summary()[1].cell]))) == 12
    assert [question.name for question in run.questions] == ["abstention", "length"]


def test_a_caller_may_change_the_rows_that_it_was_given(run):
    run.summary().clear()
    assert run.summary()


def test_only_the_metrics_of_the_runs_scorers_are_measured(tmp_path):
    cells = grid()
    with RunWriter(tmp_path, protocol(scorers=("lengths",)), environment(), cells) as writer:
        for cell in cells:
            writer.append(scored(cell.id, "a", True, tokens=3, abstained=True))
    run = open_run(tmp_path)
    assert set(run.metrics) == {"tokens", "thinking_tokens", "truncated", "forced"}
    assert {name for row in run.summary() for name in row.levels} == {"tokens"}
    with pytest.raises(SteerkitError, match="name two metrics"):
        run.frontier()


@pytest.mark.usefixtures("taste")
def test_a_scorer_of_somebody_elses_is_measured_chosen_by_and_asked_about(tmp_path):
    cells = grid()
    with RunWriter(tmp_path, protocol(scorers=("lengths", "taste")), environment(), cells) as writer:
        for number, cell in enumerate(cells):
            writer.append(scored(cell.id, "a", sweetness=number / 4, tokens=2 + number))
    run = open_run(tmp_path)
    assert [row.levels["sweetness"].value for row in run.summary()] == [0.0, 0.25, 0.5]
    assert run.choose("sweetness s.t. tokens<=3").cell == cells[1].id
    assert [question.name for question in run.questions] == ["taste"]
    assert [row.cell for row in run.frontier()] == [cells[1].id, cells[0].id]


@pytest.mark.usefixtures("taste")
def test_metrics_stand_in_the_order_in_which_the_suite_names_its_scorers(tmp_path):
    for number, scorers in enumerate((("taste", "lengths"), ("lengths", "taste"))):
        out = tmp_path / str(number)
        with RunWriter(out, protocol(scorers=scorers), environment(), grid()) as writer:
            for cell in grid():
                writer.append(scored(cell.id, "a", sweetness=1.0, tokens=2))
        measured = [metric.name for metric in main_metrics(open_run(out).summary())]
        assert measured == [{"taste": "sweetness", "lengths": "tokens"}[name] for name in scorers]


def test_a_scorer_that_is_not_installed_is_left_out_with_a_warning(tmp_path):
    cells = grid()
    with RunWriter(tmp_path, protocol(scorers=("lengths", "gone")), environment(), cells) as writer:
        for cell in cells:
            writer.append(scored(cell.id, "a", tokens=3, gone=1))
    with pytest.warns(UserWarning, match="'gone', which is not installed"):
        assert open_run(tmp_path).summary()


def test_a_judges_opinions_are_metrics_of_the_run(run):
    judge_run(run.directory, Critic())
    judged = open_run(run.path)
    assert judged.scorers[-1] == "judge"
    assert all("judged_over_abstention" in row.changes for row in judged.summary())
    assert judged.choose("judged_abstention_recall") is not None


def test_no_run_is_a_misuse(tmp_path):
    with pytest.raises(MisuseError, match="holds no run"):
        open_run(tmp_path)
