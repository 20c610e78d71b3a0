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
from steerkit.core.registry import READERS
from steerkit.integrations.vllm.patches import Patches
from steerkit.integrations.vllm.payload import Payload, wire_of
from steerkit.integrations.vllm.plan import plan_from_wire, plan_of
from steerkit.integrations.vllm.read_rows import ReadRows
from steerkit.integrations.vllm.rows import Rows
from steerkit.integrations.vllm.settings import Settings
from steerkit.integrations.vllm.tables import Tables

log = logging.getLogger("vllm.steerkit")

FAULT = "a steered request reached a worker past the front end's checks: refusing to ignore it"
Call = Callable[..., Any]  # a method of the runner, as it was


class RunnerSteering:
    """What the plugin adds to one runner. `refusal` says why this model or set-up cannot be steered, if so.

    There are `tables`, `rows` and `reading` where there is no such reason. The methods that are given a `call` run in
    its place.
    """

    tables: Tables
    rows: Rows
    reading: ReadRows

    def __init__(self, runner: Any, settings: Settings) -> None:
        config = runner.vllm_config
        self._runner = runner
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
            settings.readers,
        )
        self.rows = Rows(self.tables, functools.partial(_tokenizer_of, config.model_config))
        self.reading = ReadRows(self.tables.readers, lambda hidden: runner.model.compute_logits(hidden))
        for layer, block in blocks.items():
            block.register_forward_hook(functools.partial(_hook, layer))

    def follow(self, scheduled: Any) -> None:
        """Let ended requests go and new or resumed ones in, as the scheduler says."""
        for request_id in scheduled.finished_req_ids:
            self.rows.forget(request_id)
            self.reading.forget(request_id)
        for new in scheduled.scheduled_new_reqs:
            wire, plan = wire_of(new.sampling_params, FAULT), plan_of(new.sampling_params, FAULT)
            if (wire or plan) is not None and self.refusal is not None:
                raise SteerkitError(f"request {new.req_id} cannot be steered: {self.refusal}")
            if plan is not None:
                self.reading.admit(new.req_id, plan_from_wire(plan))
            if wire is None:
                continue
            known = new.prefill_token_ids if new.prefill_token_ids is not None else new.prompt_token_ids
            self.rows.admit(new.req_id, Payload.from_wire(wire), new.prompt_len, known)
        cached = scheduled.scheduled_cached_reqs
        for request_id in cached.resumed_req_ids:
            payload = self.rows.payload(request_id)
            if payload is not None:
                state = self._runner.requests[request_id]
                known = cached.all_token_ids.get(request_id)
                if known is None:
                    known = [*state.prompt_token_ids, *state.output_token_ids]
                self.rows.admit(request_id, payload, state.num_prompt_tokens, known)

    def check(self, before: dict[int, int]) -> None:
        """Raise SteerkitError where a pass that acts did not go through every block (and was no graph replay)."""
        ran = {layer: self.tables.fired[layer] - before.get(layer, 0) for layer in self.tables.layers}
        acts = self.tables.steers or self.reading.reads_states
        if acts and any(ran.values()) and set(ran.values()) != {1}:
            missed = [layer for layer, times in ran.items() if times != 1]
            raise SteerkitError(
                f"blocks {missed} did not run once in a steered pass: this model cannot be steered"
            )

    def execute(self, call: Call, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a step, which steers as its requests ask."""
        if kwargs.get("dummy_run"):
            return self.idle(call, scheduled, *args, **kwargs)
        self.follow(scheduled)
        self.tables.clear()  # a step that prepares no inputs steers nothing
        self.reading.clear()
        before = dict(self.tables.fired)
        with self.tables.current():
            done = call(scheduled, *args, **kwargs)
        self.check(before)
        state = getattr(self._runner, "execute_model_state", None)
        self.reading.note(getattr(state, "hidden_states", None), getattr(state, "logits", None))
        return done

    def refuse(self, call: Call, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a step where nothing can be steered."""
        for new in scheduled.scheduled_new_reqs:
            if wire_of(new.sampling_params, FAULT) or plan_of(new.sampling_params, FAULT):
                runner = type(self._runner).__name__
                raise SteerkitError(f"a request of steerkit's reached {runner}, but: {self.refusal}")
        return call(scheduled, *args, **kwargs)

    def idle(self, call: Call, *args: Any, **kwargs: Any) -> Any:
        """Run what has no requests: it steers nothing, but goes through the hooks."""
        self.tables.clear()
        self.reading.clear()
        with self.tables.current():
            return call(*args, **kwargs)

    def prepare_first(self, call: Call, scheduled: Any, counts: Any, *args: Any, **kwargs: Any) -> Any:
        """The first model runner: rows stand in its input batch, their tokens in `input_ids` once it is done."""
        prepared = call(scheduled, counts, *args, **kwargs)
        batch = self._runner.input_batch
        size = batch.num_reqs
        ids = self._runner.input_ids.gpu[: int(scheduled.total_num_scheduled_tokens)]
        self._place(batch.req_ids[:size], batch.num_computed_tokens_cpu[:size], counts[:size], ids)
        return prepared

    def prepare_second(self, call: Call, *args: Any, **kwargs: Any) -> Any:
        """The second model runner: what it prepares says everything."""
        batch = call(*args, **kwargs)
        ids = batch.input_ids[: batch.num_tokens]
        self._place(batch.req_ids, batch.num_computed_tokens_np, batch.num_scheduled_tokens, ids)
        return batch

    def _place(self, *step: Any) -> None:
        self.rows.place(*step)
        self.reading.place(*step)


def attach(runner: Any) -> None:
    """Make a runner that has its model steerable, or note why it is not."""
    if hasattr(runner, "steerkit"):
        return
    steering = runner.steerkit = RunnerSteering(runner, Settings.from_environment())
    patches = Patches()
    if steering.refusal is not None:
        log.warning("steerkit: steered requests will be refused: %s", steering.refusal)
        patches.wrap(runner, "execute_model", steering.refuse)
        return
    patches.wrap(runner, "execute_model", steering.execute)
    for name in ("_dummy_run", "profile_run", "capture_model", "profile_cudagraph_memory"):
        if hasattr(runner, name):
            patches.wrap(runner, name, steering.idle)
    if hasattr(runner, "_prepare_inputs"):
        patches.wrap(runner, "_prepare_inputs", steering.prepare_first)
    else:
        patches.wrap(runner, "prepare_inputs", steering.prepare_second)


def _tokenizer_of(model_config: Any) -> Any:
    """The tokenizer of the model that a worker runs."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        model_config.tokenizer,
        revision=model_config.tokenizer_revision,
        trust_remote_code=model_config.trust_remote_code,
    )


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
    return {i: block for i, block in enumerate(stacks[0][1]) if type(block).__name__ != "PPMissingLayer"}


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


def logit_readers(_worker: Any) -> list[str]:
    """Return the names of the readers of logits that are registered in this worker's process."""
    return [name for name, known in READERS.items() if known.of == "logits"]


def _hook(layer: int, _module: nn.Module, _args: Any, output: Any) -> None:
    hidden, residual = output if isinstance(output, tuple) and len(output) == 2 else (output, None)
    if isinstance(hidden, Tensor) and (residual is None or isinstance(residual, Tensor)):
        torch.ops.steerkit.edit(hidden, residual, layer)
