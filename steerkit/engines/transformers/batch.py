"""The running batch: rows that decode together, each bound to its own steering, joining and leaving freely."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerkit.engines import stops
from steerkit.engines.base import Completion, Decision, Decoding, Finish, GateReading, Request
from steerkit.engines.transformers.logprobs import TokenLogprobs, TopLogprobs
from steerkit.engines.transformers.reading import Noted, ReadingTable, RowReadings
from steerkit.engines.transformers.sampling import Bias, Choosing
from steerkit.engines.transformers.table import PHASE_OF_KIND, Program
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.logit_rules import BoundRule, Edits, ForcedBeginning, ForcedClosing
from steerkit.interventions.policies import BoundPolicy
from steerkit.interventions.readers import Reader
from steerkit.models import LanguageModel

NOTHING_READ: Mapping[Reader, float] = {}


@dataclass(eq=False)
class Row:
    """One completion under way, for every request that it answers. `generated` grows until `finish` ends it.

    `asked` are those requests with what their row gates read: requests that come to the same prompt, steerings,
    rules and random numbers have the same completion. `following` are the rules that are not over, each with its
    state behind the newest token; `forced` says whether a thinking budget has taken a token by force; `cut` is what a
    stop text leaves of what was generated. `thinking` is where thinking stands behind the newest token, once somebody
    has asked. `readers` read it, in passes of which it has taken `passes` so far, and `reads_prompt` says
    whether they read its prompt too. `logprobs` are those of its tokens, where `top_logprobs` is a number.
    """

    asked: list[tuple[Request, tuple[GateReading, ...]]]
    prompt_ids: tuple[int, ...]
    program: Program
    uniforms: np.ndarray | None
    rules: tuple[BoundRule, ...] = ()
    readers: tuple[Reader, ...] = ()
    reads_prompt: bool = True
    generated: list[int] = field(init=False)
    following: list[tuple[BoundRule, Any]] = field(init=False)
    forced: bool = field(init=False)
    gate_counts: Counter[tuple[str, bool]] = field(init=False)
    thinking: int | None = field(init=False)
    passes: int = field(init=False)
    read: RowReadings = field(init=False)
    finish: Finish | None = None
    cut: stops.Cut | None = None
    top_logprobs: int | None = None
    logprobs: list[TokenLogprobs] = field(init=False)

    def __post_init__(self) -> None:
        self.generated, self.forced = [], False
        self.begin()

    def begin(self) -> None:
        """Start from the prompt, to take again the tokens that were generated before: somebody may have read them."""
        again = ForcedBeginning(tuple(self.generated))
        rules = (again, *self.rules) if self.generated else self.rules
        self.following = [(rule, rule.start(self.prompt_ids)) for rule in rules]
        self.generated, self.logprobs = [], []
        self.gate_counts = Counter()
        self.thinking = None
        self.passes = 0
        self.read = RowReadings(self.readers)

    @property
    def decoding(self) -> Decoding:
        """How tokens are chosen, alike for all that asked."""
        return self.asked[0][0].decoding

    @property
    def prefix_key(self) -> tuple[tuple[int, ...], tuple[str, ...], tuple[Reader, ...]]:
        """Rows with equal keys have the same past up to the last prompt token, and the same read of it."""
        return self.prompt_ids, self.program.prompt_key, self.prompt_readers

    @property
    def prompt_readers(self) -> tuple[Reader, ...]:
        """What reads its prompt."""
        return self.readers if self.reads_prompt else ()

    @property
    def cached(self) -> int:
        """How many of the row's tokens have been through the model: all but the newest."""
        return len(self.prompt_ids) - 1 + len(self.generated)

    @property
    def newest(self) -> int:
        """The token that the next step reads."""
        return self.generated[-1] if self.generated else self.prompt_ids[-1]

    def take(self, token: int, lm: LanguageModel, read: Mapping[Reader, float] = NOTHING_READ) -> None:
        """Append a sampled token, or end the row. `read` is what the readers of policies read in the same pass."""
        decoding = self.decoding
        self.passes += 1
        if token in lm.stop_ids or token in decoding.stop_token_ids:
            self.finish = "stop"
            return
        self.generated.append(token)
        if self.thinking is not None:
            self.thinking = lm.thinking.after(self.thinking, token)
        if self.following:
            behind = [(rule, rule.after(state, token)) for rule, state in self.following]
            self.following = [(rule, state) for rule, state in behind if state is not None]
        if read:
            self.following = [
                (
                    rule,
                    rule.read(state, read[rule.trigger.reader]) if isinstance(rule, BoundPolicy) else state,
                )
                for rule, state in self.following
            ]
        if len(self.generated) == decoding.max_new_tokens:
            self.finish = "length"
        if decoding.stop:
            self.cut = stops.cut_by_newest(lm.renderer, self.generated, decoding.stop)
            self.finish = "stop" if self.cut is not None else self.finish

    @property
    def deciding_readers(self) -> list[Reader]:
        """What the triggers of its policies read."""
        return [rule.trigger.reader for rule in self.rules if isinstance(rule, BoundPolicy)]

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What its policies decided."""
        made = ((rule.name, state.decided) for rule, state in self.following if isinstance(rule, BoundPolicy))
        return tuple(Decision(name, *decided) for name, decided in made if decided is not None)

    def phase(self, lm: LanguageModel) -> int:
        """What the newest token belongs to: THINKING, ANSWER or TOOL."""
        if self.thinking is None:
            self.thinking = lm.thinking.start(self.prompt_ids)
            for token in self.generated:
                self.thinking = lm.thinking.after(self.thinking, token)
        return PHASE_OF_KIND[lm.thinking.kind(self.thinking)]

    def edits(self) -> list[Edits]:
        """What the row's rules do to its next logits."""
        return [rule.edits(state) for rule, state in self.following]

    def completions(self, lm: LanguageModel) -> Iterator[Completion]:
        """The finished row as the engine's answer to each that asked."""
        assert self.finish is not None
        kept, text = (self.generated, None) if self.cut is None else self._cut_to(self.cut)
        reading = lm.thinking.read(self.prompt_ids, kept, text)
        for request, gates in self.asked:
            yield Completion(
                request=request,
                text=reading.text,
                token_ids=tuple(kept),
                finish=self.finish,
                prompt_tokens=len(self.prompt_ids),
                thinking_tokens=reading.thinking_tokens,
                gates=_with_position_gates(request, gates, self.gate_counts),
                forced=self.forced,
                markers=lm.markers,
                spans=reading.spans,
                readings=self.read.of(request.readers, len(self.prompt_ids), len(kept)),
                decisions=self.decisions,
            )

    def _cut_to(self, cut: stops.Cut) -> tuple[list[int], str]:
        return self.generated[: cut.tokens], cut.text


