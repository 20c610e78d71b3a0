"""Engines by name, opened from one set of options; and the engine of a model that comes without one.

    from steerkit import engine

    @engine("my-engine")
    def my_engine(options):
        \"\"\"Run a model in my program.\"\"\"
        return MyEngine(options.model, **options.options)

What is returned satisfies `steerkit.engines.base.Engine`; a command-line verb opens it for `--engine my-engine`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from steerkit.core.errors import MisuseError
from steerkit.core.registry import ENGINES

if TYPE_CHECKING:
    from steerkit.core.prompts import TemplateOption
    from steerkit.engines.base import Engine
    from steerkit.engines.transformers.engine import TransformersEngine
    from steerkit.models import LanguageModel

# Options that not every engine has.
PLACEMENT = ("device", "device_map", "max_memory", "offload_folder", "quantization")
SPECIFIC = (*PLACEMENT, "servers", "served_name", "timeout", "options", "template_options")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is opened with; None leaves a choice to the engine.

    `model` is a bundled name, a hub id, a folder or a GGUF file, `dtype` and the fields named in PLACEMENT are as in
    `load_model`. `batch_size` is how many requests are under way at once. With `allow_mismatch` a vector extracted from
    other weights of the same architecture is accepted. `servers` are addresses, `served_name` is the model's name
    there, `timeout` the seconds that one request may take. `options` are the engine's own, by name, `template_options`
    those of the model's chat template. `progress` is told what takes long.
    """

    model: str
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    allow_mismatch: bool = False
    servers: Sequence[str] = ()
    served_name: str | None = None
    timeout: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda _line: None
    device_map: str | Mapping[str, int | str] | None = None
    max_memory: Mapping[int | str, int | str] | None = None
    offload_folder: str | os.PathLike[str] | None = None
    quantization: str | None = None
    template_options: Mapping[str, TemplateOption] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineMaker:
    """A registered engine: its name, the function that opens it, and those of SPECIFIC that it takes."""

    name: str
    function: Callable[[EngineOptions], Engine]
    takes: tuple[str, ...] = SPECIFIC

    @property
    def doc(self) -> str:
        """What the function says of itself."""
        return self.function.__doc__ or ""

    def check(self, options: EngineOptions) -> None:
        """Raise MisuseError for an option that this engine has no use for."""
        for option in SPECIFIC:
            if getattr(options, option) and option not in self.takes:
                owners = [name for name, maker in ENGINES.items() if option in maker.takes]
                raise MisuseError(
                    f"{option.replace('_', ' ')} {_shown(getattr(options, option))} is for the engine "
                    f"{' or '.join(owners)}, and the {self.name} engine has no use for it"
                )

    def open(self, options: EngineOptions) -> Engine:
        """Return the engine, ready. Raises MisuseError for options that cannot be meant."""
        self.check(options)
        return self.function(options)


Opener = Callable[[EngineOptions], "Engine"]


def engine(name: str, takes: Sequence[str] = SPECIFIC) -> Callable[[Opener], Opener]:
    """Register a function that opens an engine; `takes` names those of SPECIFIC that mean something to it."""

    def register(function: Opener) -> Opener:
        ENGINES.add(name, EngineMaker(name, function, tuple(takes)))
        return function

    return register


def open_engine(name: str, options: EngineOptions) -> Engine:
    """Return the engine of this name, ready. Raises MisuseError for a name or options that cannot be meant."""
    maker: EngineMaker = ENGINES[name]
    return maker.open(options)


@overload
def engine_for(
    model: LanguageModel, batch_size: int | None = ..., *, allow_mismatch: bool = ...
) -> TransformersEngine: ...


@overload
def engine_for(model: Engine, batch_size: int | None = ..., *, allow_mismatch: bool = ...) -> Engine: ...


def engine_for(
    model: LanguageModel | Engine, batch_size: int | None = None, *, allow_mismatch: bool = False
) -> Engine:
    """Return the engine itself, or for a loaded model the transformers engine with these options.

    Raises MisuseError where options are given beside an engine, which has its own.
    """
    from steerkit.models import LanguageModel

    if isinstance(model, LanguageModel):
        from steerkit.engines.transformers.engine import TransformersEngine

        return TransformersEngine(model, batch_size, allow_mismatch=allow_mismatch)
    if not hasattr(model, "generate") or hasattr(model, "get_decoder"):
        from steerkit.models.language_model import check_loaded

        check_loaded(model)
    if batch_size is not None or allow_mismatch:
        raise MisuseError("batch_size and allow_mismatch are the engine's own: give them when you make it")
    return model


@engine("transformers", takes=(*PLACEMENT, "template_options"))
def transformers(options: EngineOptions) -> Engine:
    """Run a model in this process with transformers, rows of many cells in one batch."""
    from steerkit.models import load_model

    placed = {name: getattr(options, name) for name in PLACEMENT}
    lm = load_model(
        options.model,
        dtype=options.dtype,
        progress=options.progress,
        template_options=options.template_options,
        **placed,
    )
    return engine_for(lm, options.batch_size, allow_mismatch=options.allow_mismatch)


@engine("vllm", takes=("options", "template_options"))
def vllm(options: EngineOptions) -> Engine:
    """Run a model in this process with vLLM; options are arguments of `vllm.LLM`."""
    from steerkit.engines.remote.served_model import ServedModel
    from steerkit.engines.remote.vllm import WINDOW, VllmEngine

    return VllmEngine(
        ServedModel(options.model, options.progress, template_options=options.template_options),
        window=options.batch_size or WINDOW,
        dtype=options.dtype,
        allow_mismatch=options.allow_mismatch,
        options=options.options,
    )


@engine("server", takes=("servers", "served_name", "timeout", "template_options"))
def server(options: EngineOptions) -> Engine:
    """Ask vLLM servers that have steerkit's plugin, one or several replicas."""
    from steerkit.engines.remote.served_model import ServedModel
    from steerkit.engines.remote.server import CONCURRENCY, TIMEOUT, ServerEngine

    if not options.servers:
        raise MisuseError("the server engine needs a server's address, such as http://localhost:8000")
    return ServerEngine(
        options.servers,
        ServedModel(options.model, options.progress, template_options=options.template_options),
        served_name=options.served_name,
        concurrency=options.batch_size or CONCURRENCY,
        timeout=options.timeout or TIMEOUT,
        dtype=options.dtype or "auto",
        allow_mismatch=options.allow_mismatch,
    )


def _shown(value: object) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
