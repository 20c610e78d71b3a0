from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from steerkit.interventions.decoration import Decoration

from steerkit.analysis.choosing import read_choice
from steerkit.core.errors import MisuseError
from steerkit.interventions.steering import Gate
from steerkit.suites.items import save_items
from steerkit.sweeps.confirmation import choose_then_report, companions, relative_doses
from steerkit.sweeps.grid import Cell
from tests.sweeps.synthetic import SyntheticEngine, items, vector

MODEL = SimpleNamespace(
    name="synthetic", fingerprint="synthetic:0", renderer=SimpleNamespace(digest="cd" * 32)
)
RULE = "recall s.t. over_abstention_rise<=0.2"


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
    """go(rule, **options): choose, then report, in one folder."""
    suite = tmp_path / "boats.jsonl"
    save_items(items(120), suite)

    def go(rule=RULE, **options):
        asked = {
            "layers": [4, 6],
            "strengths": "0.5:1.5:0.5",
            "suite": suite,
            "out": tmp_path / "out",
        } | options
        return choose_then_report(engine, [vector()], rule, **asked)

    return go


def test_the_cell_chosen_on_one_split_is_measured_on_the_other(go, tmp_path):
    found = go()
    assert {record["split"] for record in found.choose.directory.records()} == {"choose"}
    assert {record["split"] for record in found.report.directory.records()} == {"report"}
    assert {row.role for row in found.choose.summary()} == {"unsteered", "steered"}

    rows = {(row.role, row.strength): row for row in found.report.summary()}
    strength = found.chosen.strength
    assert rows.keys() == {
        ("unsteered", 0.0), ("steered", strength), ("steered", -strength), ("random", strength)
    }  # fmt: skip
    assert rows["steered", strength].cell == found.chosen.cell
    assert rows["random", strength].place == rows["steered", strength].place
    choice = read_choice(tmp_path / "out" / "report")
    assert choice.cell == found.chosen.cell
    assert choice.rule == "abstention_recall s.t. over_abstention_rise<=0.2"


def test_the_best_decoration_is_measured_beside_the_chosen_cell(go):
    asked = [Decoration("polite", instruction="Be polite."), Decoration("short", instruction="Be short.")]
    found = go(decorations=asked)
    assert {row.decoration for row in found.choose.summary()} == {None, "polite", "short"}
    assert [row.role for row in found.report.summary()].count("decorated") == 1
    assert found.chosen.role == "steered"


def test_the_same_again_asks_the_engine_for_nothing(go, engine):
    go()
    drawn = engine.drawn
    assert go().chosen is not None
    assert engine.drawn == drawn


def test_report_is_not_looked_at_for_a_second_choice(go, tmp_path):
    go()
    with pytest.raises(MisuseError, match="name another --out"):
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


def test_what_cannot_be_meant_is_said_before_anything_is_measured(go, engine, tmp_path):
    with pytest.raises(MisuseError, match="leave split out"):
        go(split="report")
    with pytest.raises(MisuseError, match="add --perplexity"):
        go("recall s.t. perplexity<=9")
    with pytest.raises(MisuseError, match="no metric"):
        go("best")
    save_items([replace(item, should_abstain=None) for item in items(120)], tmp_path / "open.jsonl")
    with pytest.raises(MisuseError, match="reads abstention_recall, which no item"):
        go(suite=tmp_path / "open.jsonl")
    assert engine.drawn == 0


def test_a_cell_is_confirmed_beside_its_negative_and_its_random_control():
    direction = vector()
    gate = Gate(vector("gate", seed=3), 0.5)
    cell = Cell((direction.at(6, 1.5, gate=gate),))
    unsteered, chosen, negative, control = companions(cell, seed=7)
    assert (unsteered.role, chosen.id) == ("unsteered", cell.id)
    assert negative.steerings[0].digest == direction.at(6, -1.5, gate=gate).digest
    assert (control.role, control.controls) == ("random", "abstain")
    assert control.steerings[0].digest == direction.random_control(7).at(6, 1.5, gate=gate).digest


def test_doses_are_known_only_where_the_norms_of_the_states_are():
    plain = vector()
    cells = [Cell(), Cell((plain.at((2, 3), -2.0),))]
    assert relative_doses(cells) is None
    norms = plain.direction.norm(dim=1) * 4
    measured = replace(plain, activation_norm=norms)
    cells = [Cell(), Cell((measured.at((2, 3), -2.0),))]
    assert relative_doses(cells) == {cells[0].id: 0.0, cells[1].id: pytest.approx(2 * 2 / 4)}
