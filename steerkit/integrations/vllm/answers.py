"""How readings get from the workers into a request's answer: through the engine core, in `kv_transfer_params`.

That is the one field of free form that vLLM carries from its engine core to a `RequestOutput` and on to the body of an
HTTP answer; it is there whether a KV connector is in use or not, and what a connector puts into it stays.

1. When a request ends, the engine core asks the workers for what they have read of it, once, before it schedules the
   next step and they forget it. A request with stop texts may be ended by the front end, which alone sees texts: it is
   asked for with every token.
2. The front end joins the pieces, and the last output of the request has the readings (see `engines.remote.readers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from steerkit.core.errors import SteerkitError
from steerkit.engines.remote.arguments import ARGUMENT
from steerkit.integrations.vllm.execution import logit_readers
from steerkit.integrations.vllm.patches import Patches
from steerkit.integrations.vllm.read_rows import Parts, take_readings

# How many requests may be remembered before those are dropped that were aborted: nobody says that one was.
SWEEP_AT = 1024


class Answers:
    """The requests of one engine core that are read, and what is put into their outputs."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._plans: dict[str, dict[str, Any]] = {}
        found = [set(names) for names in core.model_executor.collective_rpc(logit_readers)]
        self._functions = set.intersection(*found)

    def expect(self, name: str, plan: dict[str, Any]) -> None:
        """Remember that a request is read. Raises SteerkitError for a function that the workers do not know."""
        for asked in plan["readers"]:
            if asked["layer"] is None and asked["function"] not in self._functions:
                raise SteerkitError(f"no reader {asked['function']!r} is registered in this server's workers")
        if len(self._plans) >= SWEEP_AT:
            alive = (*self._core.steerkit_queued, *self._core.scheduler.requests)
            self._plans = {name: self._plans[name] for name in alive if name in self._plans}
        self._plans[name] = plan

    def fill(self, outputs: Mapping[int, Any] | None) -> None:
        """Put into the outputs of a step, by client, what was read of the requests that they are of."""
        due = []
        for output in (each for group in (outputs or {}).values() for each in group.outputs):
            plan = self._plans.get(output.request_id)
            if plan is not None and (output.finished or plan["stepwise"]):
                due.append((output, plan))
                if output.finished:
                    del self._plans[output.request_id]
        if not due:
            return
        names = [output.request_id for output, _ in due]
        found = self._core.model_executor.collective_rpc(take_readings, args=(names,))
        for output, plan in due:
            taken = {
                "names": [asked["name"] for asked in plan["readers"]],
                "parts": joined(worker.get(output.request_id, {}) for worker in found),
            }
            output.kv_transfer_params = {**(output.kv_transfer_params or {}), ARGUMENT: taken}


def joined(workers: Iterable[Parts]) -> list[tuple[int, int, bytes]]:
    """Return what the workers have read of one request, as (reader, first position, numbers).

    Pipeline stages have read different layers, and tensor parallel workers have all read the same: the first counts.
    """
    parts: Parts = {}
    for worker in workers:
        parts = {**worker, **parts}
    return [(reader, first, numbers) for reader, (first, numbers) in parts.items()]


def readings(
    names: Iterable[str], parts: Iterable[tuple[int, int, bytes]], prompt: int, length: int
) -> dict[str, Any]:
    """Return the readings as an answer has them, of the tokens of a prompt and of all `length` tokens with it.

    A token that a reader did not read has None.
    """
    tables = [np.full(length, np.nan, dtype=np.float32) for _ in names]
    for reader, first, numbers in parts:
        values = np.frombuffer(numbers, dtype=np.float32)[: max(0, length - first)]
        known = ~np.isnan(values)
        tables[reader][first : first + len(values)][known] = values[known]
    plain = [[None if np.isnan(value) else float(value) for value in table] for table in tables]
    return {
        "readings": [
            {"reader": name, "prompt": values[:prompt], "completion": values[prompt:]}
            for name, values in zip(names, plain, strict=True)
        ]
    }


def install(patches: Patches) -> None:
    """Patch the engine core's step and the front end's outputs. Raises AttributeError for another vLLM."""
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.engine.output_processor import RequestState

    def step(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs, executed = original(self, *args, **kwargs)
        self.steerkit_answers.fill(outputs)
        return outputs, executed

    patches.wrap(EngineCore, "step", step)
    patches.wrap(EngineCore, "step_with_batch_queue", step)
    patches.wrap(RequestState, "make_request_output", _with_readings)


def _with_readings(
    original: Callable[..., Any],
    self: Any,
    new_token_ids: list[int],
    pooling_output: Any,
    finish_reason: Any,
    stop_reason: Any,
    kv_transfer_params: dict[str, Any] | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """An output of a request: where it is the last one, with all that was read, and otherwise without."""
    taken = (kv_transfer_params or {}).get(ARGUMENT)
    if taken is not None:
        rest = {key: value for key, value in (kv_transfer_params or {}).items() if key != ARGUMENT}
        self.steerkit_parts = [*getattr(self, "steerkit_parts", ()), *taken["parts"]]
        if finish_reason is not None:
            length = self.prompt_len + self.detokenizer.num_output_tokens()
            rest[ARGUMENT] = readings(taken["names"], self.steerkit_parts, self.prompt_len, length)
        kv_transfer_params = rest or None
    return original(
        self, new_token_ids, pooling_output, finish_reason, stop_reason, kv_transfer_params, *args, **kwargs
    )
