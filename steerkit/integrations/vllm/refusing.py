"""Beside a vLLM that the plugin does not fit: every request that names a steering is refused, all others are served.

Two places are watched: the functions by which every request enters an engine (its *entries*), where its sampling
parameters are at hand whatever a version calls things, and the classes of HTTP requests, because beam search and
misplaced arguments lose what they asked for before that. Where no entry is known nothing can be promised, and the
process has to stop.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from steerkit.core.errors import SteerkitError
from steerkit.engines.remote.arguments import our_names
from steerkit.integrations.vllm.patches import Patches

log = logging.getLogger("vllm.steerkit")

# Ways through which all requests go: one of them is enough, given all its functions.
ENTRIES = (
    (("vllm.v1.engine.input_processor", "InputProcessor", "process_inputs"),),
    (("vllm.v1.engine.processor", "Processor", "process_inputs"),),
    (
        ("vllm.v1.engine.llm_engine", "LLMEngine", "add_request"),
        ("vllm.v1.engine.async_llm", "AsyncLLM", "add_request"),
    ),
    (
        ("vllm.engine.llm_engine", "LLMEngine", "add_request"),
        ("vllm.engine.async_llm_engine", "AsyncLLMEngine", "add_request"),
    ),
)
PARAMETERS = ("to_sampling_params", "to_beam_search_params")
EXTRAS = ("vllm_xargs", "extra_args")


def install(reason: str) -> None:
    """Refuse all requests that name a steering, for `reason`, which clients are told.

    Raises SteerkitError where this vLLM has no entry that is known.
    """

    def on_entry(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for given in (*args, *kwargs.values()):
            params = getattr(given, "sampling_params", given)
            if our_names(getattr(params, "extra_args", None)):
                raise _refused(reason)
        return original(*args, **kwargs)

    def in_http(original: Callable[..., Any], request: Any, *args: Any, **kwargs: Any) -> Any:
        if _names_steering(request):
            raise _refused(reason)
        return original(request, *args, **kwargs)

    found = [way for way in ENTRIES if _wrapped(way, on_entry)]
    if not found:
        raise SteerkitError(
            f"{reason}; nor can requests that name a steering be refused there: install another vLLM, or leave the "
            "plugin out with VLLM_PLUGINS"
        )
    for kind in _http_requests():
        for name in PARAMETERS:
            if name in vars(kind):
                Patches().wrap(kind, name, in_http)
    vars(sys.modules["vllm"])["steerkit_refusal"] = reason  # for an engine in this process
    log.warning("steerkit: requests that name a steering will be refused: %s", reason)


def _wrapped(way: tuple[tuple[str, str, str], ...], around: Callable[..., Any]) -> bool:
    """Wrap all functions of one way, or none."""
    patches = Patches()
    try:
        for module, kind, function in way:
            patches.wrap(getattr(importlib.import_module(module), kind), function, around)
    except (ImportError, AttributeError):
        patches.undo()
        return False
    return True


def _http_requests() -> list[type]:
    """The classes of HTTP requests: in a server they are there before it loads plugins."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("vllm.entrypoints")]
    kinds = [value for module in modules for value in list(vars(module).values()) if isinstance(value, type)]
    return list(dict.fromkeys(kind for kind in kinds if any(name in vars(kind) for name in PARAMETERS)))


def _names_steering(request: Any) -> bool:
    """Whether a request's body names one of our arguments, in its place or beside it."""
    fields = {**vars(request), **(getattr(request, "model_extra", None) or {})}
    extras = [fields.get(name) for name in EXTRAS]
    return any(our_names(names) for names in (fields, *(e for e in extras if isinstance(e, Mapping))))


def _refused(reason: str) -> Exception:
    """What vLLM answers with 400. Its parameter is not ours, by which a client knows a server that steers."""
    try:
        from vllm.exceptions import VLLMValidationError
    except ImportError:
        return ValueError(reason)
    error: Exception = VLLMValidationError(reason, parameter=EXTRAS[0])
    return error
