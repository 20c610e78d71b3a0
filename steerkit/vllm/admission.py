"""The front end's part: what a request asks for is checked here, and refused with a 4xx, before anything else sees it.

A refusal raises vLLM's own validation error (HTTP 400), or HTTP 429 where the tables are full. What passes leaves as
a `Payload`. The prompt's tokens, the sampling parameters and other requests are never touched.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import torch

from steerkit.engines.table import Stage
from steerkit.errors import MisuseError, SteerkitError
from steerkit.models.language_model import THINKING_MARKERS
from steerkit.steering import Gate, Steering
from steerkit.vllm.identity import ModelIdentity
from steerkit.vllm.ledger import CellsExhaustedError, Ledger
from steerkit.vllm.payload import Payload
from steerkit.vllm.requests import (
    ARGUMENT,
    ARGUMENTS,
    DIGESTS,
    PROMPT_TOKENS,
    asked_for,
    check_digests,
    parse_prompt_tokens,
    parse_steerings,
)
from steerkit.vllm.settings import Settings
from steerkit.vllm.vectors import PROBE_GATE, VectorShelf

# Beyond this a state's squares overflow in the norm that follows, and the row's keys and values with it.
LARGEST_SHIFT = {torch.float32: 1e8, torch.bfloat16: 1e8, torch.float16: 1e3}
LARGEST_GAIN = 1e4
# Programs whose payload is kept ready: a grid's cells come again with every prompt.
KEPT = 256
MOST_CHECKED = 4096


class Admission:
    """Checks steered requests for one server. `config` is vLLM's configuration, `tokenizer` the model's."""

    def __init__(self, config: Any, tokenizer: Any, settings: Settings) -> None:
        model = config.model_config
        self._config = config
        self._tokenizer = tokenizer
        self._settings = settings
        self._dtype: torch.dtype = model.dtype
        n_layers, width = model.hf_text_config.num_hidden_layers, model.get_hidden_size()
        self._identity = ModelIdentity(model.model, model.architectures[0], n_layers, width)
        self._shelf = VectorShelf(settings.vectors, n_layers, width)
        self._checked: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._wires: OrderedDict[tuple[tuple[str, ...], int | None], dict[str, Any] | None] = OrderedDict()

    def trust(self, *, exact: bool) -> None:
        """Let an engine in this process say whether vectors must be of these very weights."""
        self._settings = dataclasses.replace(self._settings, allow_mismatch=not exact)

    def wire(self, extra_args: dict[str, Any], prompt_length: int | None) -> dict[str, Any] | None:
        """The payload, in its plain form, of what a request asks for; None where it asks for nothing that acts.

        Raises SteerkitError saying what is wrong.
        """
        if not asked_for(extra_args):
            return None
        value = extra_args[ARGUMENT]
        first = parse_prompt_tokens(extra_args.get(PROMPT_TOKENS))
        if prompt_length is None:
            raise MisuseError("a prompt given as embeddings cannot be steered: its tokens are not known")
        if first is not None and first > prompt_length:
            raise MisuseError(f"{PROMPT_TOKENS} is {first}, but the prompt has {prompt_length} tokens")
        with self._lock:  # vLLM checks raw prompts in a thread of their own
            steerings = self._steerings(value)
            check_digests(extra_args.get(DIGESTS), steerings)
            self._check_setup()
            for steering in steerings:
                self._check(steering)
            return self._kept_or_made(steerings, first)

    def _steerings(self, value: Any) -> tuple[Steering, ...]:
        if not isinstance(value, tuple):
            return parse_steerings(value, self._shelf.load, self._shelf.load_gate)
        # From an engine in this process: JSON has no tuples.
        if not all(isinstance(steering, Steering) for steering in value):
            raise MisuseError(f"{ARGUMENT!r} is a spec, a list of specs, or a tuple of Steering objects")
        return value

    def _kept_or_made(self, steerings: Sequence[Steering], first: int | None) -> dict[str, Any] | None:
        key = (tuple(steering.digest for steering in steerings), first)
        if key not in self._wires:
            self._wires[key] = self._made(steerings, first)
            if len(self._wires) > KEPT:
                self._wires.popitem(last=False)
        return self._wires[key]

    def _made(self, steerings: Sequence[Steering], first: int | None) -> dict[str, Any] | None:
        payload = Payload.of(steerings, self._markers(), first)
        if payload is None:
            return None
        self._check_payload(payload)
        return payload.to_wire()

    def _check_setup(self) -> None:
        parallel = self._config.parallel_config
        passes = getattr(self._config.compilation_config, "pass_config", None)
        for reason, holds in (
            ("micro-batches (--enable-dbo)", getattr(parallel, "use_ubatching", False)),
            ("prefill context parallelism", getattr(parallel, "prefill_context_parallel_size", 1) > 1),
            ("sequence parallelism", bool(getattr(passes, "enable_sp", False))),
            ("--kv-sharing-fast-prefill", self._config.cache_config.kv_sharing_fast_prefill),
            ("an encoder-decoder model", self._config.model_config.is_encoder_decoder),
        ):
            if holds:
                raise MisuseError(f"this server runs with {reason}, where positions cannot be steered")

    def _check(self, steering: Steering) -> None:
        for vector in steering.vectors:
            key = (vector.digest, vector.metadata.fingerprint)
            if key not in self._checked:
                self._identity.check(vector, exact=not self._settings.allow_mismatch)
                if len(self._checked) >= MOST_CHECKED:
                    self._checked.clear()  # a request can name any number of random controls
                self._checked.add(key)
        if steering.gate is not None and not isinstance(steering.gate, Gate):
            raise MisuseError(PROBE_GATE)
        for field, plain in (("half_life", None), ("positions", "every")):
            if (asked := getattr(steering, field)) != plain:
                raise MisuseError(
                    f"{field!r} {asked!r} is not supported in vLLM: use the transformers engine"
                )
        if steering.scope in ("thinking", "answer"):
            if self._config.speculative_config is not None:
                raise MisuseError(f"'scope' {steering.scope!r} is not supported with speculative decoding")
            if self._config.parallel_config.pipeline_parallel_size > 1:
                raise MisuseError(f"'scope' {steering.scope!r} is not supported with pipeline parallelism")
            if self._tokenizer is None:
                raise MisuseError(f"'scope' {steering.scope!r} needs the server's tokenizer")

    def _check_payload(self, payload: Payload) -> None:
        if payload.depth > self._settings.depth:
            raise MisuseError(
                f"{payload.depth} steerings meet on one layer: this server allows {self._settings.depth} "
                "(STEERKIT_DEPTH)"
            )
        like = torch.empty(0, dtype=self._dtype)
        largest = LARGEST_SHIFT.get(self._dtype, 1e3)
        steerable = self._settings.layers
        for cell in payload.cells:
            if steerable is not None and cell.layer not in steerable:
                raise MisuseError(
                    f"'layer' {cell.layer} is not among those that this server steers (STEERKIT_LAYERS)"
                )
            Stage.stack([cell.constants], like)  # raises where the number format cannot hold a constant
            if float(cell.constants.shift.norm()) > largest or abs(cell.constants.gain) > LARGEST_GAIN:
                raise MisuseError(
                    f"'strength' at layer {cell.layer} is absurdly large: it would overflow the model"
                )

    def _markers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self._tokenizer is None:
            return (), ()
        opening, closing = (
            tuple(self._tokenizer.encode(marker, add_special_tokens=False)) for marker in THINKING_MARKERS
        )
        return opening, closing


def install() -> None:
    """Patch vLLM's input and output processors. Raises AttributeError for another vLLM."""
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import OutputProcessor

    _check_inputs(InputProcessor)
    _count_requests(OutputProcessor)


