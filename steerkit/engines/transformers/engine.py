"""The transformers engine: rows of many interventions in one stream, on the user's own model.

1. A request becomes a row with its own program and rules (see `table`). Rows of many steerings share a batch; a row
   is moved, retired or retried only together with its program.
2. A prompt up to its last token is run once per distinct (prompt, steering of prompt positions) and what the model
   keeps of it serves every row that has both in common; under scope `completion` that is every cell of a grid
   (see `prefixes`). The last prompt token is the row's first decoding step, hence its first steered one. Whether
   the model keeps what can be shared so is tried first (see `engines.shortcuts`).
3. Rows wait in order of length, finished rows make room for waiting ones, and when memory runs out the batch
   is halved and the rows that had to go start again from their prompt.
4. Requests are drawn from the caller's iterator a window at a time, so a grid of any size is streamed.
"""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
import torch

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.numbers import check_whole
from steerkit.core.prompts import EncodedText, Prompt
from steerkit.engines.base import Completion, ContinuationScore, Request, ScoreRequest, refuse, steerings_of
from steerkit.engines.continuations import NO_PROMPT
from steerkit.engines.forward import alone, in_passes, left_padded, logits, ran_out, right_padded
from steerkit.engines.shortcuts import Shortcuts, shortcuts
from steerkit.engines.transformers.batch import Row, RunningBatch
from steerkit.engines.transformers.gates import PromptIds, Readings
from steerkit.engines.transformers.layout import point_at_text
from steerkit.engines.transformers.memory import fitting_rows
from steerkit.engines.transformers.packed import PackedBatch
from steerkit.engines.transformers.prefixes import Prefixes
from steerkit.engines.transformers.reading import ReadingTable, RowReadings
from steerkit.engines.transformers.sampling import row_uniforms
from steerkit.engines.transformers.table import Program, RowTable
from steerkit.engines.transformers.whole_texts import WholeTextBatch
from steerkit.interventions.base import Intervention
from steerkit.interventions.logit_rules import BoundRule, ForcedBeginning, LogitRule
from steerkit.interventions.prompt_edit import PromptEdit, edited_prompt
from steerkit.interventions.readers import Reader
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.models.language_model import check_loaded

BATCH_SIZE = {"cpu": 128, "cuda": 256}  # beyond it throughput grows no more; see benchmarks/README.md
WINDOW_IN_BATCHES = 4
JOIN_AT = 32  # rows join when this share of the batch (one in 32) has places for them
SCORED_TOKENS = 1024
KEPT_PROMPTS = 4096


