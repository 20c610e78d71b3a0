from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from steerkit.analysis.choosing import read_choice
from steerkit.core.errors import MisuseError
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.models.markers import DEFAULT
from steerkit.runs.cells import Cell
from steerkit.suites.suite import Suite
from steerkit.sweeps.confirmation import choose_then_report, companions, relative_doses
from steerkit.sweeps.grid import Grid
from steerkit.sweeps.measurement import Measurement
from tests.sweeps.synthetic import SyntheticEngine, items, vector

MODEL = SimpleNamespace(
    name="synthetic",
    fingerprint="synthetic:0",
    renderer=SimpleNamespace(digest="cd" * 32, options={}),
    markers=DEFAULT,
)
RULE = "recall s.t. over_abstention_rise<=0.2"
BOATS = Suite("boats", tuple(items(120)))
ON_BOATS = Measurement(BOATS)
POLITE, SHORT = PromptEdit(instruction="Be polite."), PromptEdit(instruction="Be short.")


class Engine(SyntheticEngine):
    name = "synthetic"
    model = MODEL
    dtype = "float32"
    batch_size = 8

    def check(self, request):
        assert request.prompt


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def go(tmp_path, engine):
    """go(rule, measurement, **grid): choose, then report, in one folder."""

    def go(rule=RULE, measurement=ON_BOATS, **grid):
        asked = Grid(**{"vectors": vector(), "layers": [4, 6], "strengths": "0.5:1.5:0.5"} | grid)
        return choose_then_report(engine, asked, rule, measurement, out=tmp_path / "out")

    return go


def test_the_cell_chosen_on_one_split_is_measured_on_the_other(go, tmp_path):
    found = go()
    assert {record.split for record in found.choose.records()} == {"choose"}
    assert {record.split for record in found.report.records()} == {"report"}
    assert {row.role for row in found.choose.summary()} == {"unsteered", "steered"}

    rows = {(row.role, row.at.strength): row for row in found.report.summary()}
    strength = found.chosen.at.strength
    assert rows.keys() == {
        ("unsteered", 0.0), ("steered", strength), ("steered", -strength), ("random", strength)
    }  # fmt: skip
    assert rows["steered", strength].cell == found.chosen.cell
    assert rows["random", strength].at.place == rows["steered", strength].at.place
    choice = read_choice(tmp_path / "out" / "report")
    assert choice.cell == found.chosen.cell
    assert choice.rule == "abstention_recall s.t. over_abstention_rise<=0.2"


def test_controls_stand_in_the_grid_where_they_are_asked_for(go):
    found = go(control_strengths=[0.5])
    assert [row.at.strength for row in found.choose.summary() if row.role == "random"] == [0.5, 0.5]


def test_the_best_edit_is_measured_beside_the_chosen_cell(go):
    found = go(axes={"edit": [None, POLITE, SHORT]}, layers=4)
    assert [row.role for row in found.choose.summary()].count("edited") == 2
    roles = [row.role for row in found.report.summary()]
    assert roles.count("edited") in (1, 2)  # the chosen cell's own, and the best of all
    assert found.chosen.role == "steered"


def test_the_same_again_asks_the_engine_for_nothing(go, engine):
    go()
    drawn = engine.drawn
    assert go().chosen is not None
    assert engine.drawn == drawn


def test_report_is_not_looked_at_for_a_second_choice(go, tmp_path):
    go()
    with pytest.raises(MisuseError, match="name another place"):
        go("recall s.t. over_abstention_rise<=0.9")
    before = (tmp_path / "out" / "report" / "records.jsonl").read_bytes()
    with pytest.raises(MisuseError, match="on report already"):  # a larger grid, another best cell
        go(RULE, strengths=[-9, 0.25], layers=[4])
    assert (tmp_path / "out" / "report" / "records.jsonl").read_bytes() == before


def test_where_no_cell_meets_the_bounds_report_stays_unseen_and_the_rule_may_be_loosened(go, tmp_path):
    found = go("recall s.t. recall>=1, tokens<=0")
    assert (found.chosen, found.report) == (None, None)
    assert found.nearest is not None
    assert not (tmp_path / "out" / "report").exists()
    assert go().chosen is not None


