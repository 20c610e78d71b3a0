"""The plugin beside a vLLM that it does not fit, for which stand-ins are put in the place of vLLM's modules."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from steerkit.core.errors import SteerkitError
from steerkit.integrations.vllm import register
from steerkit.integrations.vllm.patches import Patches

STEERED: dict[str, Any] = {"steerkit": "abstain@layer=1"}
Put = Callable[..., ModuleType]


def params(**extra: Any) -> SimpleNamespace:
    return SimpleNamespace(extra_args=extra)


class LLMEngine:
    def add_request(self, name: str, prompt: str, params: Any) -> str:
        del prompt, params
        return name


class AsyncLLM:
    async def add_request(self, name: str, prompt: str, params: Any) -> str:
        del prompt, params
        return name


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """Put modules of a vLLM into place, each with the classes given; the plugin is loaded anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)

    def module(name: str, **contents: Any) -> ModuleType:
        made = ModuleType(name)
        made.__path__ = []
        vars(made).update(contents)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    register.cache_clear()
    yield module
    register.cache_clear()


def fresh(kind: type) -> type:
    """A copy of a class, for the plugin to change."""
    return type(kind.__name__, kind.__bases__, dict(vars(kind)))


@pytest.fixture
def other_version(put: Put) -> SimpleNamespace:
    """A vLLM of another version with its two engines."""
    sync, asynchronous = fresh(LLMEngine), fresh(AsyncLLM)
    vllm = put("vllm", __version__="0.99.0")
    for package in ("vllm.v1", "vllm.v1.engine"):
        put(package)
    put("vllm.v1.engine.llm_engine", LLMEngine=sync)
    put("vllm.v1.engine.async_llm", AsyncLLM=asynchronous)
    return SimpleNamespace(vllm=vllm, sync=sync, asynchronous=asynchronous)


def test_it_stops_nobody_and_refuses_whoever_names_a_steering(other_version: SimpleNamespace) -> None:
    register()
    engine = other_version.sync()
    assert engine.add_request("a", "hi", params()) == "a"
    assert engine.add_request("a", "hi", params=SimpleNamespace(extra_args=None)) == "a"
    assert engine.add_request("a", "hi", params(other=1)) == "a"
    for named in (STEERED, {"steerkit_prompt_tokens": 3}, {"Steerkit": ""}, {"steerkit": None}):
        for call in ((params(**named),), (SimpleNamespace(sampling_params=params(**named)),)):
            with pytest.raises(ValueError, match=r"does not fit vLLM 0\.99\.0.*written for vLLM 0\.32"):
                engine.add_request("a", "hi", *call)
    with pytest.raises(ValueError, match="does not fit"):
        engine.add_request("a", "hi", params=params(**STEERED))


def test_the_asynchronous_engine_refuses_too(other_version: SimpleNamespace) -> None:
    register()
    engine = other_version.asynchronous()

    async def ask(asked: Any) -> str:
        return await engine.add_request("a", "hi", asked)

    assert asyncio.run(ask(params())) == "a"
    with pytest.raises(ValueError, match="does not fit"):
        asyncio.run(ask(params(**STEERED)))


def test_a_refusal_is_an_error_of_vllms_own_where_it_has_one(
    put: Put, other_version: SimpleNamespace
) -> None:
    class VLLMValidationError(ValueError):
        def __init__(self, message: str, parameter: str) -> None:
            super().__init__(message)
            self.parameter = parameter

    put("vllm.exceptions", VLLMValidationError=VLLMValidationError)
    register()
    with pytest.raises(VLLMValidationError, match="does not fit") as error:
        other_version.sync().add_request("a", "hi", params(**STEERED))
    assert error.value.parameter != "steerkit"  # by which clients know a server that steers