class TransformersEngine:
    """Completes and scores requests with a transformers model, each row under its own steering.

    `batch_size` is the most rows that decode together; by default as many as the device makes use of, or fewer
    where memory is short. It is halved when memory runs out all the same. With `allow_mismatch` a vector
    extracted from other weights of the same architecture is accepted.
    """

    name = "transformers"

    def __init__(
        self, lm: LanguageModel, batch_size: int | None = None, *, allow_mismatch: bool = False
    ) -> None:
        check_loaded(lm)
        batch_size = None if batch_size is None else check_whole("batch size", batch_size, 1)
        lm.check_state()
        self.lm = lm
        self.batch_size = self._most = batch_size or BATCH_SIZE.get(lm.device.type, 64)
        self._sized_by_memory = batch_size is None
        self._exact = not allow_mismatch
        self._checked: set[str] = set()
        self._rules: dict[str, BoundRule] = {}  # by the intervention's digest, without its gate
        self._prompts: dict[str, PromptIds] = {}
        self._longest = 0  # tokens of the longest text so far

    @property
    def model(self) -> LanguageModel:
        """The model that it runs."""
        return self.lm

    @property
    def dtype(self) -> str:
        """Number format of the model."""
        return str(self.lm.dtype).removeprefix("torch.")

    @property
    def packing(self) -> str:
        """How rows share a batch, as was tried on the model.

        `packed`: each decodes from what the model keeps of it. `packed, prompts of one length`: so too, but prompts of
        unequal length are run apart. `whole texts`: nothing can be kept, and every step runs all texts anew.
        """
        taken = self._shortcuts(())
        if taken.states is None:
            return "whole texts"
        return "packed" if taken.pads else "packed, prompts of one length"

    def supports(self, intervention: Intervention) -> str | None:
        """Return why the engine cannot carry out an intervention: it can every kind that there is."""
        if isinstance(intervention, Steering | PromptEdit | LogitRule):
            return None
        return f"it knows no intervention of kind {intervention.kind}"

    def check(self, request: Request) -> None:
        """Raise what `generate` would raise for this request before running it."""
        self._check(request.interventions, request.readers)
        plain, edited = self._plain_ids(request), self._edited_ids(request, request.interventions)
        self._check_length(max(len(plain), len(edited)) + request.decoding.max_new_tokens)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Complete each request; completions are yielded as rows finish, in any order."""
        self.lm.check_state()
        stream = iter(requests)
        taken = self._shortcuts(())
        batch = self._batch(taken)
        readings = Readings(self.lm)
        waiting: deque[Row] = deque()
        untried: list[Row] = []
        while True:
            if not waiting:
                untried = self._rows(list(islice(stream, WINDOW_IN_BATCHES * self.batch_size)), readings)
                waiting.extend(sorted(untried, key=lambda row: -len(row.prompt_ids)))
            if not waiting and not batch.rows:
                return
            try:
                if untried:
                    holds = self._shortcuts(untried)
                    self._fit(untried, holds)
                    untried = []
                    if holds != taken:  # longer texts may take fewer shortcuts
                        self._start_again(batch, waiting)
                        taken, batch = holds, self._batch(holds)
                with alone(self.lm):
                    finished = self._advance(batch, waiting)
            except RuntimeError as error:
                if not ran_out(error):
                    raise
                self._halve(batch, waiting)
                continue
            for row in finished:
                batch.settle(row)
            for row in finished:
                yield from row.completions(self.lm)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        """Log-probability of each continuation token, teacher-forced, in the order of the requests."""
        self.lm.check_state()
        encoded, programs = [], []
        for request, acting in zip(requests, self._opened(requests), strict=True):
            text = self._scored_text(request, acting)
            self._check_length(len(text.ids))
            if not text.prompt_length:
                raise MisuseError(NO_PROMPT)
            self._longest = max(self._longest, len(text.ids))
            encoded.append(text)
            programs.append(Program.of(steerings_of(acting)))

        def score(some: Sequence[int]) -> list[ContinuationScore]:
            return self._score_rows(
                [requests[i] for i in some], [encoded[i] for i in some], [programs[i] for i in some]
            )

        length = [len(text.ids) for text in encoded].__getitem__
        taken = self._shortcuts(())
        scores: dict[int, ContinuationScore] = {}
        by_length = sorted(range(len(encoded)), key=length)
        passes = in_passes(by_length, length, SCORED_TOKENS, score, alike=not (taken.pads or taken.aligns))
        for some, rows in passes:
            scores.update(zip(some, rows, strict=True))
        return [scores[i] for i in range(len(requests))]

    def _rows(self, requests: Sequence[Request], readings: Readings) -> list[Row]:
        """One row for all requests that come to the same completion, in order of the first of them."""
        plain = list(map(self._plain_ids, requests))
        for request, ids in zip(requests, plain, strict=True):
            self._check(request.interventions, request.readers)
            self._check_length(len(ids) + request.decoding.max_new_tokens)
        self._read(readings, requests, plain)
        rows: dict[object, Row] = {}
        for request, ids in zip(requests, plain, strict=True):
            acting, decoding = readings.opened(request.interventions, ids), request.decoding
            program, rules = Program.of(steerings_of(acting)), self._bound(acting)
            uniforms = row_uniforms(decoding, ids, request.sample) if decoding.temperature > 0 else None
            verdicts = readings.verdicts(request.interventions, ids)
            ids = self._edited_ids(request, acting)
            self._check_length(len(ids) + decoding.max_new_tokens)
            drawn = None if uniforms is None else uniforms.tobytes()
            key = ids, program.key, decoding, drawn, rules, request.readers
            row = rows.get(key) or rows.setdefault(
                key, Row([], ids, program, uniforms, rules, request.readers)
            )
            row.asked.append((request, verdicts))
        return list(rows.values())

    def _read(
        self, readings: Readings, requests: Sequence[Request | ScoreRequest], prompts: Sequence[PromptIds]
    ) -> None:
        """Read all row gates of these requests, whose unedited prompts are `prompts`."""
        asked = [(r.prompt, ids, r.interventions) for r, ids in zip(requests, prompts, strict=True)]
        with alone(self.lm):
            readings.read(asked)
        readings.ask(asked)

    def _bound(self, acting: Sequence[Intervention]) -> tuple[BoundRule, ...]:
        """The rules on logits, as tokens of this model; a forced beginning goes before all others."""
        begin = "".join(each.begin or "" for each in acting if isinstance(each, PromptEdit))
        rules: list[BoundRule] = []
        if begin:
            text = self.lm.renderer.encode_pair("?", begin)
            rules.append(ForcedBeginning(text.ids[text.prompt_length :]))
        for each in acting:
            if isinstance(each, LogitRule):
                if each.digest not in self._rules:
                    self._rules[each.digest] = each.bind(self.lm)
                rules.append(self._rules[each.digest])
        return tuple(rules)

    def _scored_text(self, request: ScoreRequest, acting: Sequence[Intervention]) -> EncodedText:
        for each in acting:
            if isinstance(each, LogitRule) or (isinstance(each, PromptEdit) and each.begin):
                raise MisuseError(
                    f"{str(each)!r} changes what is sampled, which a given text is not: leave it out"
                )
        if request.encoded is not None:
            return request.encoded
        prompt, system = edited_prompt(request.prompt, request.system, acting)
        if not request.continuation and request.readers:
            ids = tuple(self.lm.renderer.encode_prompt(prompt, system))
            return EncodedText(ids, len(ids))
        return self.lm.renderer.encode_pair(prompt, request.continuation, system)

    def _plain_ids(self, request: Request | ScoreRequest) -> PromptIds:
        """The tokens of a request's prompt as it would be without edits, which row gates read."""
        return request.prompt_ids or self._prompt_ids(request.prompt, request.system)

    def _edited_ids(self, request: Request, acting: Sequence[Intervention]) -> PromptIds:
        return request.prompt_ids or self._prompt_ids(*edited_prompt(request.prompt, request.system, acting))

    def _prompt_ids(self, prompt: Prompt, system: str | None) -> PromptIds:
        """The rendered prompt's tokens, kept: a grid asks for the same prompt once a cell, and before to check it."""
        key = json.dumps([prompt, system])
        if key not in self._prompts:
            if len(self._prompts) == KEPT_PROMPTS:
                self._prompts.clear()
            self._prompts[key] = tuple(self.lm.renderer.encode_prompt(prompt, system))
        return self._prompts[key]

    def _check(self, acting: Sequence[Intervention], readers: Sequence[Reader] = ()) -> None:
        refuse(self, acting)
        for reader in readers:
            if reader.place is not None:
                self.lm.like(*reader.place)  # refuses a place that the model does not have
        needed = [*(each.tensors for each in acting), *(reader.tensors for reader in readers)]
        for part in chain.from_iterable(needed):
            if part.digest not in self._checked:
                part.check(self.lm, exact=self._exact)
                self._checked.add(part.digest)

    def _check_length(self, tokens: int) -> None:
        if tokens > self.lm.context_length:
            raise MisuseError(
                f"prompt and completion need {tokens} tokens, but {self.lm.name} reads {self.lm.context_length}: "
                "shorten the prompt or lower max_new_tokens"
            )

    @torch.inference_mode()
    def _advance(self, batch: RunningBatch, waiting: deque[Row]) -> list[Row]:
        """Let rows in where there is room enough to be worth it, take one step, and return who finished."""
        live = batch.live
        room = max(0, self.batch_size - len(live))
        gone = len(batch.rows) - len(live)
        worth_it = waiting and room >= max(1, self.batch_size // JOIN_AT)
        if worth_it or gone * 8 >= len(batch.rows) or batch.is_full:
            joining = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            try:
                batch.admit(joining, waiting, self.batch_size)
            except RuntimeError:  # of memory, perhaps; then they are to be had again
                waiting.extendleft(reversed(joining))
                raise
        before = batch.live
        if before:
            batch.step()
        return [row for row in before if row.finish is not None]

    def _shortcuts(self, rows: Sequence[Row]) -> Shortcuts:
        """What the model takes of shortcuts, for all rows so far and these."""
        lengths = (len(row.prompt_ids) + row.decoding.max_new_tokens for row in rows)
        self._longest = max([self._longest, *lengths])
        with alone(self.lm):
            return shortcuts(self.lm, self._longest)

    def _batch(self, taken: Shortcuts) -> RunningBatch:
        if taken.states is None:
            warnings.warn(
                f"{self.lm.name} keeps its past in a form that rows cannot share ({taken.reason}): every step runs all "
                "texts anew, which is slower and gives the same",
                stacklevel=3,
            )
            return WholeTextBatch(self.lm, aligns=taken.aligns)
        return PackedBatch(self.lm, taken.states, Prefixes(self.lm, taken.states, taken))

    def _fit(self, window: Sequence[Row], taken: Shortcuts) -> None:
        """Set the batch size to what memory holds of the longest rows to come, unless the user set it."""
        if self._sized_by_memory and window:
            longest = max(len(row.prompt_ids) + row.decoding.max_new_tokens for row in window)
            self.batch_size = min(self._most, fitting_rows(self.lm, taken.states, longest))

    def _halve(self, batch: RunningBatch, waiting: deque[Row]) -> None:
        if self.batch_size == 1:
            raise SteerkitError(
                f"out of memory with a single row on {self.lm.device}: shorten the prompt, lower max_new_tokens, or "
                "use a smaller number format"
            )
        self.batch_size = self._most = max(1, self.batch_size // 2)
        self._start_again(batch, waiting)

    def _start_again(self, batch: RunningBatch, waiting: deque[Row]) -> None:
        """Let the live rows of a batch wait again, from their prompts on."""
        again = set(waiting)  # rows that were about to join may stand in the batch already
        for row in batch.live:
            row.begin()
            if row not in again:
                waiting.appendleft(row)
        batch.clear()

    def _opened(self, requests: Sequence[ScoreRequest]) -> list[tuple[Intervention, ...]]:
        """What acts on each request once its row gates are read."""
        for request in requests:
            self._check(request.interventions, request.readers)
        readings = Readings(self.lm)
        prompts = list(map(self._plain_ids, requests))
        self._read(readings, requests, prompts)
        return [readings.opened(r.interventions, ids) for r, ids in zip(requests, prompts, strict=True)]

    @torch.inference_mode()
    def _score_rows(
        self, requests: Sequence[ScoreRequest], texts: Sequence[EncodedText], programs: Sequence[Program]
    ) -> list[ContinuationScore]:
        lm = self.lm
        aligned = left_padded if self._shortcuts(()).pads else right_padded
        rows = aligned([text.ids for text in texts], lm)
        width = rows.ids.shape[1]
        ends = [len(text.ids) if aligned is right_padded else width for text in texts]
        first = torch.tensor([end - t.completion_length - 1 for end, t in zip(ends, texts, strict=True)])
        table = RowTable(lm, programs)
        point_at_text(table, lm, rows.ids, rows.mask, first.to(lm.device))
        reads = ReadingTable(lm, [reader for request in requests for reader in request.readers])
        start = 0 if reads.of_logits else int(first.min())
        with alone(lm), reads.one_pass(), table.one_pass():
            nats = logits(lm, rows, width - start)[:, :-1]
        chosen = rows.ids[:, start + 1 :]
        taken = nats.float().log_softmax(-1).gather(-1, chosen[..., None]).squeeze(-1).tolist()
        read: dict[Reader, np.ndarray] = {}  # [row, position]; of logits, from the second position on
        if reads.of_states:
            values = reads.states_read().cpu().numpy()
            read |= {reader: values[..., i] for i, reader in enumerate(reads.of_states)}
        if reads.of_logits:
            values = reads.logits_read(nats, chosen).cpu().numpy()
            read |= {reader: values[..., i] for i, reader in enumerate(reads.of_logits)}
        scores = []
        for i, (request, text, end) in enumerate(zip(requests, texts, ends, strict=True)):
            row = RowReadings(request.readers)
            begin = end - len(text.ids)
            row.take_prompt(
                {reader: read[reader][i, begin : end - (reader.place is None)] for reader in request.readers}
            )
            stop = end - start - 1
            scores.append(
                ContinuationScore(
                    request,
                    tuple(taken[i][stop - text.completion_length : stop]),
                    text.ids,
                    row.of(request.readers, text.prompt_length, text.completion_length),
                )
            )
        return scores