def test_what_cannot_be_meant_is_said_before_anything_is_measured(go, engine):
    with pytest.raises(MisuseError, match="leave split out"):
        go(measurement=Measurement(BOATS, split="report"))
    with pytest.raises(MisuseError, match=r"reads perplexity, .* add the scorer perplexity"):
        go("recall s.t. perplexity<=9")
    with pytest.raises(MisuseError, match="no metric"):
        go("best")
    open_ended = Suite("open", tuple(replace(item, should_abstain=None) for item in items(120)))
    with pytest.raises(MisuseError, match="reads abstention_recall, which no item"):
        go(measurement=Measurement(open_ended, scorers=["abstention"]))
    assert engine.drawn == 0


def test_a_cell_is_confirmed_beside_its_negative_and_its_random_control():
    direction = vector()
    gate = PositionGate(vector("gate", seed=3), 0.5)
    cell = Cell((direction.at(6, 1.5, gate=gate),))
    unsteered, chosen, negative, control = companions(cell, seed=7)
    assert (unsteered.role, chosen.id) == ("unsteered", cell.id)
    assert negative.interventions == (direction.at(6, -1.5, gate=gate),)
    assert (control.role, control.controls) == ("random", "abstain")
    assert control.interventions == (direction.random_control(7).at(6, 1.5, gate=gate),)


def test_a_cell_with_an_edit_is_confirmed_beside_the_edit_alone_and_its_companions_keep_it():
    steering = vector().at(6, 1.5)
    shown = companions(Cell((POLITE, steering)))
    assert [cell.role for cell in shown] == ["unsteered", "steered", "edited", "steered", "random"]
    assert all(cell.interventions[0] == POLITE for cell in shown[1:])
    assert [cell.role for cell in companions(Cell((POLITE,)))] == ["unsteered", "edited"]


def test_doses_are_known_only_where_the_norms_of_the_states_are():
    plain = vector()
    cells = [Cell(), Cell((plain.at((2, 3), -2.0),))]
    assert relative_doses(cells) is None
    norms = plain.direction.norm(dim=1) * 4
    measured = replace(plain, activation_norm=norms)
    cells = [Cell(), Cell((POLITE, measured.at((2, 3), -2.0)))]
    assert relative_doses(cells) == {cells[0].id: 0.0, cells[1].id: pytest.approx(2 * 2 / 4)}


def test_only_a_certified_cell_is_chosen_and_the_choice_says_the_bound(tmp_path, engine):
    suite = Suite("boats", tuple(items(800)))
    asked = Grid(vector(), [4, 6], "0.25:1.5:0.25")
    found = choose_then_report(
        engine,
        asked,
        "recall",
        Measurement(suite),
        guarantee="over_abstention<=0.35@95%",
        out=tmp_path / "out",
    )
    certified = found.certification.certified
    assert found.chosen.cell in certified
    assert 0 < len(certified) < 12
    assert found.chosen.levels["over_abstention"].value < 0.35
    best = max(found.choose.summary(), key=lambda row: row.levels["abstention_recall"].value)
    assert best.cell not in certified  # what a rule alone would have chosen
    choice = read_choice(tmp_path / "out" / "report")
    assert choice.bound == found.bound
    assert choice.bound.guarantee == "over_abstention<=0.35@95%"
    assert choice.bound.n == len({item.group for item in Measurement(suite).items})
    assert "over_abstention&lt;=0.35@95%" in found.report.report().read_text()
    with pytest.raises(MisuseError, match=r"measured .* on report already"):
        choose_then_report(engine, asked, "recall", Measurement(suite), out=tmp_path / "out")


def test_a_guarantee_that_so_few_groups_cannot_give_is_refused_before_anything_is_asked(engine, tmp_path):
    with pytest.raises(
        MisuseError, match=r"groups of items of boats / choose and 2 sequences.* at least 72 of them"
    ):
        choose_then_report(
            engine,
            Grid(vector(), [4, 6], [1.0]),
            "recall",
            ON_BOATS,
            guarantee="over_abstention<=0.05@95%",
            out=tmp_path / "out",
        )
    assert engine.drawn == 0


def test_where_nothing_is_certified_report_stays_unseen(tmp_path, engine):
    found = choose_then_report(
        engine,
        Grid(vector(), 6, [5.0]),
        "recall",
        ON_BOATS,
        guarantee="over_abstention<=0.2@80%",
        out=tmp_path / "out",
    )
    assert (found.chosen, found.report, found.nearest) == (None, None, None)
    assert found.certification.certified == []
