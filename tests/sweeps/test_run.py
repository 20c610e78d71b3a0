"""sweep on an engine of one's own: what it records, and that nothing is begun that the engine refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.core.errors import MisuseError
from steerkit.engines.base import Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory
from steerkit.sweeps.carrier import carrier
from steerkit.sweeps.sweep import sweep
from tests.sweeps.synthetic import SyntheticEngine, vector


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
        if any(steering.strength > 2 for steering in request.steerings):
            raise MisuseError("'strength' above 2 is beyond this engine")


@pytest.fixture
def engine(tiny: LanguageModel) -> Elsewhere:
    return Elsewhere(tiny)


def test_the_protocol_is_the_engines(engine: Elsewhere, tiny: LanguageModel, tmp_path: Path) -> None:
    run = sweep(engine, [vector()], layers=[6], strengths=[1], limit=4, out=tmp_path)
    directory = RunDirectory(tmp_path)
    protocol = directory.protocol
    assert (protocol.model, protocol.fingerprint, protocol.dtype) == (tiny.name, tiny.fingerprint, "bfloat16")
    assert protocol.template_digest == tiny.renderer.digest
    [environment] = directory.environments
    assert (environment.versions["engine"], environment.batch_size) == ("elsewhere", 3)
    assert len(list(directory.records())) == 4 * 3
    assert {row.role for row in run.summary()} == {"unsteered", "steered", "random"}


def test_every_cell_and_every_item_is_checked_before_anything_is_written(
    engine: Elsewhere, tmp_path: Path
) -> None:
    with pytest.raises(MisuseError, match="'strength' above 2"):
        sweep(engine, [vector()], layers=[6], strengths=[1, 3], limit=4, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert engine.drawn == 0
    engine.checked.clear()
    sweep(engine, [vector()], layers=[6], strengths=[1], limit=4, out=tmp_path / "run")
    assert len({request.prompt for request in engine.checked}) == 4
    assert {request.steerings[0].vector.name for request in engine.checked if request.steerings} == {
        "abstain",
        vector().random_control(0).name,
    }


def test_a_model_gets_the_transformers_engine_with_these_options(tiny: LanguageModel) -> None:
    made = carrier(tiny, 5, allow_mismatch=True)
    assert isinstance(made, TransformersEngine)
    assert (made.batch_size, made.dtype, made.model) == (5, "float32", tiny)


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"allow_mismatch": True}])
def test_an_engines_options_are_given_to_the_engine(engine: Elsewhere, options: dict, tmp_path: Path) -> None:
    assert carrier(engine) is engine
    with pytest.raises(MisuseError, match="engine's own"):
        sweep(engine, [vector()], layers=[6], strengths=[1], out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
