"""The transformers engine: rows of many interventions in one stream, on the user's own model.

1. A request becomes a row with its own program and rules (see `table`). Rows of many steerings share a batch; a row
   is moved, retired or retried only together with its program.
2. A prompt up to its last token is run once per distinct (prompt, steering of prompt positions) and what the model
   keeps of it serves every row that has both in common; under scope `completion` that is every cell of a grid
   (see `prefixes`). The last prompt token is the row's first decoding step, hence its first steered one. Whether
   the model keeps what can be shared so is tried first (see `engines.shortcuts`).
3. Requests are drawn from the caller's iterator a window at a time, so a grid of any size is streamed. The rows of a
   window wait in order of length; how they join, decode and leave is the loop's part (see `stepping`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_whole
from steerkit.core.prompts import EncodedText
from steerkit.engines.base import Completion, ContinuationScore, Request, ScoreRequest, refuse, steerings_of
from steerkit.engines.continuations import NO_PROMPT
from steerkit.engines.forward import alone, in_passes, left_padded, logits, right_padded
from steerkit.engines.transformers.capacity import Capacity
from steerkit.engines.transformers.gates import Readings
from steerkit.engines.transformers.layout import point_at_text
from steerkit.engines.transformers.reading import ReadingTable, RowReadings
from steerkit.engines.transformers.rows import RowMaker
from steerkit.engines.transformers.stepping import Stepping
from steerkit.engines.transformers.table import Program, RowTable
from steerkit.interventions.base import Intervention
from steerkit.interventions.logit_rules import LogitRule
from steerkit.interventions.prompt_edit import PromptEdit, edited_prompt
from steerkit.interventions.readers import Reader
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.models.language_model import check_loaded

WINDOW_IN_BATCHES = 4
SCORED_TOKENS = 1024


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
        self.capacity = Capacity(lm, batch_size)
        self.maker = RowMaker(lm, partial(refuse, self), exact=not allow_mismatch)

    @property
    def batch_size(self) -> int:
        """The most rows that decode together."""
        return self.capacity.rows

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
        taken = self.capacity.shortcuts()
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
        self.maker.check(request)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Complete each request; completions are yielded as rows finish, in any order."""
        self.lm.check_state()
        stream = iter(requests)
        stepping = Stepping(self.lm, self.capacity)
        readings = Readings(self.lm)
        while True:
            if not stepping.waiting:
                window = list(islice(stream, WINDOW_IN_BATCHES * self.batch_size))
                rows = self.maker.rows(window, readings)
                stepping.add(sorted(rows, key=lambda row: -len(row.prompt_ids)))
            if stepping.idle:
                return
            for row in stepping.step():
                yield from row.completions(self.lm)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        """Log-probability of each continuation token, teacher-forced, in the order of the requests."""
        self.lm.check_state()
        encoded, programs = [], []
        for request, acting in zip(requests, self._opened(requests), strict=True):
            text = self._scored_text(request, acting)
            self.maker.check_length(len(text.ids))
            if not text.prompt_length:
                raise MisuseError(NO_PROMPT)
            encoded.append(text)
            programs.append(Program.of(steerings_of(acting)))

        def score(some: Sequence[int]) -> list[ContinuationScore]:
            return self._score_rows(
                [requests[i] for i in some], [encoded[i] for i in some], [programs[i] for i in some]
            )

        length = [len(text.ids) for text in encoded].__getitem__
        taken = self.capacity.shortcuts(tokens=max((len(text.ids) for text in encoded), default=0))
        scores: dict[int, ContinuationScore] = {}
        by_length = sorted(range(len(encoded)), key=length)
        passes = in_passes(by_length, length, SCORED_TOKENS, score, alike=not (taken.pads or taken.aligns))
        for some, rows in passes:
            scores.update(zip(some, rows, strict=True))
        return [scores[i] for i in range(len(requests))]

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

    def _opened(self, requests: Sequence[ScoreRequest]) -> list[tuple[Intervention, ...]]:
        """What acts on each request once its row gates are read."""
        for request in requests:
            self.maker.check_acting(request.interventions, request.readers)
        readings = Readings(self.lm)
        prompts = list(map(self.maker.plain_ids, requests))
        self.maker.read(readings, requests, prompts)
        return [readings.opened(r.interventions, ids) for r, ids in zip(requests, prompts, strict=True)]

    @torch.inference_mode()
    def _score_rows(
        self, requests: Sequence[ScoreRequest], texts: Sequence[EncodedText], programs: Sequence[Program]
    ) -> list[ContinuationScore]:
        lm = self.lm
        aligned = left_padded if self.capacity.shortcuts().pads else right_padded
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
