"""Prompts run ahead of their rows: once for all rows that share them, and below the first steered place once
even for rows that do not.

A row's prefix is its prompt without the last token. Where nothing steers the prompt, all rows of one prompt have
one prefix. Where something does (scopes `prompt` and `all`), rows differ from the first steered place on, and only
from there: the blocks below run one row a prompt, and the batch is expanded to one row a steering inside the same
forward pass, at the last block's output that comes before it or is it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from steerkit.engines.forward import chunk_by_tokens, expanded_after, left_padded, logits_at, run
from steerkit.engines.row_states import RowStates, empty_cache
from steerkit.engines.shortcuts import Shortcuts, expands
from steerkit.engines.transformers.batch import Row
from steerkit.engines.transformers.reading import ReadingTable
from steerkit.engines.transformers.table import NOWHERE, PROMPT, RowTable
from steerkit.interventions.readers import Reader
from steerkit.models import LanguageModel

PREFILL_TOKENS = 2048
PREFILL_LOGITS = 512  # positions; of a large vocabulary they weigh more than what is kept
KEPT_TOKENS = PREFILL_TOKENS  # of prefixes that no row waits for, where rows come one by one
READ_AT_ONCE = 64  # of these, as many as rows decode together: of more, copies would have to find room


@dataclass(frozen=True)
class Prefix:
    """What the model keeps of a prompt without its last token: row `index` of a prefilled batch, right-aligned.

    `tokens` are those of all the batch, padding among them. `gate_counts` is what the row's position gates read on the
    way; see `RowTable.gate_counts`. `read` is what its readers did, as `RowReadings` takes it.
    """

    source: Cache
    index: int
    tokens: int
    gate_counts: Counter[tuple[str, bool]] = field(default_factory=Counter)
    read: Mapping[Reader, np.ndarray] = field(default_factory=dict)


class Prefixes:
    """The prefixes that waiting rows need, run when the first of them is about to join.

    `states` and `taken` say what the model takes; see `engines.shortcuts`. Where rows come one by one, `keeps` tokens
    of the prefixes used last are kept for whoever asks the same again.
    """

    def __init__(self, lm: LanguageModel, states: RowStates, taken: Shortcuts, keeps: int = 0) -> None:
        self._lm = lm
        self._states = states
        self._taken = taken
        self._keeps = keeps
        self._known: dict[object, Prefix] = {}  # those used last stand last

    def of(self, row: Row, upcoming: Sequence[Row], most: int) -> Prefix:
        """The prefix of `row`; where it is not known yet, those of rows to come are run in the same pass.

        At most `most` in all, so that a batch that was halved for want of memory halves its prompts too.
        """
        if row.prefix_key not in self._known:
            first = row.program.last_block_before(PROMPT)
            alike = [
                r for r in upcoming if r.program.last_block_before(PROMPT) == first and self._may_join(row, r)
            ]
            unique = {r.prefix_key: r for r in [row, *alike] if r.prefix_key not in self._known}
            rows = list(unique.values())[:most]
            rows = chunk_by_tokens(rows, lambda r: len(r.prompt_ids), PREFILL_TOKENS)
            if any(reader.place is None for r in rows for reader in r.prompt_readers):
                rows = _chunk_by_pasts(rows, PREFILL_LOGITS)
            self._run(rows, first)
        prefix = self._known[row.prefix_key] = self._known.pop(row.prefix_key)
        return prefix

    def clear(self) -> None:
        """Let go of all."""
        self._known = {}

    def keep_only(self, waiting: Iterable[Row]) -> None:
        """Let go of what no waiting row needs, but for the batches used last, of `keeps` tokens in all."""
        needed = {row.prefix_key for row in waiting}
        left, kept = self._keeps, set()
        for prefix in reversed(self._known.values()):
            if id(prefix.source) not in kept and prefix.tokens <= left:
                kept.add(id(prefix.source))
                left -= prefix.tokens
        self._known = {
            key: prefix for key, prefix in self._known.items() if key in needed or id(prefix.source) in kept
        }

    def _run(self, rows: Sequence[Row], first: int | None) -> None:
        """Run the prefixes of `rows`, none of which is steered before the output of block `first`, or at all."""
        lm, states = self._lm, self._states
        every = [row.prompt_ids[:-1] for row in rows]
        texts = list(dict.fromkeys(every))
        # Not where the width could be mistaken for the number of rows; see expanded_after.
        below = None  # the block behind which there is a row for each of `rows`
        if first is not None and first >= 0 and len(texts) < len(rows) and len(texts) != max(map(len, texts)):
            below = first if expands(lm, states, first) else None
        heads = every if below is None else texts
        padded = left_padded(heads, lm)
        number = {text: i for i, text in enumerate(texts)}
        owners = range(len(rows)) if below is None else [number[text] for text in every]
        owner = torch.tensor(owners, device=lm.device)
        table = RowTable(lm, [row.program.of_prompt for row in rows], counts_gates=True)
        table.point(torch.where(padded.mask[owner], PROMPT, NOWHERE))
        reads = ReadingTable(lm, [reader for row in rows for reader in row.prompt_readers])
        source = empty_cache(lm)
        with ExitStack() as stack:
            if below is not None:  # its hook goes in first, so the tables' see one row a steering
                stack.enter_context(expanded_after(lm.blocks, below, owner))
            stack.enter_context(reads.one_pass())
            stack.enter_context(table.one_pass())
            if reads.of_logits:
                pasts = _Pasts(rows)
                starts = [padded.ids.shape[1] - len(text) for text in every]
                nats = logits_at(lm, padded, pasts.places(starts, lm.device), source)
            else:
                run(lm, padded, source)
        if below is not None:
            source = states.joined_below(source, below + 1, owner)
        if empty := [i for i, text in enumerate(every) if not text]:
            states.forget(source, torch.tensor(empty, device=lm.device))
        columns: dict[Reader, np.ndarray] = {}  # [row, position]
        if reads.of_states:
            values = reads.states_read(owner).cpu().numpy()
            columns |= {reader: values[..., i] for i, reader in enumerate(reads.of_states)}
        of_logits: Sequence[Mapping[Reader, np.ndarray]] = pasts.read(reads, nats) if reads.of_logits else ()
        for i, row in enumerate(rows):
            read = {
                reader: of_logits[i][reader]
                if reader.place is None
                else columns[reader][i, columns[reader].shape[1] - len(every[i]) :]
                for reader in row.prompt_readers
            }
            self._known[row.prefix_key] = Prefix(
                source, i, owner.numel() * padded.ids.shape[1], table.gate_counts(i), read
            )

    def _may_join(self, row: Row, other: Row) -> bool:
        """Whether the prompts of two rows may be run in one pass."""
        return self._taken.pads or len(row.prompt_ids) == len(other.prompt_ids)


class _Pasts:
    """The different pasts in some rows' prefixes: rows that begin alike, under one steering, share their logits there.

    Chat templates and system messages make most positions of a batch alike.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        numbers: dict[object, int] = {}
        self._first: list[tuple[int, int]] = []  # the row and position where each was met first
        self._of_rows: list[list[int]] = []
        self._next: list[list[int]] = []  # the token behind each, row by row
        for i, row in enumerate(rows):
            past: object = row.program.prompt_key
            here = []
            for position, token in enumerate(row.prompt_ids[:-1]):
                past = numbers.setdefault((past, token), len(numbers))
                if past == len(self._first):
                    self._first.append((i, position))
                here.append(past)
            self._of_rows.append(here)
            self._next.append(list(row.prompt_ids[1:]))

    def __len__(self) -> int:
        return len(self._first)

    def places(self, starts: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Rows and positions `[past]` of a batch in which the rows' texts begin at `starts`."""
        places = [(row, starts[row] + position) for row, position in self._first]
        row, position = torch.tensor(places, dtype=torch.long, device=device).reshape(-1, 2).unbind(1)
        return row, position

    def read(self, reads: ReadingTable, nats: Tensor) -> list[dict[Reader, np.ndarray]]:
        """What readers of logits read, row by row `[position]`, of the logits `[past, vocabulary]`.

        A past's logits chose another token in each of the rows that part there: these are read one by one.
        """
        pairs: dict[tuple[int, int], int] = {}
        of_rows = [
            [pairs.setdefault(pair, len(pairs)) for pair in zip(here, behind, strict=True)]
            for here, behind in zip(self._of_rows, self._next, strict=True)
        ]
        places = torch.tensor(list(pairs), dtype=torch.long, device=nats.device).reshape(-1, 2)
        blocks = [block.unbind(1) for block in places.split(READ_AT_ONCE)]
        read = [reads.logits_read(nats[past], token) for past, token in blocks]
        values = torch.cat(read).cpu().numpy()
        return [{reader: values[row, i] for i, reader in enumerate(reads.of_logits)} for row in of_rows]


def _chunk_by_pasts(rows: Sequence[Row], budget: int) -> list[Row]:
    """The leading rows whose prefixes have at most `budget` different pasts in all; at least one."""
    count = len(rows)
    while count > 1 and len(_Pasts(rows[:count])) > budget:
        count = (count + 1) // 2
    return list(rows[:count])
