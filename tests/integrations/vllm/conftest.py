"""The plugin's tests. Those that need vLLM are marked and skipped where it is not installed; see `make test-vllm`."""

from __future__ import annotations

import pytest

from steerkit.interventions.gate import PositionGate
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from tests.tiny import random_vector, tiny_model


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vllm: needs vLLM; run by `make test-vllm` in its own environment")


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    """A random four-layer Llama over bytes that no other module has used."""
    return tiny_model()


@pytest.fixture
def cells(tiny: LanguageModel) -> list[tuple[Steering, ...]]:
    """Programs over layers, operations, scopes and compositions; the first does nothing."""
    v, w = random_vector(tiny, 1, name="v"), random_vector(tiny, 2, name="w")
    return [
        (),
        (v.at(1),),
        (v.at(1, -0.5), w.at(2, 2.0, scope="prompt")),
        (v.at(1, operation="ablate"), w.at(1, 0.5)),
        (v.at([0, 3], 0.3, operation="rotate", scope="all"),),
        (w.at(2, operation="clamp", target=1.5, scope="thinking"), v.at(2, 0.7, scope="answer")),
        (w.at(3, gate=PositionGate(v, 0.0)),),
        (v.at(1), v.at(1)),
    ]
