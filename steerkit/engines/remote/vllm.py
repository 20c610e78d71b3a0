"""The vLLM engine: the same requests, run by vLLM in this process. Needs `steerkit-lm[vllm]`.

Steerings go to vLLM as objects, so any vector may be used, in a file or not. Requests are drawn from the caller's
iterator as others finish, and vLLM batches them as it likes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.base import Completion, ContinuationScore, Request, ScoreRequest, refuse, steerings_of
from steerkit.engines.remote.arguments import ARGUMENT, PROMPT_TOKENS, READERS
from steerkit.engines.remote.readers import parted_at, readings_from, refuse_readers
from steerkit.engines.remote.served_model import ServedModel, log_probabilities, sampling
from steerkit.engines.remote.wire import supports
from steerkit.interventions.base import Intervention

# No more distinct steerings than vLLM's tables hold by default, and enough rows to keep its batch full.
WINDOW = 256


class VllmEngine:
    """Completes and scores requests with vLLM. `reference` is a bundled name, a folder or a hub id in the local cache.

    `window` is the most requests that vLLM holds at once. `dtype` defaults to float32 on a CPU and to vLLM's choice
    elsewhere. With `allow_mismatch` a vector extracted from other weights of the same architecture is accepted.
    `options` go to `vllm.LLM` (max_model_len, enforce_eager, tensor_parallel_size, …). Raises MisuseError where vLLM
    is missing or knows no such option, SteerkitError where it does not start.
    """

    def __init__(
        self,
        reference: str | ServedModel,
        *,
        window: int = WINDOW,
        dtype: str | None = None,
        allow_mismatch: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import vllm
            from vllm.platforms import current_platform
        except ImportError as error:
            raise MisuseError(
                f"the vllm engine needs vLLM ({error}): pip install 'steerkit-lm[vllm]'"
            ) from error
        if window < 1:
            raise MisuseError(f"the window is at least 1 request, got {window}")
        self.name = f"vllm {vllm.__version__}"
        self.model = reference if isinstance(reference, ServedModel) else ServedModel(reference)
        self.batch_size = window
        self._exact = not allow_mismatch
        dtype = dtype or ("float32" if current_platform.is_cpu() else "auto")
        try:
            self._llm = vllm.LLM(model=str(self.model.folder), dtype=dtype, **(options or {}))
        except (TypeError, ValueError) as error:
            raise MisuseError(f"vLLM refuses its options: {_first_line(error)}") from error
        except RuntimeError as error:
            raise SteerkitError(f"vLLM did not start: {_first_line(error)}; see its log above") from error
        self._engine: Any = self._llm.llm_engine
        self._admission: Any = getattr(getattr(self._engine, "input_processor", None), "steerkit", None)
        if self._admission is None:
            missing = "vLLM runs without steerkit's plugin: install steerkit beside it, and see VLLM_PLUGINS"
            raise MisuseError(getattr(vllm, "steerkit_refusal", missing))
        self._admission.trust(exact=self._exact)
        self._numbers = itertools.count()

    @property
    def dtype(self) -> str:
        """Number format of the model in vLLM."""
        return str(self._engine.model_config.dtype).removeprefix("torch.")

    @property
    def context_length(self) -> int:
        """The most tokens that this vLLM was started for."""
        return int(self._engine.model_config.max_model_len)

    def supports(self, intervention: Intervention) -> str | None:
        """Return why the engine cannot carry out an intervention; None where it can."""
        return supports(intervention)

    def check(self, request: Request) -> None:
        """Raise what `generate` would raise for this request before running it."""
        ids = self._encode(request)
        asked = _extra(request)
        self._admission.wire(asked, len(ids))
        self._admission.plan(asked)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Complete each request; completions are yielded as they finish, in any order."""
        for (request, ids), output in self._run(map(self._job, requests)):
            done = output.outputs[0]
            if done.finish_reason not in ("stop", "length"):
                raise SteerkitError(f"vLLM ended a request with {done.finish_reason!r}: see its log")
            completion = self.model.completion(request, ids, list(done.token_ids), done.finish_reason)
            read = readings_from(output.kv_transfer_params, request.readers, len(ids), completion.tokens)
            yield dataclasses.replace(completion, readings=read)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        """Return each continuation token's log-probability in nats, teacher-forced, in the order of the requests."""
        prepared = []
        for place, request in enumerate(requests):
            self._check(request)
            text = self.model.encode_scored(request)
            if len(text.ids) >= self.context_length:
                raise MisuseError(
                    f"a text to score has {len(text.ids)} tokens, vLLM reads {self.context_length}"
                )
            extra = _extra(request, {PROMPT_TOKENS: text.prompt_length})
            parameters = _parameters(extra, temperature=0.0, max_tokens=1, prompt_logprobs=0)
            prepared.append(((place, text.prompt_length), text.ids, parameters))
        scores: dict[int, ContinuationScore] = {}
        for ((place, start), ids), done in self._run(prepared):
            taken = log_probabilities(done.prompt_logprobs[i][ids[i]].logprob for i in range(start, len(ids)))
            read = readings_from(done.kv_transfer_params, requests[place].readers, len(ids), 0)
            scores[place] = ContinuationScore(requests[place], taken, tuple(ids), parted_at(read, start))
        return [scores[place] for place in range(len(requests))]

    def call_workers(self, function: Callable[[Any], Any]) -> list[Any]:
        """Return what a module-level function returns in each of vLLM's workers, called with the worker."""
        return list(self._llm.collective_rpc(function))

    def _check(self, request: Request | ScoreRequest) -> None:
        refuse(self, request.interventions)
        refuse_readers(self.name, request.readers)
        self.model.check(request, exact=self._exact)

    def _encode(self, request: Request) -> tuple[int, ...]:
        self._check(request)
        return self.model.encode(request, self.context_length)

    def _job(self, request: Request) -> tuple[Request, tuple[int, ...], Any]:
        ids = self._encode(request)
        return request, ids, _parameters(_extra(request), **sampling(self.model, request, ids))

    def _run(
        self, jobs: Iterable[tuple[Any, Sequence[int], Any]]
    ) -> Iterator[tuple[tuple[Any, Sequence[int]], Any]]:
        """Run (what, token ids, parameters) through vLLM, at most a window of them at once."""
        waiting = iter(jobs)
        held = None  # a job for whose steerings vLLM's tables have no room yet
        live: dict[str, tuple[Any, Sequence[int]]] = {}
        try:
            while True:
                while len(live) < self.batch_size and (job := held or next(waiting, None)):
                    held = None
                    what, ids, parameters = job
                    name = f"steerkit-{next(self._numbers)}"
                    if not self._add(name, ids, parameters, others=bool(live)):
                        held = job
                        break
                    live[name] = (what, ids)
                if not live:
                    return
                for output in self._step():
                    if output.finished:
                        yield live.pop(output.request_id), output
        finally:
            if live:
                self._engine.abort_request(list(live))

    def _add(self, name: str, ids: Sequence[int], parameters: Any, *, others: bool) -> bool:
        """Hand a request to vLLM; False where it has to wait for `others` to end."""
        from vllm.exceptions import GracefulHTTPError, VLLMClientError
        from vllm.inputs import tokens_input

        try:
            self._engine.add_request(name, tokens_input(list(ids)), parameters)
        except GracefulHTTPError as error:
            if others:
                return False
            raise SteerkitError(f"vLLM cannot take the request: {error}") from error
        except VLLMClientError as error:
            raise MisuseError(f"vLLM refuses the request: {error}") from error
        return True

    def _step(self) -> list[Any]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            outputs: list[Any] = self._engine.step()
        except EngineDeadError as error:
            raise SteerkitError("vLLM's engine has died: see its log above") from error
        return outputs


def _extra(request: Request | ScoreRequest, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The extra arguments of a request: its steerings, with `more` where there are any, and its readers, as objects."""
    steerings = steerings_of(request.interventions)
    extra: dict[str, Any] = {ARGUMENT: steerings, **(more or {})} if steerings else {}
    if request.readers:
        extra[READERS] = request.readers
    return extra


def _parameters(extra: dict[str, Any], **fields: object) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    # Not cloned by vLLM: a clone would copy the vectors with it, for every request.
    return SamplingParams(
        extra_args=extra or None,
        detokenize="stop" in fields,  # texts are decoded here, but stop texts are looked for there
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
        **fields,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
