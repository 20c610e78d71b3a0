"""sweep on an engine of one's own: what it records, and that nothing is begun that the engine refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.core.errors import MisuseError
from steerkit.engines.base import Request, steerings_of
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell
from steerkit.runs.directory import RunDirectory
from steerkit.suites.suite import Suite, load_suite
from steerkit.sweeps.grid import Grid
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.sweep import sweep
from tests.sweeps.synthetic import SyntheticEngine, vector

FOUR = Measurement(limit=4)


class Elsewhere(SyntheticEngine):
    """A synthetic engine that says what it runs, and refuses strengths above 2."""

    name = "elsewhere"
    dtype = "bfloat16"
    batch_size = 3

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.checked: list[Request] = []

    def check(self, request: Request) -> None:
        self.checked.append(request)
        if any(steering.strength > 2 for steering in steerings_of(request.interventions)):
            raise MisuseError("'strength' above 2 is beyond this engine")


@pytest.fixture
def engine(tiny: LanguageModel) -> Elsewhere:
    return Elsewhere(tiny)


def test_the_protocol_is_the_engines(engine: Elsewhere, tiny: LanguageModel, tmp_path: Path) -> None:
    run = sweep(engine, Grid(vector(), 6, 1), FOUR, out=tmp_path)
    directory = RunDirectory(tmp_path)
    protocol = directory.protocol
    assert (protocol.model, protocol.fingerprint, protocol.dtype) == (tiny.name, tiny.fingerprint, "bfloat16")
    assert protocol.template_digest == tiny.renderer.digest
    [environment] = directory.environments
    assert (environment.versions["engine"], environment.batch_size) == ("elsewhere", 3)
    assert len(list(directory.records())) == 4 * 3
    assert {row.role for row in run.summary()} == {"unsteered", "steered", "random"}


def test_cells_can_be_given_themselves(engine: Elsewhere, tmp_path: Path) -> None:
    run = sweep(engine, [Cell(), Cell((vector().at(6),)), Cell((vector().at(6),))], FOUR, out=tmp_path)
    assert [row.role for row in run.summary()] == ["unsteered", "steered"]


def test_scorers_are_the_suites_and_those_beside_them(engine: Elsewhere, tmp_path: Path) -> None:
    plain, more = FOUR.scored_by, Measurement(limit=4, scorers=["perplexity", "abstention"]).scored_by
    assert [scorer.name for scorer in more] == [*(scorer.name for scorer in plain), "perplexity"]
    run = sweep(engine, [Cell()], Measurement(limit=4, scorers=["perplexity"]), out=tmp_path)
    assert run.protocol.scorers == tuple(scorer.name for scorer in more)
    with pytest.raises(MisuseError, match="no scorer 'charm'"):
        sweep(engine, [Cell()], Measurement(scorers=["charm"]), out=tmp_path / "none")
    with pytest.raises(MisuseError, match=r"no sweep can ask the scorer 'judge': .* once a run is there"):
        sweep(engine, [Cell()], Measurement(scorers=["judge"]), out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_measurement_reads_its_suite_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []

    def counting(reference: Suite | str) -> Suite:
        read.extend([] if isinstance(reference, Suite) else [reference])
        return load_suite(reference)

    monkeypatch.setattr("steerkit.sweeps.measurement.load_suite", counting)
    measurement = Measurement("abstention", limit=4)
    assert len(measurement.items) == len(measurement.on("report").items) == 4
    assert measurement.whole is measurement.on("report").on("choose").whole
    assert read == ["abstention"]


def test_a_suite_is_given_itself_or_by_name() -> None:
    whole = load_suite("abstention")
    assert Measurement(whole, limit=6).items == Measurement("abstention", limit=6).items


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"split": "test"}, "choose one of fit, choose, report"),
        ({"limit": 0}, "limit is at least 1, got 0"),
        ({"samples": 0}, "samples is at least 1, got 0"),
    ],
)
def test_a_measurement_that_cannot_be_is_said_when_it_is_made(asked: dict, said: str) -> None:
    with pytest.raises(MisuseError, match=said):
        Measurement(**asked)


def test_every_cell_and_every_item_is_checked_before_anything_is_written(
    engine: Elsewhere, tmp_path: Path
) -> None:
    polite = PromptEdit(instruction="Be polite.")
    with pytest.raises(MisuseError, match="'strength' above 2"):
        sweep(engine, Grid(vector(), 6, [1, 3]), FOUR, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert engine.drawn == 0
    engine.checked.clear()
    sweep(engine, Grid(vector(), 6, 1, {"edit": [None, polite]}), FOUR, out=tmp_path / "run")
    for edits in ((), (polite,)):
        assert len({r.prompt for r in engine.checked if r.interventions == edits}) == 4
    assert {s.vector.name for r in engine.checked for s in steerings_of(r.interventions)} == {
        "abstain",
        vector().random_control(0).name,
    }


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"allow_mismatch": True}])
def test_an_engines_options_are_given_to_the_engine(engine: Elsewhere, options: dict, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="engine's own"):
        sweep(engine, Grid(vector(), 6, 1), FOUR, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
