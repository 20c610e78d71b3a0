"""sk.steer: steering around the user's own code, on the very model object that the user holds.

1. Inside the model's `generate`, the prompt is what `generate` was given; a batch that it expands (beams,
   several returned sequences) keeps each input row's steering on all of that row's expansions; phases are read
   from the full text at every step, so they hold with and without a key-value cache and for any beam order.
   Positions of images are prompt, as their placeholder tokens are. Positions given as `inputs_embeds` alone are
   prompt too, and no text: nothing opens a thinking block or ends a line there, so scopes `thinking` and `answer`
   and positions `boundaries` and `lines` are told from the generated tokens.
2. Around a bare forward pass the whole input is prompt: its last real position belongs to `completion`, every
   real position before it to `prompt`.
3. Contexts nest: the outer one edits first. They belong to the thread that opened them; a forward pass from
   another thread, or a second thread that wants to steer, gets ModelInUseError, and so does whoever reads the
   streamer of a `generate` that failed.
4. A probe gate is read from the prompt, unsteered, in a pass of its own before the first steered one.
5. Where padding or the prompt cannot be told (a mask that is not `[row, position]`, a `generate` that was taken
   from the model before), there is an error and never a guess.
6. What `torch.compile` made runs eagerly inside the block, and nothing is compiled with the steering in it. A pass
   in which a hooked block did not run exactly once is an error, not an unsteered result.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.transformers.gates import Readings, row_gates, without_row_gate
from steerkit.engines.transformers.layout import point_at_text
from steerkit.engines.transformers.table import Program, RowTable
from steerkit.interventions.base import Intervention, refusal_of
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.models.eager import running_eagerly
from steerkit.models.language_model import check_loaded

WATCHED = ("generate", "prepare_inputs_for_generation")
NOT_FOLLOWED = (
    "this generate cannot be followed: call the model's own generate, looked up inside the steering block"
)
NOT_RUN = (
    "the model ran without its hooked blocks, so it would not have been steered: run it without what takes their "
    "place (a captured graph, an exported program)"
)
TEXT = {"inputs", "input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"}
UNKNOWN = -1  # the token of a position that only an embedding is known of


@contextmanager
def steer(
    lm: LanguageModel,
    *steerings: Steering,
    rows: Sequence[Sequence[Steering]] | None = None,
    allow_mismatch: bool = False,
) -> Iterator[None]:
    """Steer whatever the model runs inside the `with` block.

    Give `steerings`, applied in order to every row, or `rows`, one ordered list per row of the batch.
    Raises ModelMismatchError if a vector belongs to another model (with `allow_mismatch`, to another
    architecture or width), ModelInUseError if another thread is steering this model, SteerkitError if a pass went
    by the steered blocks. Compiled code runs eagerly meanwhile, in the whole process.
    """
    if rows is not None and steerings:
        raise MisuseError("give steerings for all rows, or one list per row with rows=…, not both")
    if rows is not None and not rows:
        raise MisuseError("rows=… is empty: give one list of steerings per row of the batch")
    check_loaded(lm)
    lm.check_state()
    per_row, n_rows = ([steerings], None) if rows is None else (rows, len(rows))
    if not all(isinstance(row, Sequence) and not isinstance(row, str) for row in per_row):
        raise MisuseError(
            "rows=… is one list of steerings per row of the batch, such as [[first], [], [second]]"
        )
    for steering in (steering for row in per_row for steering in row):
        _check(lm, steering, exact=not allow_mismatch)
    table = RowTable(lm, [Program.of([without_row_gate(s) for s in row]) for row in per_row])
    if table.keeps_state:
        raise MisuseError(
            "a strength that follows a switch, lines or logits depends on the passes before, whose rows the model may "
            "reorder here: generate through an engine, or follow a ramp over states, renewed at every position"
        )
    with (
        lm.steered_by_this_thread(),
        table.installed(),
        _Watch(lm, table, per_row, n_rows).watching(),
    ):
        yield


def _check(lm: LanguageModel, steering: Steering, *, exact: bool) -> None:
    """Raise where a steering is for another model, or is none: prompts and logits are the caller's own here."""
    if not isinstance(steering, Intervention):
        raise MisuseError(refusal_of(steering))
    if not isinstance(steering, Steering):
        raise MisuseError(
            f"sk.steer edits the residual stream, and {str(steering)!r} is another kind of intervention: give it to an "
            "engine's generate"
        )
    for gate in row_gates([steering]):
        if not isinstance(gate, ProbeGate):
            raise MisuseError(
                f"sk.steer reads probes alone, and the gate {gate.name!r} asks for the prompt's text"
            )
    for part in steering.tensors:
        part.check(lm, exact=exact)


