"""The front end's part: what a request asks for is checked here, and refused with a 4xx, before anything else sees it.

A refusal raises vLLM's own validation error (HTTP 400), or HTTP 429 where the tables are full. What passes leaves as
a `Payload`, and its readers as a plan (`plan`). The prompt's tokens and other requests are never touched, nor are the
sampling parameters, but that a prompt that is read is not taken from the prefix cache.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

import torch

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.remote.arguments import (
    ARGUMENT,
    ARGUMENTS,
    PROMPT_TOKENS,
    READERS,
    asked_for,
    our_names,
)
from steerkit.engines.remote.identity import ModelIdentity
from steerkit.engines.remote.limits import check_size
from steerkit.engines.remote.readers import ONE_CHOICE, read_reader_argument, supports_reader
from steerkit.engines.remote.vectors import ServedVectors
from steerkit.engines.remote.wire import read_argument, read_prompt_tokens, supports
from steerkit.integrations.vllm.capacity import Capacity, CellsExhaustedError
from steerkit.integrations.vllm.http_requests import check_http, refused
from steerkit.integrations.vllm.patches import Patches
from steerkit.integrations.vllm.payload import Payload
from steerkit.integrations.vllm.plan import plan_to_wire
from steerkit.integrations.vllm.settings import Settings
from steerkit.interventions.base import Intervention
from steerkit.interventions.readers import Reader
from steerkit.interventions.steering import Steering
from steerkit.models.markers import DEFAULT, find_markers

# Cells whose constants are kept ready: a grid's cells come again with every prompt. Each is up to three vectors.
KEPT = 4096
MOST_CHECKED = 4096
# Connectors that find keys and values by vLLM's own block hashes, which `sharing` makes tell steerings apart. The
# others look them up by tokens alone, or carry them to another server.
BY_BLOCK_HASH = {"OffloadingConnector", "SimpleCPUOffloadConnector"}


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
        self._vectors = ServedVectors(settings.vectors, n_layers, width)
        self._checked: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._wires: OrderedDict[tuple[tuple[str, ...], int | None], dict[str, Any] | None] = OrderedDict()
        self._kept_cells = 0

    def trust(self, *, exact: bool) -> None:
        """Let an engine in this process say whether vectors must be of these very weights."""
        self._settings = dataclasses.replace(self._settings, allow_mismatch=not exact)

    def wire(self, extra_args: dict[str, Any], prompt_length: int | None) -> dict[str, Any] | None:
        """Return the payload, in its plain form, of what a request asks for; None where nothing that acts is asked for.

        Raises SteerkitError saying what is wrong.
        """
        if not asked_for(extra_args):
            return None
        first = read_prompt_tokens(extra_args.get(PROMPT_TOKENS))
        if prompt_length is None:
            raise MisuseError("a prompt given as embeddings cannot be steered: its tokens are not known")
        if first is not None and first > prompt_length:
            raise MisuseError(f"{PROMPT_TOKENS} is {first}, but the prompt has {prompt_length} tokens")
        return self._wire(extra_args, first)

    def plan(self, extra_args: dict[str, Any], *, stepwise: bool = False) -> dict[str, Any] | None:
        """Return what a request asks to be read, in its plain form (`plan_to_wire`); None where it asks for nothing.

        Raises SteerkitError saying what is wrong.
        """
        if not (asked := extra_args.get(READERS)):
            return None
        with self._lock:
            self._check_setup()
            if self._config.speculative_config is not None:
                raise MisuseError(f"{READERS!r} is not supported with speculative decoding")
            readers = (
                asked if isinstance(asked, tuple) else read_reader_argument(asked, self._vectors.to_read)
            )
            for reader in readers:
                self._check_reader(reader)
        return plan_to_wire(readers, stepwise=stepwise) if readers else None

    def check(self, extra_args: dict[str, Any]) -> None:
        """Raise what `wire` and `plan` would raise, as far as it does not depend on the prompt."""
        if asked_for(extra_args):
            self._wire(extra_args, read_prompt_tokens(extra_args.get(PROMPT_TOKENS)))
        self.plan(extra_args)

    def _wire(self, extra_args: dict[str, Any], first: int | None) -> dict[str, Any] | None:
        with self._lock:  # vLLM checks raw prompts in a thread of their own
            asked = self._asked(extra_args[ARGUMENT])
            self._check_setup()
            steerings = [self._checked_steering(each) for each in asked]
            return self._kept_or_made(steerings, first)

    def _asked(self, value: Any) -> tuple[Intervention, ...]:
        if not isinstance(value, tuple):
            return read_argument(value, self._vectors)
        # From an engine in this process: JSON has no tuples.
        if not all(isinstance(each, Intervention) for each in value):
            raise MisuseError(f"{ARGUMENT!r} is a spec, a list of specs, or a tuple of Steering objects")
        return value

    def _kept_or_made(self, steerings: Sequence[Steering], first: int | None) -> dict[str, Any] | None:
        key = (tuple(steering.digest for steering in steerings), first)
        if key not in self._wires:
            self._wires[key] = self._made(steerings, first)
            self._kept_cells += _size(self._wires[key])
            while self._kept_cells > KEPT and len(self._wires) > 1:
                self._kept_cells -= _size(self._wires.popitem(last=False)[1])
        self._wires.move_to_end(key)
        return self._wires[key]

    def _made(self, steerings: Sequence[Steering], first: int | None) -> dict[str, Any] | None:
        markers = DEFAULT if self._tokenizer is None else find_markers(self._tokenizer).markers
        payload = Payload.of(steerings, markers, first)
        if payload is None:
            return None
        self._check_payload(payload)
        return payload.to_wire()

    def _check_setup(self) -> None:
        parallel = self._config.parallel_config
        passes = getattr(self._config.compilation_config, "pass_config", None)
        transfer = getattr(self._config, "kv_transfer_config", None)
        connector = getattr(transfer, "kv_connector", None)
        for reason, holds in (
            ("micro-batches (--enable-dbo)", getattr(parallel, "use_ubatching", False)),
            ("prefill context parallelism", getattr(parallel, "prefill_context_parallel_size", 1) > 1),
            ("sequence parallelism", bool(getattr(passes, "enable_sp", False))),
            ("--kv-sharing-fast-prefill", self._config.cache_config.kv_sharing_fast_prefill),
            ("an encoder-decoder model", self._config.model_config.is_encoder_decoder),
            (f"the KV connector {connector}", connector is not None and connector not in BY_BLOCK_HASH),
        ):
            if holds:
                raise MisuseError(f"this server runs with {reason}, where a request cannot be steered safely")

    def _checked_steering(self, asked: Intervention) -> Steering:
        if (reason := supports(asked)) is not None:
            raise MisuseError(reason)
        if not isinstance(asked, Steering):
            raise MisuseError(f"{asked.label!r} edits the prompt, which a client does before it sends one")
        self._check(asked)
        return asked

    def _check_reader(self, reader: Any) -> None:
        """Refuse what is no reader (an engine in this process hands objects over), and what cannot be read here."""
        if not isinstance(reader, Reader):
            raise MisuseError(f"{READERS!r} is a spec, a list of specs, or a tuple of readers")
        if (reason := supports_reader(reader)) is not None:
            raise MisuseError(reason)
        self._check_tensors(reader.tensors)
        if reader.place is None:
            return
        if not self._settings.readers:
            raise MisuseError(f"{str(reader)!r}: this server reads no states (STEERKIT_READERS=0)")
        self._check_layer(reader.place.layer)

    def _check_layer(self, layer: int) -> None:
        if self._settings.layers is not None and layer not in self._settings.layers:
            raise MisuseError(f"'layer' {layer} is not among those that this server steers (STEERKIT_LAYERS)")

    def _check_tensors(self, parts: Iterable[Any]) -> None:
        for part in parts:
            key = (part.digest, part.metadata.fingerprint)
            if key not in self._checked:
                self._identity.check(part, exact=not self._settings.allow_mismatch)
                if len(self._checked) >= MOST_CHECKED:
                    self._checked.clear()  # a request can name any number of random controls
                self._checked.add(key)

    def _check(self, steering: Steering) -> None:
        self._check_tensors(steering.tensors)
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
        for cell in payload.cells:
            self._check_layer(cell.layer)
            check_size(cell.constants, cell.layer, self._dtype)


def install(patches: Patches) -> None:
    """Patch vLLM's input and output processors. Raises AttributeError for another vLLM."""
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import OutputProcessor

    def input_init(original: Callable[..., None], self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.steerkit = Admission(self.vllm_config, self.tokenizer, Settings.from_environment())
        check_http(self.steerkit)

    def output_init(original: Callable[..., None], self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        settings = Settings.from_environment()
        self.steerkit = Capacity(settings.cells, lambda name: name in self.request_states, settings.readers)

    patches.wrap(InputProcessor, "process_inputs", _checked)
    patches.wrap(InputProcessor, "__init__", input_init)
    patches.wrap(OutputProcessor, "add_request", _counted)
    patches.wrap(OutputProcessor, "__init__", output_init)


def _checked(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """A request whose steering and readers were checked, and stand in it as a payload and a plan."""
    request = original(self, *args, **kwargs)
    params = request.sampling_params
    if params is None or not our_names(params.extra_args):
        return request
    try:
        tokens = request.prompt_token_ids
        known = len(tokens) if tokens and request.prompt_embeds is None else None
        wire = self.steerkit.wire(params.extra_args, known)
        plan = self.steerkit.plan(params.extra_args, stepwise=bool(params.stop))
        if (wire or plan) is not None and request.resumable:
            raise MisuseError("a prompt that is streamed in pieces cannot be steered: its end is not known")
        if plan is not None and params.n > 1:
            raise MisuseError(ONE_CHOICE)
    except SteerkitError as error:
        raise refused(str(error)) from error
    ours = {name: form for name, form in ((ARGUMENT, wire), (READERS, plan)) if form is not None}
    rest = {key: value for key, value in params.extra_args.items() if key not in ARGUMENTS}
    params.extra_args = rest | ours
    if plan is not None:
        params.skip_reading_prefix_cache = True  # what is cached is not computed, and so not read
    return request


def _counted(original: Callable[..., None], self: Any, request: Any, *args: Any, **kwargs: Any) -> None:
    """Let a request in where the tables have room for its steering and its readers."""
    params = request.sampling_params
    extra = (params.extra_args if params is not None else None) or {}
    wire, plan = extra.get(ARGUMENT), extra.get(READERS)
    if wire is not None or plan is not None:
        try:
            self.steerkit.admit(request.request_id, wire, plan)
        except CellsExhaustedError as error:
            from vllm.exceptions import GracefulHTTPError

            raise GracefulHTTPError(str(error), HTTPStatus.TOO_MANY_REQUESTS) from error
    original(self, request, *args, **kwargs)


def _size(wire: dict[str, Any] | None) -> int:
    return 1 if wire is None else len(wire["cells"])
