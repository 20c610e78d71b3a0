"""The tiers, and the shared models: the two real bundled ones, and a tiny random one for the edges.

A test that reaches a fixture of a real model is of the tier `models`; one that loads a real model by itself says so
with `pytest.mark.models`. Every other test runs where no bundled model can be had, so one that forgets to say it fails.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

# A test must never wait for a hub, and the hub client reads this when it is first imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["no_proxy"] = "127.0.0.1"  # test servers are asked directly

import hypothesis
import pytest
import torch

from steerkit.models import LanguageModel, load_model
from tests import scripted
from tests.tiny import random_vector, tiny_model

REAL_MODELS = {"smollm", "gemma", "bundled"}
SLOW = {"benchmarks", "experiments"}  # rooms whose tests run whole studies
NO_MODELS = {
    "STEERKIT_CACHE": "",
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "",
}  # an empty cache, and no pip to fill it
_outside: dict[str, str | None] = {name: os.environ.get(name) for name in NO_MODELS}


def pytest_configure(config: pytest.Config) -> None:
    """Make the empty cache of the tests that may load no bundled model."""
    folder = tempfile.mkdtemp(prefix="steerkit-no-models-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    NO_MODELS["STEERKIT_CACHE"] = folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what reaches a real model through its fixtures, and the tests of whole studies."""
    for item in items:
        if SLOW.intersection(item.path.relative_to(Path(__file__).parent).parts):
            item.add_marker(pytest.mark.slow)
        if REAL_MODELS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.models)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hide the bundled models from a test that is not of their tier, before its first fixture is made."""
    hidden = item.get_closest_marker("models") is None
    for name, value in (NO_MODELS if hidden else _outside).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


# No test asserts a time: an example may take as long as a busy machine makes it.
hypothesis.settings.register_profile("steerkit", deadline=None)
hypothesis.settings.load_profile("steerkit")


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


@pytest.fixture(scope="session")
def scripted_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where the scripted model of a name (`m_think`, …; see `tests.scripted`) lies as a folder; written once."""

    @functools.cache
    def folder(name: str) -> Path:
        return scripted.save(scripted.BUILDERS[name](), tmp_path_factory.mktemp("scripted") / name)

    return folder


@pytest.fixture(scope="session")
def scripted_model() -> Callable[[str], LanguageModel]:
    """The scripted model of a name, built once."""

    @functools.cache
    def model(name: str) -> LanguageModel:
        return scripted.BUILDERS[name]()

    return model