def _check_inputs(processor: Any) -> None:
    first_init, first_process = processor.__init__, processor.process_inputs

    @functools.wraps(first_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        first_init(self, *args, **kwargs)
        self.steerkit = Admission(self.vllm_config, self.tokenizer, Settings.from_environment())
        _refuse_beams()

    @functools.wraps(first_process)
    def process(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = first_process(self, *args, **kwargs)
        params = request.sampling_params
        if params is None or not params.extra_args:
            return request
        try:
            tokens = request.prompt_token_ids
            wire = self.steerkit.wire(
                params.extra_args, len(tokens) if tokens and request.prompt_embeds is None else None
            )
            if wire is not None and request.resumable:
                raise MisuseError(
                    "a prompt that is streamed in pieces cannot be steered: its end is not known"
                )
        except SteerkitError as error:
            raise _refused(str(error)) from error
        rest = {key: value for key, value in params.extra_args.items() if key not in ARGUMENTS}
        params.extra_args = rest if wire is None else {**rest, ARGUMENT: wire}
        return request

    processor.__init__, processor.process_inputs = init, process


def _count_requests(processor: Any) -> None:
    first_init, first_add = processor.__init__, processor.add_request

    @functools.wraps(first_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        first_init(self, *args, **kwargs)
        cells = Settings.from_environment().cells
        self.steerkit = Ledger(cells, lambda name: name in self.request_states)

    @functools.wraps(first_add)
    def add(self: Any, request: Any, *args: Any, **kwargs: Any) -> None:
        params = request.sampling_params
        wire = ((params.extra_args if params is not None else None) or {}).get(ARGUMENT)
        if wire is not None:
            try:
                self.steerkit.admit(request.request_id, wire)
            except CellsExhaustedError as error:
                from vllm.exceptions import GracefulHTTPError

                raise GracefulHTTPError(str(error), HTTPStatus.TOO_MANY_REQUESTS) from error
        first_add(self, request, *args, **kwargs)

    processor.__init__, processor.add_request = init, add


def _refuse_beams() -> None:
    """Beam search builds its own sampling parameters and would lose the steering without a word."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    for kind in (ChatCompletionRequest, CompletionRequest):
        original = kind.to_beam_search_params
        if hasattr(original, "__wrapped__"):
            continue

        @functools.wraps(original)
        def refusing(self: Any, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            if asked_for_quietly(self.vllm_xargs):
                raise _refused("beam search cannot be steered in vLLM: drop use_beam_search")
            return original(self, *args, **kwargs)

        kind.to_beam_search_params = refusing


def asked_for_quietly(extra_args: Any) -> bool:
    """Whether extra arguments name anything of ours, rightly spelt or not."""
    names: Sequence[Any] = list(extra_args or ())
    return any(isinstance(name, str) and name.lower().startswith(ARGUMENT) for name in names)


def _refused(message: str) -> Exception:
    from vllm.exceptions import VLLMValidationError

    return VLLMValidationError(message, parameter=ARGUMENT)
