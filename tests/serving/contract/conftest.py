"""The servers that keep the contract: ours, and vLLM with the plugin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from tests.serving.serving import Asked, served
from tests.tiny import random_vector


@dataclass(frozen=True)
class Party:
    """A server, the model that it serves, and the vector `good` in its folder."""

    asked: Asked
    lm: LanguageModel
    folder: Path
    vector: SteeringVector
    layer: int


@pytest.fixture(
    scope="module",
    params=["ours", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.models])],
)
def party(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Party]:
    folder = (tmp_path_factory.mktemp("contract") / "vectors").resolve()
    folder.mkdir()
    if request.param == "ours":
        lm: LanguageModel = request.getfixturevalue("lm")
        vector = random_vector(lm, 1, name="good")
        vector.save(folder / "good.safetensors")
        random_vector(lm, 2, name="secret").save(folder.parent / "secret.safetensors")
        with served(TransformersEngine(lm), folder) as asked:
            yield Party(asked, lm, folder, vector, 1)
        return
    pytest.importorskip("vllm")
    from tests.integrations.vllm.served import Server

    lm = request.getfixturevalue("smollm")
    vector = random_vector(lm, 1, name="good")
    vector = (vector * (40 / float(vector.direction[10].norm()))).renamed("good")
    vector.save(folder / "good.safetensors")
    vector.save(folder.parent / "secret.safetensors")
    server = Server(lm.hf.config.name_or_path, folder, tmp_path_factory.mktemp("logs") / "log")
    try:
        server.wait()
        yield Party(Asked(server.url, "model"), lm, folder, vector, 10)
    finally:
        server.kill()