class RunningBatch(ABC):
    """Rows decoding in step. `step` advances every row by one token; `admit` lets rows leave and join."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self.rows: list[Row] = []
        # What rules do to the step to come, with the tensors that say so; see _edit_logits.
        self._edits: list[tuple[int, list[Edits]]] = []
        self._choosing = Choosing((), lm.device)
        self._biased: Bias | None = None
        self._forced: tuple[Tensor, ...] | None = None
        self._reads = ReadingTable(lm, ())
        self._noted = Noted()
        self._decide = False
        self._tops = TopLogprobs((), lm.device)
        self._states_read = torch.empty(0)  # of the newest pass, `[row, reader]`

    @property
    def live(self) -> list[Row]:
        """Rows that are not finished."""
        return [row for row in self.rows if row.finish is None]

    def clear(self) -> None:
        """Forget all rows and let go of what the model keeps of them."""
        self.rows = []
        self._noted = Noted()

    @abstractmethod
    def admit(self, joining: Sequence[Row], waiting: Sequence[Row], most: int) -> None:
        """Let rows join; of `waiting`, those to come, prompts may be run too, at most `most` at once."""

    @abstractmethod
    def settle(self, row: Row) -> None:
        """Bring the gate counts of a row up to date; waits for the device where the table has any."""

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """Whether the next step would have to copy all that is kept of the rows to find room for its own."""

    @abstractmethod
    def _next_logits(self) -> Tensor:
        """Run the rows' newest tokens under their steerings; the logits `[row, vocabulary]` behind them."""

    @abstractmethod
    def _took(self, chosen: Tensor, nats: Tensor) -> None:
        """Note the tokens `[row]` that every row takes, and their logits, for the step to come."""

    def step(self) -> None:
        """One token for every row, finished ones included until others take their places."""
        lm = self._lm
        nats = self._next_logits()
        chosen = self._choosing.next_tokens(nats, self._biased)
        if self._forced is not None:
            places, tokens = self._forced
            chosen = chosen.index_put((places,), tokens)
        self._choosing.take(chosen)
        found = [self._states_read] if self._reads.of_states else []
        if self._reads.of_logits:
            found.append(self._reads.logits_read(nats, chosen))
            self._noted.logits(found[-1])
        self._took(chosen, nats)
        taken, readings = self._on_host(chosen, found)
        for row, token, read in zip(self.rows, taken, readings, strict=True):
            if row.finish is None:
                row.take(token, lm, read)
        self._tops.hand_out(nats, chosen)
        if self._edits:
            self._edit_logits()

    def _on_host(
        self, chosen: Tensor, found: Sequence[Tensor]
    ) -> tuple[list[int], Sequence[Mapping[Reader, float]]]:
        """The tokens `[row]`, and what policies need of what was read: the step's one wait for the device."""
        if not self._decide:
            return chosen.tolist(), [NOTHING_READ] * len(self.rows)
        # One copy: as a float every token below 2^24 is itself.
        columns = torch.cat([chosen[:, None].float(), *(values.float() for values in found)], dim=1).tolist()
        readers = [*self._reads.of_states, *self._reads.of_logits]
        each = [dict(zip(readers, row[1:], strict=True)) for row in columns]
        return [int(row[0]) for row in columns], each

    def fetch(self) -> None:
        """Give the rows what was read of them since the last time; waits for the device where anything was."""
        self._noted.fetch(self._reads)

    def _bind_readers(self) -> None:
        """Read what the rows at hand ask for from here on, of states and of logits."""
        asked = [reader for row in self.rows for reader in row.readers]
        deciding = [reader for row in self.rows for reader in row.deciding_readers]
        self._reads, self._decide = ReadingTable(self._lm, [*asked, *deciding]), bool(deciding)
        self._noted = Noted(self.rows if asked else ())
        self._tops = TopLogprobs(self.rows, self._lm.device)

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
