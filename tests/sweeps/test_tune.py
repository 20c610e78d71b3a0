"""tune: what it writes, what it refuses, and that it decides the same after it was interrupted."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import steerkit as sk
from steerkit.core.bootstrap import Estimate
from steerkit.core.errors import MisuseError
from steerkit.interventions.vector import load_vector
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.tune import Budget, tune
from steerkit.sweeps.tune_price import Price, PriceLine
from tests.sweeps.synthetic import vector
from tests.sweeps.test_confirmation import BOATS, Engine

RULE = "recall s.t. over_abstention_rise<=0.35"
ASKED = {
    "layers": [2, 4, 6, 8],
    "strengths": "0.25:2:0.25",
    "axes": {"scope": "completion", "half_life": [None]},
    "prompts": [],
    "price": None,
}


@pytest.fixture
def go(tmp_path):
    """go(rule, **asked): tune a synthetic vector in `out`."""

    def go(rule=RULE, *, engine=None, out="out", measurement=Measurement(BOATS), **asked):
        return tune(engine or Engine(), vector(), rule, measurement, out=tmp_path / out, **ASKED | asked)

    return go


def test_the_pick_is_recommended_where_it_is_clearly_better(go, tmp_path):
    found = go("recall s.t. over_abstention_rise<=0.5")
    assert found.is_better
    assert found.verdict.against_unsteered.low > 0
    written = load_vector(tmp_path / "out" / "abstain.safetensors")
    (use,) = sk.parse_all([str(tmp_path / "out" / "abstain.safetensors")])
    assert use.digest == found.report.cell(found.pick.cell).interventions[0].digest
    assert written.metadata.recommended
    result = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert result["is_better"]
    assert result["pick"]["cell"] == found.pick.cell
    assert found.pick.at.spec in (tmp_path / "out" / "card.md").read_text()


def test_a_pick_that_does_not_keep_its_bound_on_report_is_not_recommended(go):
    found = go()
    assert found.verdict.against_unsteered.low > 0
    assert {each.held for each in found.verdict.bounds} != {"kept"}
    assert not found.is_better
    assert "the bound over_abstention_rise<=0.35 is" in " ".join(found.verdict.reasons())


def test_the_pick_stands_on_report_beside_unsteered_random_and_the_best_prompt(go):
    found = go(prompts=["dont-know-system", "dont-know-instruction"])
    roles = [row.role for row in found.report.summary()]
    assert sorted(roles) == ["edited", "random", "steered", "unsteered"]
    assert {record.split for record in found.report.records()} == {"report"}
    assert found.verdict.against_prompt is not None


def test_where_nothing_meets_the_bounds_nothing_is_measured_on_report(go, tmp_path):
    found = go("recall s.t. over_abstention_drop>=0.9")
    assert found.pick is None
    assert found.report is None
    assert found.nearest is not None
    assert not (tmp_path / "out" / "report").exists()
    assert "no candidate meets the bounds" in (tmp_path / "out" / "card.md").read_text()
    assert not load_vector(found.file).metadata.recommended


def test_what_is_no_better_is_not_recommended(go):
    found = go("degenerate s.t. tokens<=1000")
    assert found.pick is not None
    assert not found.is_better
    assert found.verdict.reasons()
    assert not load_vector(found.file).metadata.recommended


class KilledError(Exception):
    pass


class Stopping(Engine):
    """Dies after so many completions."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def _complete(self, request):
        self.after -= 1
        if self.after < 0:
            raise KilledError
        return super()._complete(request)


@pytest.mark.parametrize("after", [1, 150, 230, 300])
def test_a_tune_that_was_interrupted_ends_as_it_would_have_ended(go, tmp_path, after):
    whole = go(out="whole")
    with pytest.raises(KilledError):
        go(out="cut", engine=Stopping(after))
    resumed = go(out="cut")
    assert resumed.raced.heats == whole.raced.heats
    assert resumed.pick.cell == whole.pick.cell
    assert resumed.verdict == whole.verdict
    for file in ("plan.json", "card.md"):
        one, other = ((tmp_path / out / file).read_text() for out in ("whole", "cut"))
        assert one == other


def test_a_finished_tune_measures_nothing_again(go):
    first = go()
    engine = Engine()
    again = go(engine=engine)
    assert engine.drawn == 0
    assert again.to_json() == first.to_json()


@pytest.mark.parametrize("changed", [{"budget": 400}, {"seed": 1}, {"rule": "recall"}, {"layers": [6]}])
def test_another_plan_in_the_same_folder_is_refused(go, changed):
    go()
    with pytest.raises(MisuseError, match="tunes something else"):
        go(**changed)


def test_the_race_keeps_to_its_budget(go):
    found = go(budget=600, prompts=["dont-know-system", "dont-know-instruction"])
    assert found.raced.heats[-1].spent <= 600
    in_tokens = go(budget="6000 tokens", out="tokens")
    assert in_tokens.raced.heats[-1].spent <= 6000 * 1.2


@pytest.mark.parametrize("text", ["", "many", "-3", "0", "5 minutes"])
def test_a_budget_that_cannot_be_read_is_refused(text):
    with pytest.raises(MisuseError, match="budget"):
        Budget.parse(text)


def test_what_cannot_be_is_refused_before_anything_is_measured(go, tmp_path):
    with pytest.raises(MisuseError, match="give at least 64"):
        go(budget=10)
    with pytest.raises(MisuseError, match="leave split out"):
        go(measurement=replace(Measurement(BOATS), split="report"))
    with pytest.raises(MisuseError, match="give strengths to this engine"):
        go(strengths=None, out="kl")
    with pytest.raises(MisuseError, match="without a vector"):
        go(prompts=[vector().at(6, 1.0)])
    assert not (tmp_path / "out" / "choose").exists()


def test_the_price_says_of_each_line_whether_it_is_kept(go):
    found = go(price=Price(limit=8, max_new_tokens=24))
    lines = {line.name: line for line in found.price}
    assert list(lines) == [
        "instruction following", "arithmetic", "endless loops", "language", "refusals", "reworded", "role prompt",
    ]  # fmt: skip
    assert lines["reworded"].margin > 0
    assert all(line.verdict in ("kept", "lost", "not shown", "not measured") for line in found.price)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.09, 0.1, "kept"), (-0.3, -0.11, "lost"), (-0.2, 0.1, "not shown"), (-0.1, 0.1, "not shown")],
)
def test_a_margin_that_the_interval_touches_is_not_kept(low, high, verdict):
    assert PriceLine("a", "b", 0.5, 0.5, Estimate(0.0, low, high, 10), 0.1).verdict == verdict


def test_what_was_not_measured_has_no_verdict_and_is_null_in_json():
    line = PriceLine("a", "b", math.nan, math.nan, Estimate(math.nan, math.nan, math.nan, 0), 0.1)
    assert line.verdict == "not measured"
    assert json.loads(json.dumps(line.to_json(), allow_nan=False))["picked"] is None


@pytest.mark.parametrize("margin", [{"refusals": 0}, {"perplexity": 1.0}, {"limit": 1}, {"gain": 2}])
def test_a_margin_that_means_nothing_is_refused(margin):
    with pytest.raises(MisuseError):
        Price(**margin)