@dataclass(frozen=True)
class _Prompt:
    """What `generate` was given: `tokens` `[row, position]`, UNKNOWN where there is an embedding alone.

    `given` of them lead the token ids that `generate` works on: all of them, or none where it was given embeddings.
    """

    tokens: Tensor
    given: int

    @classmethod
    def of(cls, ids: Tensor | None, embeds: Tensor | None) -> _Prompt | None:
        """The prompt of a `generate`; None where it is given neither, and begins by itself."""
        given = 0 if ids is None else ids.shape[1]
        if ids is not None and (embeds is None or embeds.shape[1] == given):
            return cls(ids, given)
        if embeds is None:
            return None
        return cls(torch.full(embeds.shape[:2], UNKNOWN, device=embeds.device), given)

    def text(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The text `[row, position]` so far, from the token ids that `generate` works on."""
        length = self.tokens.shape[1]
        in_chunks = ids.shape[1] < self.given or (mask is not None and mask.shape[1] < length)
        if not in_chunks and self.given == length:
            return ids
        prompt = self.tokens.repeat_interleave(ids.shape[0] // self.tokens.shape[0], dim=0)
        if not in_chunks:
            return torch.cat([prompt, ids[:, self.given :]], dim=1)
        if mask is None:
            raise MisuseError(
                "a prompt that is read in chunks needs its attention_mask: it says how far it was read"
            )
        return prompt[:, : mask.shape[1]]


@dataclass(frozen=True)
class _Call:
    """One call of the whole model, outside its decoder: what it was given, and how many passes came before it."""

    ids: Tensor | None
    mask: Any
    passes: int


class _Watch:
    """Follows the model's own calls, keeps the table pointed at the positions that run, and sees that they ran."""

    def __init__(
        self,
        lm: LanguageModel,
        table: RowTable,
        steerings: Sequence[Sequence[Steering]],
        rows: int | None,
    ) -> None:
        self._lm = lm
        self._table = table
        self._steerings = steerings
        self._rows = rows
        self._before: dict[int, int] = {}
        self._passes = 0
        self._depth = self._blocks_in_use()
        self._signature = inspect.signature(lm.decoder.forward)
        self._call_signature = inspect.signature(lm.hf.forward)
        self._generating = False
        self._prompt: _Prompt | None = None
        self._text: tuple[Tensor, Tensor | None] | None = None
        self._call: _Call | None = None
        self._prepared: int | None = None  # passes before the inputs that generate prepared last
        self._open = False
        self._beneath: dict[str, Any] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch forward passes and, on this model object only, `generate` and its preparation of inputs."""
        hf, decoder = self._lm.hf, self._lm.decoder
        self._beneath = {name: vars(hf).get(name) for name in WATCHED}
        handles = [
            decoder.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            decoder.register_forward_hook(self._after_forward),
        ]
        if hf is not decoder:
            handles += [
                hf.register_forward_pre_hook(self._before_call, with_kwargs=True),
                hf.register_forward_hook(self._after_call, always_call=True),
            ]
        hf.generate = self._watched_generate(hf.generate)
        hf.prepare_inputs_for_generation = self._watched_preparation(hf.prepare_inputs_for_generation)
        self._open = True
        try:
            with running_eagerly():
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._open = False
            for name in WATCHED:
                _uncover(hf, name)

    def _watched_generate(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(generate)

        @functools.wraps(generate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            streamer = _arguments(signature, args, kwargs).get("streamer")
            outer = self._generating, self._prompt, self._text, self._prepared
            with _told(streamer):
                self._lm.check_owner()  # before another thread's prompt takes the place of this one's
                prompt = self._prompt_of(args, kwargs)
                self._generating, self._prompt, self._text, self._prepared = True, prompt, None, None
                try:
                    found = generate(*args, **kwargs)
                    self._check_ran()
                    return found
                finally:
                    self._generating, self._prompt, self._text, self._prepared = outer

        watched.watch = self  # type: ignore[attr-defined]  # read by _uncover
        return watched

    def _prompt_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Prompt | None:
        """The prompt of a `generate` with these arguments; its gates are read here."""
        ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        is_text = isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point()
        prompt = _Prompt.of(ids if is_text else None, kwargs.get("inputs_embeds"))
        if prompt is not None:
            self._check_rows(prompt.tokens.shape[0])
            if any(map(row_gates, self._steerings)):
                if hidden := sorted(k for k, v in kwargs.items() if _holds_tensors(v) and k not in TEXT):
                    raise MisuseError(
                        f"a probe gate reads token ids alone, and this prompt has {hidden[0]} too"
                    )
                self._read_gates(prompt.tokens, _padding_mask(kwargs.get("attention_mask")))
        return prompt

    def _watched_preparation(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(prepare)
        def watched(input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._lm.check_owner()
            prepared = prepare(input_ids, *args, **kwargs)
            if not self._generating:
                raise MisuseError(NOT_FOLLOWED)
            self._check_ran()
            mask = _padding_mask(kwargs.get("attention_mask"))
            if self._prompt is None:
                self._prompt = _Prompt(input_ids, input_ids.shape[1])
                self._read_gates(input_ids, mask)
            self._text = (self._prompt.text(input_ids, mask), mask)
            self._prepared = self._passes
            return prepared

        watched.watch = self  # type: ignore[attr-defined]
        return watched

    def _before_call(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._lm.is_suspended:
            return
        self._lm.check_owner()
        given = _arguments(self._call_signature, args, kwargs)
        self._call = _Call(given.get("input_ids"), given.get("attention_mask"), self._passes)

    def _after_call(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._lm.is_suspended:
            return
        call, self._call = self._call, None
        if output is not None and call is not None and call.passes == self._passes:
            self._raise_unsteered()

    def _before_forward(self, _decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._lm.is_suspended:
            return
        self._lm.check_owner()
        self._lm.check_mode()
        self._before = dict(self._table.ran)
        given = _arguments(self._signature, args, kwargs)
        shown = given.get("input_ids")
        if shown is None:
            if given.get("inputs_embeds") is None:
                raise MisuseError(
                    "give input_ids or inputs_embeds by name: steering cannot tell which positions run"
                )
            shown = given["inputs_embeds"][..., 0]
        if self._text is not None:
            self._point_generated(shown.shape[1])
            return
        if self._generating:
            raise MisuseError(NOT_FOLLOWED)
        self._check_rows(shown.shape[0])
        self._point_bare(shown, given)

    def _after_forward(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        if self._lm.is_suspended:
            return
        self._passes += 1
        times = [now - self._before[site] for site, now in self._table.ran.items()]
        if self._blocks_in_use() < self._depth:  # assisted generation that drafts with the first blocks alone
            times = [max(1, each) for each in times]
        if any(each != 1 for each in times):
            self._raise_unsteered()

    def _check_ran(self) -> None:
        """Raise SteerkitError where the inputs that `generate` prepared last were run by something else."""
        if self._prepared == self._passes:
            self._raise_unsteered()

    def _raise_unsteered(self) -> None:
        if self._table.ran:
            raise SteerkitError(NOT_RUN)

    def _blocks_in_use(self) -> int:
        """How many of its blocks the decoder runs, as its config says, from which drafts take some away."""
        config = getattr(self._lm.decoder, "config", None)
        return int(getattr(config, "num_hidden_layers", 0) or 0)

    def _read_gates(self, ids: Tensor, mask: Tensor | None) -> None:
        """Let each row keep the steerings whose gates fire for its prompt, `[row, position]`."""
        if not any(map(row_gates, self._steerings)):
            return
        kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        prompts = [tuple(row[real].tolist()) for row, real in zip(ids, kept, strict=True)]
        rows = self._steerings if len(self._steerings) > 1 else [self._steerings[0]] * len(prompts)
        asked = [("", ids, row) for ids, row in zip(prompts, rows, strict=True)]
        readings = Readings(self._lm)
        with self._lm.unsteered():
            readings.read(asked)
        self._table.bind([Program.of(readings.opened(row, ids)) for _, ids, row in asked])

    def _check_rows(self, rows: int) -> None:
        if self._rows not in (None, rows):
            raise MisuseError(
                f"steering was given for {self._rows} rows, but the batch has {rows}: give one list a row"
            )

    def _point_generated(self, newest: int) -> None:
        """Point the table at the newest positions, from the whole text of each row as `generate` knows it."""
        assert self._text is not None
        assert self._prompt is not None
        ids, mask = self._text
        _check_positions(newest, ids.shape[1])
        mask = torch.ones_like(ids) if mask is None else mask[:, -ids.shape[1] :]
        first = torch.full_like(ids[:, 0], self._prompt.tokens.shape[1] - 1)
        point_at_text(self._table, self._lm, ids, mask, first, newest)

    def _point_bare(self, shown: Tensor, given: dict[str, Any]) -> None:
        """Point the table at a pass outside `generate`: all prompt, each row's last real position completion."""
        cached = given.get("past_key_values")
        has_past = cached is not None and cached.get_seq_length() > 0
        embedded = given.get("input_ids") is None
        if any(map(row_gates, self._steerings)) and (has_past or embedded):
            raise MisuseError("a probe gate needs the whole text as token ids, or generate")
        mask, is_text = given.get("attention_mask"), not embedded
        if (
            self._call is not None and self._call.ids is not None
        ):  # whose decoder may be given other forms of both
            if embedded:
                _check_positions(shown.shape[1], self._call.ids.shape[1])
                shown, is_text = self._call.ids, True
            if not isinstance(mask, Tensor) or mask.ndim != 2:
                mask = self._call.mask
        mask = _padding_mask(mask)
        self._read_gates(shown, mask)
        if self._table.needs_text and (has_past or not is_text):
            raise MisuseError(
                "scopes 'thinking' and 'answer' and positions 'boundaries' and 'lines' need the whole text as "
                "token ids, or generate"
            )
        if (self._table.fades or self._table.tells_last_apart) and has_past:
            raise MisuseError(
                "a half-life and positions 'last' need to know where the completion begins: use generate"
            )
        if mask is None:
            mask = torch.ones(shown.shape[:2], device=shown.device)
        mask = mask[:, -shown.shape[1] :].bool()
        places = torch.arange(shown.shape[1], device=shown.device)
        last = torch.where(mask, places, -1).amax(dim=1)
        point_at_text(self._table, self._lm, shown, mask, last, is_whole=is_text and not has_past)


def _arguments(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name; those that only a `*args` takes are left out."""
    return {**kwargs, **signature.bind_partial(*args, **kwargs).arguments}


def _padding_mask(mask: Any) -> Tensor | None:
    """The mask, if there is one. Raises MisuseError for a form that does not say which positions are padding."""
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return mask
    raise MisuseError(
        "steering needs the attention mask as [row, position]: another form hides which positions are padding"
    )


def _check_positions(running: int, length: int) -> None:
    """Raise MisuseError where more positions run than the text has: which of them are prompt is not known."""
    if running > length:
        raise MisuseError(
            f"the decoder runs {running} positions of a text of {length} tokens, so where its prompt ends is not known"
        )


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(_holds_tensors, value)))


@contextmanager
def _told(streamer: Any) -> Iterator[None]:
    """Let whoever reads from `streamer`, maybe in another thread, hear of an error in the block."""
    try:
        yield
    except BaseException as error:
        if hasattr(streamer, "text_queue"):
            streamer.on_finalized_text(_NoText(error))
        elif streamer is not None:
            streamer.end()
        raise


class _NoText:
    """Stands in a streamer's queue for the text: the reader compares it with the stop signal, and so hears why."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __eq__(self, _other: object) -> bool:
        raise self._error

    __hash__ = None  # type: ignore[assignment]


def _uncover(hf: nn.Module, name: str) -> None:
    """Take the wrappers of closed watches off `hf.name`; contexts inside generators may close in any order."""
    top = vars(hf).get(name)
    while (watch := getattr(top, "watch", None)) is not None and not watch._open:
        top = watch._beneath[name]
    if top is not None:
        setattr(hf, name, top)
    elif name in vars(hf):
        delattr(hf, name)
