"""The workers' part: hooks on the model's blocks, and the slot map filled once a step.

Only instances are changed: the runner's methods below are wrapped on the object that a worker made, and the blocks
get forward hooks, which torch.compile traces like any other code. Both of vLLM's model runners are served.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.core.errors import SteerkitError
from steerkit.engines.remote.arguments import ARGUMENT
from steerkit.integrations.vllm.patches import Patches
from steerkit.integrations.vllm.payload import Payload, is_wire
from steerkit.integrations.vllm.rows import Rows
from steerkit.integrations.vllm.settings import Settings
from steerkit.integrations.vllm.tables import Tables

log = logging.getLogger("vllm.steerkit")


class RunnerSteering:
    """What the plugin adds to one runner. `refusal` says why this model or set-up cannot be steered, if so."""

    def __init__(self, runner: Any, settings: Settings) -> None:
        config = runner.vllm_config
        self.tables: Tables | None = None
        self.refusal: str | None = None
        try:
            blocks = find_blocks(runner.get_model(), config.model_config.hf_text_config.num_hidden_layers)
        except SteerkitError as error:
            self.refusal = str(error)
            return
        if settings.layers is not None:
            blocks = {layer: block for layer, block in blocks.items() if layer in settings.layers}
        parameter = next(p for p in runner.get_model().parameters() if p.device.type != "meta")
        self.tables = Tables(
            list(blocks),
            config.model_config.get_hidden_size(),
            config.scheduler_config.max_num_batched_tokens,
            settings.cells,
            settings.depth,
            torch.empty(0, dtype=config.model_config.dtype, device=parameter.device),
        )
        self.rows = Rows(self.tables)
        for layer, block in blocks.items():
            block.register_forward_hook(functools.partial(_hook, layer))

    def follow(self, runner: Any, scheduled: Any) -> None:
        """Let ended requests go and new or resumed ones in, as the scheduler says."""
        for request_id in scheduled.finished_req_ids:
            self.rows.forget(request_id)
        for new in scheduled.scheduled_new_reqs:
            wire = _wire_of(new.sampling_params)
            if wire is None:
                continue
            if self.refusal is not None:
                raise SteerkitError(f"request {new.req_id} cannot be steered: {self.refusal}")
            known = new.prefill_token_ids if new.prefill_token_ids is not None else new.prompt_token_ids
            self.rows.admit(new.req_id, Payload.from_wire(wire), new.prompt_len, known)
        cached = scheduled.scheduled_cached_reqs
        for request_id in cached.resumed_req_ids:
            payload = self.rows.payload(request_id)
            if payload is not None:
                state = runner.requests[request_id]
                known = cached.all_token_ids.get(request_id)
                if known is None:
                    known = [*state.prompt_token_ids, *state.output_token_ids]
                self.rows.admit(request_id, payload, state.num_prompt_tokens, known)

    def check(self, before: dict[int, int]) -> None:
        """Raise SteerkitError where a pass that steers did not go through every block (and was no graph replay)."""
        assert self.tables is not None
        ran = {layer: self.tables.fired[layer] - before.get(layer, 0) for layer in self.tables.layers}
        if self.tables.steers and any(ran.values()) and set(ran.values()) != {1}:
            missed = [layer for layer, times in ran.items() if times != 1]
            raise SteerkitError(
                f"blocks {missed} did not run once in a steered pass: this model cannot be steered"
            )


def attach(runner: Any) -> None:
    """Make a runner that has its model steerable, or note why it is not."""
    if hasattr(runner, "steerkit"):
        return
    steering = RunnerSteering(runner, Settings.from_environment())
    runner.steerkit = steering
    patches = Patches()
    if steering.refusal is not None:
        log.warning("steerkit: steered requests will be refused: %s", steering.refusal)
        patches.wrap(
            runner,
            "execute_model",
            lambda call, scheduled, *a, **k: _refusing(steering, runner, call, scheduled, *a, **k),
        )
        return
    patches.wrap(runner, "execute_model", lambda call, *a, **k: _execute(steering, runner, call, *a, **k))
    for name in ("_dummy_run", "profile_run", "capture_model", "profile_cudagraph_memory"):
        if hasattr(runner, name):
            patches.wrap(runner, name, lambda call, *a, **k: _idle(steering, call, *a, **k))
    if hasattr(runner, "_prepare_inputs"):
        patches.wrap(
            runner, "_prepare_inputs", lambda call, *a, **k: _prepare_first(steering, runner, call, *a, **k)
        )
    else:
        patches.wrap(runner, "prepare_inputs", lambda call, *a, **k: _prepare_second(steering, call, *a, **k))


def find_blocks(model: nn.Module, n_layers: int) -> dict[int, nn.Module]:
    """Return the decoder blocks that this worker holds, by layer. Raises SteerkitError where they are not certain."""
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    shallowest = min((name.count(".") for name, _ in stacks), default=0)
    stacks = [(name, module) for name, module in stacks if name.count(".") == shallowest]
    if len(stacks) != 1:
        raise SteerkitError(
            f"{type(model).__name__} has {len(stacks)} stacks of {n_layers} blocks, so its residual stream cannot be "
            "found"
        )
    return {
        layer: block for layer, block in enumerate(stacks[0][1]) if type(block).__name__ != "PPMissingLayer"
    }


def report(worker: Any) -> str | None:
    """Return why this worker cannot steer, after running a token through it; None where it can."""
    runner = worker.model_runner
    steering = getattr(runner, "steerkit", None)
    if steering is None:
        return "the plugin did not reach the worker"
    if steering.refusal is None:
        worker.execute_dummy_batch()
        missed = [layer for layer in steering.tables.layers if not steering.tables.fired[layer]]
        if missed:
            steering.refusal = f"blocks {missed} return no residual stream that is understood"
    return steering.refusal


def _hook(layer: int, _module: nn.Module, _args: Any, output: Any) -> None:
    hidden, residual = output if isinstance(output, tuple) and len(output) == 2 else (output, None)
    if isinstance(hidden, Tensor) and (residual is None or isinstance(residual, Tensor)):
        torch.ops.steerkit.edit(hidden, residual, layer)


def _execute(
    steering: RunnerSteering, runner: Any, call: Callable[..., Any], scheduled: Any, *args: Any, **kwargs: Any
) -> Any:
    tables = steering.tables
    assert tables is not None
    if kwargs.get("dummy_run"):
        return _idle(steering, call, scheduled, *args, **kwargs)
    steering.follow(runner, scheduled)
    tables.clear()  # a step that prepares no inputs steers nothing
    before = dict(tables.fired)
    with tables.current():
        done = call(scheduled, *args, **kwargs)
    steering.check(before)
    return done


def _refusing(
    steering: RunnerSteering, runner: Any, call: Callable[..., Any], scheduled: Any, *args: Any, **kwargs: Any
) -> Any:
    if any(_wire_of(new.sampling_params) is not None for new in scheduled.scheduled_new_reqs):
        raise SteerkitError(f"a steered request reached {type(runner).__name__}, but: {steering.refusal}")
    return call(scheduled, *args, **kwargs)


def _idle(steering: RunnerSteering, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    assert steering.tables is not None
    steering.tables.clear()
    with steering.tables.current():
        return call(*args, **kwargs)


def _prepare_first(
    steering: RunnerSteering,
    runner: Any,
    call: Callable[..., Any],
    scheduled: Any,
    counts: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The first model runner: rows stand in its input batch, their tokens in `input_ids` once it is done."""
    prepared = call(scheduled, counts, *args, **kwargs)
    batch = runner.input_batch
    size = batch.num_reqs
    total = int(scheduled.total_num_scheduled_tokens)
    steering.rows.place(
        batch.req_ids[:size],
        batch.num_computed_tokens_cpu[:size],
        counts[:size],
        runner.input_ids.gpu[:total],
    )
    return prepared


def _prepare_second(steering: RunnerSteering, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The second model runner: what it prepares says everything."""
    batch = call(*args, **kwargs)
    steering.rows.place(
        batch.req_ids,
        batch.num_computed_tokens_np,
        batch.num_scheduled_tokens,
        batch.input_ids[: batch.num_tokens],
    )
    return batch


def _wire_of(sampling_params: Any) -> dict[str, Any] | None:
    """The payload in a request's sampling parameters, if it is steered."""
    value: dict[str, Any] | None = (getattr(sampling_params, "extra_args", None) or {}).get(ARGUMENT)
    if value is None:
        return None
    if not is_wire(value):
        raise SteerkitError(
            "a steered request reached a worker past the front end's checks: refusing to ignore it"
        )
    return value
