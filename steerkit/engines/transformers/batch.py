"""The running batch: rows that decode together, each bound to its own steering, joining and leaving freely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from steerkit.engines import stops
from steerkit.engines.base import Completion, Decoding, Finish, GateReading, Request
from steerkit.engines.forward import KeysAndValues, Rows, logits
from steerkit.engines.transformers.cache import aligned_cache, keys_and_values
from steerkit.engines.transformers.layout import completion_phases, line_ends
from steerkit.engines.transformers.sampling import Bias, Choosing
from steerkit.engines.transformers.table import ANSWER, LAST, Program, RowTable, thinking_tokens
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.logit_rules import BoundRule, Edits, ForcedClosing
from steerkit.models import LanguageModel


@dataclass(eq=False)
class Row:
    """One completion under way, for every request that it answers. `generated` grows until `finish` ends it.

    `asked` are those requests with what their row gates read: requests that come to the same prompt, steerings,
    rules and random numbers have the same completion. `following` are the rules that are not over, each with its
    state behind the newest token; `forced` says whether a thinking budget has taken a token by force; `cut` is what a
    stop text leaves of what was generated.
    """

    asked: list[tuple[Request, tuple[GateReading, ...]]]
    prompt_ids: tuple[int, ...]
    program: Program
    uniforms: np.ndarray | None
    rules: tuple[BoundRule, ...] = ()
    generated: list[int] = field(init=False)
    following: list[tuple[BoundRule, Any]] = field(init=False)
    forced: bool = field(init=False)
    gate_counts: Counter[tuple[str, bool]] = field(init=False)
    finish: Finish | None = None
    cut: stops.Cut | None = None

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start from the prompt, whatever was generated before."""
        self.generated = []
        self.following = [(rule, rule.start(self.prompt_ids)) for rule in self.rules]
        self.forced = False
        self.gate_counts = Counter()

    @property
    def decoding(self) -> Decoding:
        """How tokens are chosen, alike for all that asked."""
        return self.asked[0][0].decoding

    @property
    def prefix_key(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Rows with equal keys have equal keys and values up to the last prompt token."""
        return self.prompt_ids, self.program.prompt_key

    @property
    def cached(self) -> int:
        """How many of the row's tokens have been through the model: all but the newest."""
        return len(self.prompt_ids) - 1 + len(self.generated)

    @property
    def newest(self) -> int:
        """The token that the next step reads."""
        return self.generated[-1] if self.generated else self.prompt_ids[-1]

    def take(self, token: int, lm: LanguageModel) -> None:
        """Append a sampled token, or end the row."""
        decoding = self.decoding
        if token in lm.stop_ids or token in decoding.stop_token_ids:
            self.finish = "stop"
            return
        self.generated.append(token)
        if self.following:
            behind = [(rule, rule.after(state, token)) for rule, state in self.following]
            self.following = [(rule, state) for rule, state in behind if state is not None]
        if len(self.generated) == decoding.max_new_tokens:
            self.finish = "length"
        if decoding.stop:
            self.cut = stops.cut_by_newest(lm.renderer, self.generated, decoding.stop)
            self.finish = "stop" if self.cut is not None else self.finish

    def edits(self) -> list[Edits]:
        """What the row's rules do to its next logits."""
        return [rule.edits(state) for rule, state in self.following]

    def completions(self, lm: LanguageModel) -> Iterator[Completion]:
        """The finished row as the engine's answer to each that asked."""
        assert self.finish is not None
        cut = self.cut or stops.Cut(len(self.generated), lm.renderer.decode(self.generated))
        kept, markers = self.generated[: cut.tokens], (marker.cpu() for marker in lm.thinking_markers)
        thinking = thinking_tokens(self.prompt_ids, kept, *markers)
        for request, gates in self.asked:
            yield Completion(
                request=request,
                text=cut.text,
                token_ids=tuple(kept),
                finish=self.finish,
                prompt_tokens=len(self.prompt_ids),
                thinking_tokens=thinking,
                gates=_with_position_gates(request, gates, self.gate_counts),
                forced=self.forced,
                markers=lm.markers,
            )


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prompt without its last token: row `index` of a prefilled batch, right-aligned.

    `gate_counts` is what the row's position gates read on the way; see `RowTable.gate_counts`.
    """

    source: KeysAndValues
    index: int
    gate_counts: Counter[tuple[str, bool]] = field(default_factory=Counter)


Joining = tuple[Row, Prefix]


class RunningBatch:
    """Rows decoding in step. `step` advances every row by one token; `admit` lets rows leave and join."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self.rows: list[Row] = []
        self._cache: Cache
        # What rules do to the step to come, with the tensors that say so; see _edit_logits.
        self._edits: list[tuple[int, list[Edits]]] = []
        self._biased: Bias | None = None
        self._forced: tuple[Tensor, ...] | None = None

    @property
    def live(self) -> list[Row]:
        """Rows that are not finished."""
        return [row for row in self.rows if row.finish is None]

    def clear(self) -> None:
        """Forget all rows and let go of their keys and values."""
        self.rows = []
        self._cache = Cache(layers=[])

    def admit(self, joining: Sequence[Joining]) -> None:
        """Let rows join: in the places of finished ones where they fit there, else by packing the batch anew."""
        for row in self.live:  # their counts are brought up to date before the table is made anew
            self.settle(row)
        for row, prefix in joining:
            row.gate_counts = Counter(prefix.gate_counts)  # set, not added: a row may try to join twice
        free = sum(row.finish is not None for row in self.rows)
        there_are_places = 0 < len(joining) <= free and not self.is_full
        if there_are_places and max(row.cached for row, _ in joining) <= self._width:
            self._refill(joining)
        else:
            self._repack(joining)

    def settle(self, row: Row) -> None:
        """Bring the gate counts of a row up to date; waits for the device where the table has any."""
        if self._table.counts_gates:
            row.gate_counts.update(self._table.gate_counts(self.rows.index(row)))

    def _repack(self, joining: Sequence[Joining]) -> None:
        """Drop finished rows, let new ones in, and trim positions that no row needs any more."""
        device = self._lm.device
        kept = [i for i, row in enumerate(self.rows) if row.finish is None]
        parts: list[tuple[KeysAndValues, Tensor]] = []
        rows: list[Row] = []
        if kept:
            parts.append((keys_and_values(self._cache), torch.tensor(kept, device=device)))
            rows += [self.rows[i] for i in kept]
        for source, group in _by_source(enumerate(joining)):
            parts.append((source, torch.tensor([prefix.index for _, (_, prefix) in group], device=device)))
            rows += [row for _, (row, _) in group]
        if not rows:
            self.rows = []
            return
        width = max(row.cached for row in rows)
        self._cache = aligned_cache(parts, width)
        self.rows = rows
        self._bind(width)

    def _refill(self, joining: Sequence[Joining]) -> None:
        """Put new rows in the places of finished ones; nothing of the other rows is copied."""
        places = [i for i, row in enumerate(self.rows) if row.finish is not None]
        rows = list(self.rows)
        for source, group in _by_source(zip(places, joining, strict=False)):
            at = torch.tensor([place for place, _ in group], device=self._lm.device)
            taken = torch.tensor([prefix.index for _, (_, prefix) in group], device=self._lm.device)
            for layer, (keys, values) in zip(self._cache.layers, source, strict=True):
                layer.put(at, keys.index_select(0, taken), values.index_select(0, taken))
            for place, (row, _) in group:
                rows[place] = row
        self.rows = rows
        self._bind(self._width)

    @property
    def is_full(self) -> bool:
        """Whether the next step would have to copy all keys and values to find room for its own."""
        return bool(self.rows) and self._cache.layers[0].room == 0

    @property
    def _width(self) -> int:
        return int(self._cache.get_seq_length())

    def _bind(self, width: int) -> None:
        """Write all that a step reads of its rows: mask, positions, newest tokens, steerings, random numbers."""
        lm, device, rows = self._lm, self._lm.device, self.rows
        lengths = torch.tensor([row.cached for row in rows], device=device)[:, None]
        self._mask = torch.arange(width, device=device)[None] >= width - lengths
        self._positions = lengths
        self._prompts = torch.tensor([[len(row.prompt_ids) - 1] for row in rows], device=device)
        self._newest = torch.tensor([[row.newest] for row in rows], device=device)
        self._table = RowTable(lm, [row.program for row in rows], counts_gates=True)
        if self._table.follows_text:
            texts = [[*row.prompt_ids, *row.generated] for row in rows]
            padded = [[lm.pad_id] * (width + 1 - len(text)) + text for text in texts]
            self._history = torch.tensor(padded, device=device)
        elif not self._table.changes_as_it_goes:
            self._table.point(torch.full((len(rows), 1), ANSWER, device=device))
        self._choosing = Choosing(rows, device)
        self._edit_logits()

    def step(self) -> None:
        """One token for every row, finished ones included until others take their places."""
        lm = self._lm
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=True)
        self._point()
        with self._table.one_pass():
            nats = logits(lm, Rows(self._newest, self._mask, self._positions), 1, self._cache)[:, -1]
        chosen = self._choosing.next_tokens(nats, self._biased)
        if self._forced is not None:
            places, tokens = self._forced
            chosen = chosen.index_put((places,), tokens)
        self._choosing.take(chosen)
        self._newest = chosen[:, None]
        # A finished row runs on until its place is taken, perhaps beyond the last position that the model knows.
        self._positions = (self._positions + 1).clamp_max(lm.context_length - 1)
        if self._table.follows_text:
            self._history = torch.cat([self._history, self._newest], dim=1)
        for row, token in zip(self.rows, chosen.tolist(), strict=True):  # the step's one wait for the device
            if row.finish is None:
                row.take(token, lm)
        if self._edits:
            self._edit_logits()

    def _point(self) -> None:
        """Point the table at the position that the step reads, where that changes from step to step."""
        table = self._table
        if not table.changes_as_it_goes:
            return
        ages = self._positions - self._prompts
        phase = torch.full_like(self._positions, ANSWER)
        if table.follows_text:
            ends = line_ends(self._history, self._lm.line_breaks) if table.tells_steps_apart else None
            phase = completion_phases(self._history, self._lm.thinking_markers, ends)[:, -1:]
        table.point(phase + LAST * (ages == 0), ages)

    def _edit_logits(self) -> None:
        """Put on the device what rules do to the next step; nothing once no row follows any."""
        edits = [(i, row.edits()) for i, row in enumerate(self.rows) if row.following and row.finish is None]
        if edits and edits == self._edits and self._forced is None:
            return  # a penalty is the same at step after step
        self._edits = edits
        each = [(place, edit) for place, row_edits in edits for edit in row_edits]
        biased = [(place, token, nats) for place, edit in each for token, nats in edit.nats.items()]
        forced = [self._force(place, row_edits) for place, row_edits in edits]
        columns, self._forced = self._on_device(biased), self._on_device([f for f in forced if f])
        self._biased = None if columns is None else Bias(*columns)

    def _force(self, place: int, edits: Sequence[Edits]) -> tuple[int, int] | None:
        """The row's place and the token that the first of its rules that forces one takes; None where none does."""
        row = self.rows[place]
        for (rule, _), edit in zip(row.following, edits, strict=True):
            if edit.forced is not None:
                row.forced |= isinstance(rule, ForcedClosing)
                return place, edit.forced
        return None

    def _on_device(self, entries: Sequence[tuple[float, ...]]) -> tuple[Tensor, ...] | None:
        """The columns of `entries` as tensors; None where there are none."""
        if not entries:
            return None
        return tuple(torch.tensor(column, device=self._lm.device) for column in zip(*entries, strict=True))


def _by_source(
    joining: Iterable[tuple[int, Joining]],
) -> list[tuple[KeysAndValues, list[tuple[int, Joining]]]]:
    """Numbered joining rows, grouped by the prefilled batch that holds their prefix, which stands first."""
    groups: dict[int, tuple[KeysAndValues, list[tuple[int, Joining]]]] = {}
    for number, (row, prefix) in joining:
        _, group = groups.setdefault(id(prefix.source), (prefix.source, []))
        group.append((number, (row, prefix)))
    return list(groups.values())


def _with_position_gates(
    request: Request, read: Sequence[GateReading], counts: Counter[tuple[str, bool]]
) -> tuple[GateReading, ...]:
    """The readings of the request's row gates and of its position gates, in the order of its interventions."""
    shares = [
        GateReading(i, each.gate.name, None, counts[each.digest, True] / max(1, counts[each.digest, False]))
        for i, each in enumerate(request.interventions)
        if isinstance(each.gate, PositionGate)
    ]
    return tuple(sorted([*read, *shares], key=lambda reading: reading.intervention))
