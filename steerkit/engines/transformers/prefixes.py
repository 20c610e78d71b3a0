"""Prompts run ahead of their rows: once for all rows that share them, and below the first steered block once
even for rows that do not.

A row's prefix is its prompt without the last token. Where nothing steers the prompt, all rows of one prompt have
one prefix. Where something does (scopes `prompt` and `all`), rows differ from the first steered block on, and only
from there: the blocks below run one row a prompt, and the batch is expanded to one row a steering inside the same
forward pass, at that block's output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.core.errors import MisuseError
from steerkit.engines.transformers.batch import Prefix, Row
from steerkit.engines.transformers.cache import empty_cache, keys_and_values
from steerkit.engines.transformers.layout import chunk_by_tokens, left_padded
from steerkit.engines.transformers.table import NOWHERE, PROMPT, RowTable
from steerkit.models import LanguageModel
from steerkit.models.sites import hidden_of, with_hidden

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
            first = _first_steered_layer(row)
            alike = [r for r in upcoming if _first_steered_layer(r) == first]
            unique = {r.prefix_key: r for r in [row, *alike] if r.prefix_key not in self._known}
            rows = list(unique.values())[:most]
            self._run(chunk_by_tokens(rows, lambda r: len(r.prompt_ids), PREFILL_TOKENS), first)
        return self._known[row.prefix_key]

    def keep_only(self, waiting: Iterable[Row]) -> None:
        """Let go of what no waiting row needs."""
        needed = {row.prefix_key for row in waiting}
        self._known = {key: prefix for key, prefix in self._known.items() if key in needed}

    def _run(self, rows: Sequence[Row], first: int | None) -> None:
        """Run the prefixes of `rows`, all of which are steered from block `first` on, or not at all."""
        lm = self._lm
        every = [row.prompt_ids[:-1] for row in rows]
        texts = list(dict.fromkeys(every))
        # Not where the width could be mistaken for the number of rows; see _expanded_after.
        shares = first is not None and len(texts) < len(rows) and len(texts) != max(map(len, texts))
        ids, mask, positions = left_padded(texts if shares else every, lm)
        number = {text: i for i, text in enumerate(texts)}
        owner = torch.tensor(
            [number[text] for text in every] if shares else range(len(rows)), device=lm.device
        )
        table = RowTable(lm, [row.program for row in rows], counts_gates=True)
        table.point(torch.where(mask[owner], PROMPT, NOWHERE))
        cache = empty_cache()
        with ExitStack() as stack:
            if shares and first is not None:  # its hook goes in first, so the table's sees one row a steering
                stack.enter_context(_expanded_after(lm.blocks, first, owner))
            stack.enter_context(table.one_pass())
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
        if shares and first is not None:
            lower = [(k.index_select(0, owner), v.index_select(0, owner)) for k, v in source[: first + 1]]
            source = lower + source[first + 1 :]
        self._known |= {row.prefix_key: Prefix(source, i, table.gate_counts(i)) for i, row in enumerate(rows)}


def _first_steered_layer(row: Row) -> int | None:
    """The lowest block that acts on the row's prompt; None where none does."""
    return min((layer for layer, phase in row.program.compositions if phase == PROMPT), default=None)


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

    def at_output(_block: nn.Module, _args: Any, output: Any) -> Any:
        return with_hidden(output, hidden_of(output).index_select(0, owner))

    def at_input(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return expand(args), {name: expand(value) for name, value in kwargs.items()}

    with ExitStack() as stack:
        stack.callback(blocks[layer].register_forward_hook(at_output).remove)
        for block in blocks[layer + 1 :]:
            stack.callback(block.register_forward_pre_hook(at_input, with_kwargs=True).remove)
        yield
