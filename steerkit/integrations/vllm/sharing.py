"""The engine core's part: cached prompt blocks are shared only where they are equal, and what cannot run fails alone.

A block of keys and values depends on the steering of the positions in it and before it. The hash of a block that
holds prompt positions only carries the steerings that act there (none under scope `completion`, so all cells of
a grid share a prompt, and share it with unsteered requests); from the block with the last prompt token on it
carries the whole program and where the completion begins. Hashes are chained, so everything behind follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from steerkit.core.errors import SteerkitError
from steerkit.integrations.vllm.answers import Answers
from steerkit.integrations.vllm.capacity import Capacity
from steerkit.integrations.vllm.execution import report
from steerkit.integrations.vllm.patches import Patches
from steerkit.integrations.vllm.payload import wire_of
from steerkit.integrations.vllm.plan import plan_of
from steerkit.integrations.vllm.settings import Settings

# Stands for what the hooks put into a compiled graph; to be changed with it.
GRAPH = "steerkit-edit-1"
FAULT = "a steered request came past the front end's checks: refusing to ignore its steering"


def block_key(wire: dict[str, Any], prompt_length: int, end: int) -> tuple[str, str] | None:
    """Return what tells a block that ends before position `end` from the unsteered one; None for nothing."""
    first = (wire["first"] if wire["first"] is not None else prompt_length) - 1
    if end > first:
        return "steerkit", f"{wire['key']}:{first}"
    return ("steerkit", wire["prompt_key"]) if wire["prompt_key"] else None


def install(patches: Patches) -> None:
    """Patch vLLM's block hashing, compilation hash and engine core. Raises AttributeError for another vLLM."""
    from vllm.config import VllmConfig
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.engine.core import EngineCore

    # The one part of the block hash that is told a block's range.
    patches.wrap(kv_cache_utils, "_gen_prompt_embeds_extra_hash_keys", _block_keys)
    patches.wrap(VllmConfig, "compute_hash", _compilation_key)
    _guard(patches, EngineCore)


def _block_keys(original: Callable[..., Any], request: Any, start: int, end: int) -> list[tuple[str, Any]]:
    keys: list[tuple[str, Any]] = original(request, start, end)
    wire = wire_of(request.sampling_params, FAULT)
    key = block_key(wire, request.num_prompt_tokens, end) if wire is not None else None
    return keys if key is None else [*keys, key]


def _compilation_key(original: Callable[..., str], *args: Any, **kwargs: Any) -> str:
    """A graph compiled without the hooks must not be taken from vLLM's cache for one with them, nor the reverse."""
    plain = original(*args, **kwargs)
    return hashlib.sha256(f"{plain}/{GRAPH}".encode()).hexdigest()[: len(plain)]


def _guard(patches: Patches, core: Any) -> None:
    """Steered requests that cannot run end with an error, alone; the front end has refused most of them before.

    In a process of its own the core loads plugins from within its constructor, so it is what comes later in there
    that is wrapped: the workers are ready once they have their caches.
    """

    def initialise(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        config = original(self, *args, **kwargs)
        settings = Settings.from_environment()
        self.steerkit_queued = set()
        self.steerkit_capacity = Capacity(
            settings.cells,
            lambda name: name in self.steerkit_queued or name in self.scheduler.requests,
            settings.readers,
        )
        self.steerkit_answers = Answers(self)
        self.steerkit_refusals = [reason for reason in self.model_executor.collective_rpc(report) if reason]
        return config

    def preprocess(original: Callable[..., Any], self: Any, request: Any) -> Any:
        wire = wire_of(request.sampling_params, FAULT)
        plan = plan_of(request.sampling_params, FAULT)
        if wire is None and plan is None:
            return original(self, request)
        if self.steerkit_refusals:
            raise SteerkitError(f"this server cannot steer: {self.steerkit_refusals[0]}")
        self.steerkit_queued.add(request.request_id)
        try:
            if plan is not None:
                self.steerkit_answers.expect(request.request_id, plan)
            self.steerkit_capacity.admit(request.request_id, wire, plan)
            return original(self, request)
        except BaseException:
            self.steerkit_queued.discard(request.request_id)
            self.steerkit_capacity.forget(request.request_id)
            raise

    def add(original: Callable[..., Any], self: Any, request: Any, *args: Any, **kwargs: Any) -> None:
        try:
            original(self, request, *args, **kwargs)
        finally:
            self.steerkit_queued.discard(request.request_id)

    patches.wrap(core, "_initialize_kv_caches", initialise)
    patches.wrap(core, "preprocess_add_request", preprocess)
    patches.wrap(core, "add_request", add)
