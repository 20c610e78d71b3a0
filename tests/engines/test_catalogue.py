"""Engines by name: opened from one set of options, a stranger's like those built in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steerkit.core.errors import MisuseError
from steerkit.core.registry import ENGINES, summary_of
from steerkit.engines.base import Decoding, Engine, Request
from steerkit.engines.catalogue import EngineOptions, engine, engine_for, open_engine
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.models import LanguageModel
from tests.command_line import steerkit


@pytest.fixture
def strangers(lm: LanguageModel) -> Iterator[list[EngineOptions]]:
    """What the engine `stranger` was opened with; it runs the tiny model."""
    asked: list[EngineOptions] = []
    list(ENGINES)  # those built in first

    @engine("stranger")
    def stranger(options: EngineOptions) -> Engine:
        """Run a model elsewhere."""
        asked.append(options)
        return engine_for(lm, options.batch_size)

    yield asked
    del ENGINES._things["stranger"]


@pytest.fixture
def lm(tiny: LanguageModel) -> LanguageModel:
    return tiny


def test_those_built_in_say_what_they_are() -> None:
    assert list(ENGINES)[:3] == ["transformers", "vllm", "server"]
    assert all(summary_of(ENGINES[name]).endswith(".") for name in ENGINES)


def test_the_transformers_engine_opens_by_name(tmp_path: Path, lm: LanguageModel) -> None:
    lm.hf.save_pretrained(tmp_path / "tiny")
    lm.tokenizer.save_pretrained(tmp_path / "tiny")
    opened = open_engine("transformers", EngineOptions(str(tmp_path / "tiny"), "cpu", batch_size=3))
    assert (opened.name, opened.batch_size, opened.dtype) == ("transformers", 3, "float32")
    assert opened.model.fingerprint == lm.fingerprint


def test_a_strangers_engine_opens_by_name_with_all_that_was_asked(strangers: list[EngineOptions]) -> None:
    asked = EngineOptions("m", servers=("http://a",), timeout=3.0, options={"x": 1}, batch_size=2)
    opened = open_engine("stranger", asked)
    assert strangers == [asked]
    [done] = opened.generate([Request("hello", (), Decoding(2))])
    assert done.tokens == 2


def test_the_command_line_opens_it_too(strangers: list[EngineOptions]) -> None:
    said = steerkit(
        "chat", "--engine", "stranger", "--vllm-option", "depth=3", "--max-new-tokens", 2, stdin="hello\n"
    )
    assert said.code == 0, said.err
    assert said.out.strip()
    assert strangers[0].options == {"depth": 3}
    listed = steerkit("list", "engines", "--json")
    assert '"stranger"' in listed.out


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("llama", {}, "no engine 'llama'; there are transformers, vllm, server"),
        ("transformers", {"timeout": 3.0}, "timeout 3.0 is for the engine server"),
        ("transformers", {"servers": ("http://a",)}, "is for the engine server"),
        ("vllm", {"served_name": "m"}, "is for the engine server"),
        ("vllm", {"device": "cpu"}, "device 'cpu' is for the engine transformers"),
        ("server", {"options": {"x": 1}}, "is for the engine vllm"),
        ("server", {}, "needs a server's address"),
    ],
)
def test_an_option_of_another_engine_is_refused_before_anything_is_loaded(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(MisuseError, match=said):
        open_engine(name, EngineOptions("no-such-model", **options))


def test_a_loaded_model_gets_the_transformers_engine_and_an_engine_is_its_own(lm: LanguageModel) -> None:
    made = engine_for(lm, 5)
    assert isinstance(made, TransformersEngine)
    assert made.batch_size == 5
    assert engine_for(made) is made
    for own in ({"batch_size": 3}, {"allow_mismatch": True}):
        with pytest.raises(MisuseError, match="the engine's own"):
            engine_for(made, **own)
