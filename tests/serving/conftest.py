"""A tiny model, its vectors in a folder, and a server of both."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from tests.serving.serving import Asked, served
from tests.tiny import random_vector, tiny_model


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_model()


@pytest.fixture(scope="module")
def vector(lm: LanguageModel) -> SteeringVector:
    return random_vector(lm, 1, 3.0, name="good")


@pytest.fixture(scope="module")
def vectors(lm: LanguageModel, vector: SteeringVector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good vector and a probe, and with what must not be read; a secret lies beside it."""
    folder = tmp_path_factory.mktemp("served") / "vectors"
    folder.mkdir()
    good = vector.save(folder / "good.safetensors")
    vector.save(folder.parent / "secret.safetensors")
    noise = torch.randn(lm.n_layers, lm.d_model, generator=torch.Generator().manual_seed(4))
    named = ProbeMetadata(name="doubt", model=lm.name, fingerprint=lm.fingerprint, layer=1)
    Probe(noise, torch.zeros(lm.n_layers), named).save(folder / "doubt.safetensors")
    with safe_open(good, "pt") as file:
        header = file.metadata()
    tensors = load_file(good)
    tensors["direction"][1, 3] = torch.nan
    save_file(tensors, folder / "nan.safetensors", header)
    with (folder / "huge.safetensors").open("wb") as file:
        file.truncate(10 << 30)
    torch.save({"direction": noise}, folder / "pickle.safetensors")
    torch.save({"direction": noise}, folder / "pickle.pt")
    random_vector(tiny_model(seed=7), name="wrong").save(folder / "wrong.safetensors")
    (folder / "note.json").write_text(json.dumps({}))
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    return folder.resolve()


@pytest.fixture(scope="module")
def engine(lm: LanguageModel) -> TransformersEngine:
    return TransformersEngine(lm)


@pytest.fixture(scope="module")
def server(engine: TransformersEngine, vectors: Path) -> Iterator[Asked]:
    with served(engine, vectors) as asked:
        yield asked
