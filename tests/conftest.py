"""Shared models: the two real bundled ones, and a tiny random one for the edges."""

from __future__ import annotations

import os
from pathlib import Path

# A test must never wait for a hub, and the hub client reads this when it is first imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["no_proxy"] = "127.0.0.1"  # test servers are asked directly

import pytest
import torch

from steerkit.models import LanguageModel, load_model
from tests.tiny import random_vector, tiny_model


def save_model(lm: LanguageModel, folder: Path) -> Path:
    """Write a model and its tokenizer as a transformers folder."""
    lm.hf.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _fixed_threads() -> None:
    torch.set_num_threads(int(os.environ.get("STEERKIT_TEST_THREADS", "2")))


@pytest.fixture(scope="session")
def smollm() -> LanguageModel:
    """The bundled reference model, real weights."""
    return load_model("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def gemma() -> LanguageModel:
    """The second bundled architecture, real weights, no chat template."""
    return load_model("gemma3-270m")


@pytest.fixture(scope="session", params=["smollm2-135m-instruct", "gemma3-270m"])
def bundled(request: pytest.FixtureRequest) -> LanguageModel:
    """Each bundled model in turn."""
    return request.getfixturevalue("smollm" if request.param.startswith("smollm") else "gemma")


@pytest.fixture(scope="session")
def tiny() -> LanguageModel:
    """A random four-layer Llama over bytes, with a chat template."""
    return tiny_model()


@pytest.fixture(scope="session")
def tiny_folder(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a transformers folder, for `--model`."""
    return save_model(tiny, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without a chat template, as a transformers folder."""
    return save_model(tiny_model(chat=False), tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="session")
def tiny_vector(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random vector for the tiny model, as a file."""
    return random_vector(tiny).save(tmp_path_factory.mktemp("vectors") / "tiny.safetensors")