def test_http_requests_whose_steering_would_be_lost_on_the_way_are_refused(
    put: Put, other_version: SimpleNamespace
) -> None:
    class CompletionRequest:
        def __init__(self, xargs: dict[str, Any] | None = None, **extra: Any) -> None:
            self.vllm_xargs, self.model_extra = xargs, extra

        def to_beam_search_params(self) -> str:
            return "beams"

        def to_sampling_params(self) -> str:
            return "sampling"

    put("vllm.entrypoints.anywhere", CompletionRequest=CompletionRequest)
    assert other_version
    register()
    assert CompletionRequest({"other": 1}, user="me").to_beam_search_params() == "beams"
    for lost in (
        CompletionRequest(STEERED),
        CompletionRequest(**STEERED),
        CompletionRequest(extra_args=STEERED),
        CompletionRequest(vllm_xargs=STEERED),  # a version that has no such field
    ):
        for convert in (lost.to_beam_search_params, lost.to_sampling_params):
            with pytest.raises(ValueError, match="does not fit"):
                convert()


@pytest.mark.parametrize(
    ("module", "kind"),
    [("vllm.v1.engine.processor", "Processor"), ("vllm.v1.engine.input_processor", "InputProcessor")],
)
def test_another_entry_is_watched_where_the_engines_have_gone(put: Put, module: str, kind: str) -> None:
    class Processor:
        def process_inputs(self, *, params: Any) -> Any:
            return params

    put("vllm", __version__="0.99.0")
    for package in ("vllm.v1", "vllm.v1.engine"):
        put(package)
    put(module, **{kind: Processor})
    register()
    assert Processor().process_inputs(params=params()).extra_args == {}
    with pytest.raises(ValueError, match="does not fit"):
        Processor().process_inputs(params=params(**STEERED))


def test_one_engine_of_two_is_no_promise(put: Put) -> None:
    put("vllm", __version__="0.99.0")
    for package in ("vllm.v1", "vllm.v1.engine"):
        put(package)
    put("vllm.v1.engine.llm_engine", LLMEngine=fresh(LLMEngine))
    with pytest.raises(SteerkitError, match="nor can requests that name a steering be refused"):
        register()


def test_the_right_version_without_what_is_needed_is_left_as_it_was_but_for_the_refusals(put: Put) -> None:
    def hashed(*_: object) -> list[Any]:
        return []

    class Config:
        def compute_hash(self) -> str:
            return "abc"

    before, engine = Config.compute_hash, fresh(LLMEngine)
    put("vllm", __version__="0.32.0")
    for package in ("vllm.v1", "vllm.v1.engine", "vllm.v1.core", "vllm.v1.worker"):
        put(package)
    put("vllm.v1.worker.gpu_worker", Worker=type("Worker", (), {"load_model": None}))
    put("vllm.config", VllmConfig=Config)
    keys = put("vllm.v1.core.kv_cache_utils", _gen_prompt_embeds_extra_hash_keys=hashed)
    vars(sys.modules["vllm.v1.core"])["kv_cache_utils"] = keys
    put("vllm.v1.engine.core", EngineCore=type("EngineCore", (), {}))
    put("vllm.v1.engine.llm_engine", LLMEngine=engine)
    put("vllm.v1.engine.async_llm", AsyncLLM=fresh(AsyncLLM))
    register()
    assert Config.compute_hash is before
    assert keys._gen_prompt_embeds_extra_hash_keys is hashed
    assert sys.modules["vllm"].steerkit_refusal.startswith("steerkit's plugin does not fit vLLM 0.32.0")
    with pytest.raises(ValueError, match="_initialize_kv_caches"):
        engine().add_request("a", "hi", params(**STEERED))


def test_patches_are_put_back_whole() -> None:
    class Base:
        def inherited(self) -> str:
            return "base"

    class Kind(Base):
        def own(self) -> str:
            return "own"

    patches = Patches()
    for name in ("inherited", "own"):
        patches.wrap(Kind, name, lambda original, self: original(self) + "!")
    assert (Kind().inherited(), Kind().own(), Base().inherited()) == ("base!", "own!", "base")
    with pytest.raises(AttributeError):
        patches.wrap(Kind, "absent", lambda original: original)
    patches.undo()
    assert (Kind().inherited(), Kind().own()) == ("base", "own")
    assert "inherited" not in vars(Kind)
