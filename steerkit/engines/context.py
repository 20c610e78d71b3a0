"""sk.steer: steering around the user's own code, on the very model object that the user holds.

1. Inside the model's `generate`, the prompt is what `generate` was given; a batch that it expands (beams,
   several returned sequences) keeps each input row's steering on all of that row's expansions; phases are read
   from the full text at every step, so they hold with and without a key-value cache and for any beam order.
2. Around a bare forward pass the whole input is prompt: its last real position belongs to `completion`, every
   real position before it to `prompt`.
3. Contexts nest: the outer one edits first. They belong to the thread that opened them; a forward pass from
   another thread, or a second thread that wants to steer, gets ModelInUseError.
4. A probe gate is read from the prompt, unsteered, in a pass of its own before the first steered one.
5. Where padding or the prompt cannot be told (inputs_embeds or a mask that is not `[row, position]`, a `generate`
   that was taken from the model before), there is an error and never a guess.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.core.errors import MisuseError
from steerkit.engines.transformers.gates import Readings, row_gates, without_row_gate
from steerkit.engines.transformers.layout import point_at_text
from steerkit.engines.transformers.table import Program, RowTable
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel

WATCHED = ("generate", "prepare_inputs_for_generation")
NOT_FOLLOWED = (
    "this generate cannot be followed: call the model's own generate, looked up inside the steering block"
)


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
    architecture or width), ModelInUseError if another thread is steering this model.
    """
    if rows is not None and steerings:
        raise MisuseError("give steerings for all rows, or one list per row with rows=…, not both")
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in lm.hf.modules()):
        raise MisuseError(
            "a compiled model may drop hooks without a word: steer the model before torch.compile"
        )
    if rows is not None and not rows:
        raise MisuseError("rows=… is empty: give one list of steerings per row of the batch")
    per_row, n_rows = ([steerings], None) if rows is None else (rows, len(rows))
    for steering in (steering for row in per_row for steering in row):
        _check(lm, steering, exact=not allow_mismatch)
    table = RowTable(lm, [Program.of([without_row_gate(s) for s in row]) for row in per_row])
    with lm.steered_by_this_thread(), _Watch(lm, table, per_row, n_rows).watching(), table.installed():
        yield


def _check(lm: LanguageModel, steering: Steering, *, exact: bool) -> None:
    """Raise where a steering is for another model, or is none: prompts and logits are the caller's own here."""
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


class _Watch:
    """Follows the model's own calls and keeps the table pointed at the positions that run."""

    def __init__(
        self, lm: LanguageModel, table: RowTable, steerings: Sequence[Sequence[Steering]], rows: int | None
    ) -> None:
        self._lm = lm
        self._table = table
        self._steerings = steerings
        self._rows = rows
        self._signature = inspect.signature(lm.decoder.forward)
        self._generating = False
        self._prompt: Tensor | None = None
        self._text: tuple[Tensor, Tensor | None] | None = None
        self._open = False
        self._beneath: dict[str, Any] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch forward passes and, on this model object only, `generate` and its preparation of inputs."""
        hf = self._lm.hf
        self._beneath = {name: vars(hf).get(name) for name in WATCHED}
        handle = self._lm.decoder.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        hf.generate = self._watched_generate(hf.generate)
        hf.prepare_inputs_for_generation = self._watched_preparation(hf.prepare_inputs_for_generation)
        self._open = True
        try:
            yield
        finally:
            handle.remove()
            self._open = False
            for name in WATCHED:
                _uncover(hf, name)

    def _watched_generate(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(generate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._lm.check_owner()  # before another thread's prompt takes the place of this one's
            given = inspect.signature(generate).bind_partial(*args, **kwargs).arguments
            prompt = kwargs.get("input_ids", given.get("inputs"))
            if prompt is not None:
                self._check_rows(prompt.shape[0])
                self._read_gates(prompt, _padding_mask(kwargs.get("attention_mask")))
            outer = self._generating, self._prompt, self._text
            self._generating, self._prompt, self._text = True, prompt, None
            try:
                return generate(*args, **kwargs)
            finally:
                self._generating, self._prompt, self._text = outer

        watched.watch = self  # type: ignore[attr-defined]  # read by _uncover
        return watched

    def _watched_preparation(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(prepare)
        def watched(input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._lm.check_owner()
            prepared = prepare(input_ids, *args, **kwargs)
            if not self._generating:
                raise MisuseError(NOT_FOLLOWED)
            if prepared.get("inputs_embeds") is not None:
                raise MisuseError("steering generate needs token ids: inputs_embeds hide where the prompt is")
            mask = _padding_mask(kwargs.get("attention_mask"))
            if self._prompt is None:
                self._prompt = input_ids
                self._read_gates(input_ids, mask)
            if input_ids.shape[1] < self._prompt.shape[1] and mask is not None:
                # A chunk of a prompt that is read piece by piece: the text is the prompt as far as it was read.
                expansion = input_ids.shape[0] // self._prompt.shape[0]
                input_ids = self._prompt.repeat_interleave(expansion, dim=0)[:, : mask.shape[1]]
            self._text = (input_ids, mask)
            return prepared

        watched.watch = self  # type: ignore[attr-defined]
        return watched

    def _before_forward(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._lm.is_suspended:
            return
        self._lm.check_owner()
        given = self._signature.bind_partial(*args, **kwargs).arguments
        shown = given.get("input_ids")
        if shown is None:
            shown = given["inputs_embeds"][..., 0]
        if self._text is not None:
            self._point_generated(shown.shape[1])
            return
        if self._generating:
            raise MisuseError(NOT_FOLLOWED)
        self._check_rows(shown.shape[0])
        self._point_bare(shown, given)

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
        mask = torch.ones_like(ids) if mask is None else mask[:, -ids.shape[1] :]
        first = torch.full_like(ids[:, 0], self._prompt.shape[1] - 1)
        point_at_text(self._table, self._lm, ids, mask, first, newest)

    def _point_bare(self, shown: Tensor, given: dict[str, Any]) -> None:
        """Point the table at a pass outside `generate`: all prompt, each row's last real position completion."""
        cached = given.get("past_key_values")
        has_past = cached is not None and cached.get_seq_length() > 0
        is_whole = given.get("input_ids") is not None and not has_past
        if any(map(row_gates, self._steerings)) and not is_whole:
            raise MisuseError("a probe gate needs the whole text as token ids, or generate")
        mask = _padding_mask(given.get("attention_mask"))
        self._read_gates(shown, mask)
        if self._table.follows_text and not is_whole:
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
        point_at_text(self._table, self._lm, shown, mask, last)


def _padding_mask(mask: Any) -> Tensor | None:
    """The mask, if there is one. Raises MisuseError for a form that does not say which positions are padding."""
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return mask
    raise MisuseError(
        "steering needs the attention mask as [row, position]: another form hides which positions are padding"
    )


def _uncover(hf: nn.Module, name: str) -> None:
    """Take the wrappers of closed watches off `hf.name`; contexts inside generators may close in any order."""
    top = vars(hf).get(name)
    while (watch := getattr(top, "watch", None)) is not None and not watch._open:
        top = watch._beneath[name]
    if top is not None:
        setattr(hf, name, top)
    elif name in vars(hf):
        delattr(hf, name)
