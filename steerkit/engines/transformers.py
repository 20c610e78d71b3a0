"""The transformers engine: many steerings in one stream of rows, on the user's own model.

1. A request becomes a row with its own program (see `table`). Rows of many steerings share a batch; a row is
   moved, retired or retried only together with its program.
2. A prompt up to its last token is run once per distinct (prompt, steering of prompt positions) and its keys
   and values serve every row that has both in common; under scope `completion` that is every cell of a grid.
   The last prompt token is the row's first decoding step, hence its first steered one.
3. Rows wait in order of length, finished rows make room for waiting ones, and when memory runs out the batch
   is halved and the rows that had to go start again from their prompt.
4. Requests are drawn from the caller's iterator a window at a time, so a grid of any size is streamed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice

import torch

from steerkit.engines.base import Completion, ContinuationScore, Request, ScoreRequest
from steerkit.engines.batch import Prefix, Row, RunningBatch
from steerkit.engines.cache import empty_cache, keys_and_values, recurrent_layers
from steerkit.engines.layout import chunk_by_tokens, left_padded, phases
from steerkit.engines.sampling import row_uniforms
from steerkit.engines.table import NOWHERE, PROMPT, Program, RowTable
from steerkit.errors import MisuseError, SteerkitError
from steerkit.models import LanguageModel
from steerkit.steering import Steering

BATCH_SIZE = {"cpu": 64, "cuda": 256}
WINDOW_IN_BATCHES = 4
PREFILL_TOKENS = 2048
SCORED_TOKENS = 1024


class TransformersEngine:
    """Completes and scores requests with a transformers model, each row under its own steering.

    `batch_size` is the most rows that decode together; it is halved when memory runs out. With
    `allow_mismatch` a vector extracted from other weights of the same architecture is accepted.
    """

    name = "transformers"

    def __init__(
        self, lm: LanguageModel, batch_size: int | None = None, *, allow_mismatch: bool = False
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise MisuseError(f"batch size is at least 1, got {batch_size}")
        if recurrent := recurrent_layers(lm):
            raise MisuseError(
                f"{lm.name} keeps recurrent state ({', '.join(recurrent)}), which rows of unequal length cannot "
                "share: use sk.steer around the model's own generate"
            )
        self.lm = lm
        self.batch_size = batch_size or BATCH_SIZE.get(lm.device.type, 64)
        self._exact = not allow_mismatch
        self._checked: set[str] = set()

    def check(self, request: Request) -> None:
        """Raise what `generate` would raise for this request before running it."""
        self._row(request)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Complete each request; completions are yielded as rows finish, in any order."""
        stream = iter(requests)
        batch = RunningBatch(self.lm)
        prefixes = _Prefixes(self.lm)
        waiting: deque[Row] = deque()
        while True:
            if not waiting:
                window = [self._row(r) for r in islice(stream, WINDOW_IN_BATCHES * self.batch_size)]
                waiting.extend(sorted(window, key=lambda row: -len(row.prompt_ids)))
            if not waiting and not batch.rows:
                return
            try:
                with self._unshared():
                    finished = self._advance(batch, waiting, prefixes)
            except torch.OutOfMemoryError:
                self._halve(batch, waiting)
                prefixes.keep_only(())
                continue
            for row in finished:
                yield row.completion(self.lm)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ContinuationScore]:
        """Log-probability of each continuation token, teacher-forced, in the order of the requests."""
        encoded = []
        for request in requests:
            self._check(request.steerings)
            text = self.lm.renderer.encode_pair(request.prompt, request.continuation, request.system)
            self._check_length(len(text.ids))
            if not text.prompt_length:
                raise MisuseError(
                    "the prompt shares no token with its continuation, so nothing predicts the first token: "
                    "give a longer prompt"
                )
            encoded.append(text)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
        scores: dict[int, tuple[float, ...]] = {}
        while order:
            chunk = chunk_by_tokens(order, lambda i: len(encoded[i].ids), SCORED_TOKENS)
            texts = [encoded[i].ids for i in chunk]
            starts = [encoded[i].prompt_length for i in chunk]
            programs = [Program.of(requests[i].steerings) for i in chunk]
            with self._unshared(), torch.inference_mode():
                rows = self._score_rows(texts, starts, programs)
            scores.update(zip(chunk, rows, strict=True))
            order = order[len(chunk) :]
        return [ContinuationScore(request, scores[i]) for i, request in enumerate(requests)]

    def _row(self, request: Request) -> Row:
        self._check(request.steerings)
        ids = tuple(self.lm.renderer.encode_prompt(request.prompt, request.system))
        decoding = request.decoding
        self._check_length(len(ids) + decoding.max_new_tokens)
        sampled = decoding.temperature > 0
        uniforms = row_uniforms(decoding, ids, request.sample) if sampled else None
        return Row(request, ids, Program.of(request.steerings), uniforms)

    def _check(self, steerings: Sequence[Steering]) -> None:
        lm = self.lm
        for vector in (vector for steering in steerings for vector in steering.vectors):
            if vector.digest not in self._checked:
                vector.check_model(lm.fingerprint, lm.n_layers, lm.d_model, lm.name, exact=self._exact)
                self._checked.add(vector.digest)

    def _check_length(self, tokens: int) -> None:
        if tokens > self.lm.context_length:
            raise MisuseError(
                f"prompt and completion need {tokens} tokens, but {self.lm.name} reads {self.lm.context_length}: "
                "shorten the prompt or lower --max-new-tokens"
            )

    def _unshared(self) -> AbstractContextManager[None]:
        self.lm.check_owner()
        if self.lm.is_steered:
            raise SteerkitError(
                "an engine applies each request's own steerings, but sk.steer is open on this model: close it first"
            )
        return self.lm.steered_by_this_thread()

    @torch.inference_mode()
    def _advance(self, batch: RunningBatch, waiting: deque[Row], prefixes: _Prefixes) -> list[Row]:
        """Let rows in where there is room enough to be worth it, take one step, and return who finished."""
        live = batch.live
        room = self.batch_size - len(live)
        gone = len(batch.rows) - len(live)
        if (waiting and room >= max(1, self.batch_size // 8)) or gone * 4 >= len(batch.rows):
            joining = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            try:
                batch.repack([(row, prefixes.of(row, [*joining, *waiting])) for row in joining])
            except torch.OutOfMemoryError:
                waiting.extendleft(reversed(joining))
                raise
            prefixes.keep_only(waiting)
        before = batch.live
        if before:
            batch.step()
        return [row for row in before if row.finish is not None]

    def _halve(self, batch: RunningBatch, waiting: deque[Row]) -> None:
        if self.batch_size == 1:
            raise SteerkitError(
                f"out of memory with a single row on {self.lm.device}: shorten the prompt, lower --max-new-tokens, or "
                "use a smaller number format"
            )
        self.batch_size = max(1, self.batch_size // 2)
        for row in batch.live:
            row.generated.clear()
            waiting.appendleft(row)
        batch.clear()

    def _score_rows(
        self, texts: Sequence[Sequence[int]], starts: Sequence[int], programs: Sequence[Program]
    ) -> list[tuple[float, ...]]:
        lm = self.lm
        width = max(map(len, texts))
        ids, mask, positions = left_padded(texts, lm)
        wanted = max(len(text) - start for text, start in zip(texts, starts, strict=True))
        table = RowTable(lm, programs)
        first = torch.tensor(
            [width - len(t) + s - 1 for t, s in zip(texts, starts, strict=True)], device=lm.device
        )
        table.point(phases(ids, mask, first, lm.thinking_markers))
        with table.one_pass():
            logits = lm.hf(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=wanted + 1,
            ).logits[:, :-1]
        log_probabilities = logits.float().log_softmax(-1)
        taken = log_probabilities.gather(-1, ids[:, width - wanted :, None]).squeeze(-1).tolist()
        return [
            tuple(row[wanted - (len(text) - start) :])
            for row, text, start in zip(taken, texts, starts, strict=True)
        ]


class _Prefixes:
    """Prompts run ahead of their rows, once for all rows that share them."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._known: dict[object, Prefix] = {}

    def of(self, row: Row, upcoming: Sequence[Row]) -> Prefix:
        """The prefix of `row`; where it is not known yet, those of the next rows in line are run with it."""
        if row.prefix_key not in self._known:
            unique = {r.prefix_key: r for r in upcoming if r.prefix_key not in self._known}
            unique = {row.prefix_key: row} | unique
            self._run(chunk_by_tokens(list(unique.values()), lambda r: len(r.prompt_ids), PREFILL_TOKENS))
        return self._known[row.prefix_key]

    def keep_only(self, waiting: Iterable[Row]) -> None:
        """Let go of what no waiting row needs."""
        needed = {row.prefix_key for row in waiting}
        self._known = {key: prefix for key, prefix in self._known.items() if key in needed}

    def _run(self, rows: Sequence[Row]) -> None:
        lm = self._lm
        ids, mask, positions = left_padded([row.prompt_ids[:-1] for row in rows], lm)
        table = RowTable(lm, [row.program for row in rows])
        table.point(torch.where(mask, PROMPT, NOWHERE))
        cache = empty_cache()
        with table.one_pass():
            lm.decoder(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        if cache.get_seq_length() != ids.shape[1]:
            raise MisuseError(
                f"{lm.name} fills no key-value cache, which the engine's rows need: use sk.steer around the model's "
                "own generate"
            )
        source = keys_and_values(cache)
        self._known |= {row.prefix_key: Prefix(source, i) for i, row in enumerate(rows)}
