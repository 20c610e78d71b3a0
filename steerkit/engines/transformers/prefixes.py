"""Prompts run ahead of their rows: once for all rows that share them, and below the first steered place once
even for rows that do not.

A row's prefix is its prompt without the last token. Where nothing steers the prompt, all rows of one prompt have
one prefix. Where something does (scopes `prompt` and `all`), rows differ from the first steered place on, and only
from there: the blocks below run one row a prompt, and the batch is expanded to one row a steering inside the same
forward pass, at the last block's output that comes before it or is it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.engines.forward import chunk_by_tokens, left_padded, prefill
from steerkit.engines.transformers.batch import Prefix, Row
from steerkit.engines.transformers.table import NOWHERE, PROMPT, RowTable
from steerkit.models import LanguageModel
from steerkit.models.sites import Given, on_blocks

PREFILL_TOKENS = 2048


class Prefixes:
    """The prefixes that waiting rows need, run when the first of them is about to join."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._known: dict[object, Prefix] = {}

    def of(self, row: Row, upcoming: Sequence[Row], most: int) -> Prefix:
        """The prefix of `row`; where it is not known yet, those of rows to come are run in the same pass.

        At most `most` in all, so that a batch that was halved for want of memory halves its prompts too.
        """
        if row.prefix_key not in self._known:
            first = row.program.last_block_before(PROMPT)
            alike = [r for r in upcoming if r.program.last_block_before(PROMPT) == first]
            unique = {r.prefix_key: r for r in [row, *alike] if r.prefix_key not in self._known}
            rows = list(unique.values())[:most]
            self._run(chunk_by_tokens(rows, lambda r: len(r.prompt_ids), PREFILL_TOKENS), first)
        return self._known[row.prefix_key]

    def keep_only(self, waiting: Iterable[Row]) -> None:
        """Let go of what no waiting row needs."""
        needed = {row.prefix_key for row in waiting}
        self._known = {key: prefix for key, prefix in self._known.items() if key in needed}

    def _run(self, rows: Sequence[Row], first: int | None) -> None:
        """Run the prefixes of `rows`, none of which is steered before the output of block `first`, or at all."""
        lm = self._lm
        every = [row.prompt_ids[:-1] for row in rows]
        texts = list(dict.fromkeys(every))
        # Not where the width could be mistaken for the number of rows; see _expanded_after.
        shares = (
            first is not None and first >= 0 and len(texts) < len(rows) and len(texts) != max(map(len, texts))
        )
        padded = left_padded(texts if shares else every, lm)
        number = {text: i for i, text in enumerate(texts)}
        owners = [number[text] for text in every] if shares else range(len(rows))
        owner = torch.tensor(owners, device=lm.device)
        table = RowTable(lm, [row.program for row in rows], counts_gates=True)
        table.point(torch.where(padded.mask[owner], PROMPT, NOWHERE))
        with ExitStack() as stack:
            if shares and first is not None:  # its hook goes in first, so the table's sees one row a steering
                stack.enter_context(_expanded_after(lm.blocks, first, owner))
            stack.enter_context(table.one_pass())
            source = prefill(lm, padded)
        if shares and first is not None:
            lower = [(k.index_select(0, owner), v.index_select(0, owner)) for k, v in source[: first + 1]]
            source = lower + source[first + 1 :]
        self._known |= {row.prefix_key: Prefix(source, i, table.gate_counts(i)) for i, row in enumerate(rows)}


@contextmanager
def _expanded_after(blocks: Sequence[nn.Module], layer: int, owner: Tensor) -> Iterator[None]:
    """While open, the batch has one row for each of `owner` `[row]` from the output of block `layer` on.

    `owner` says which row of the batch before each one continues. Whatever later blocks are given beside the
    stream (masks, rotary tables) is expanded with it where its first dimension counts the rows.
    """
    before = int(owner.max()) + 1

    def expand(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.index_select(0, owner) if value.ndim > 1 and value.shape[0] == before else value
        if type(value) in (tuple, list):
            return type(value)(expand(part) for part in value)
        return value

    def arguments(given: Given) -> Given:
        return expand(given[0]), {name: expand(value) for name, value in given[1].items()}

    above = dict.fromkeys(range(layer + 1, len(blocks)), arguments)
    with on_blocks(blocks, {layer: lambda hidden: hidden.index_select(0, owner)}, above):
        yield
