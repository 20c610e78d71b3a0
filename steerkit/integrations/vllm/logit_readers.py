"""Readers of logits in vLLM's steps: registered functions of the logits and of the tokens that they chose.

The logits behind a token are read with the token that comes next. Inside a prompt that one is there; behind the newest
token the logits wait on the device until the request's next step, whose first token it is. They are taken before a
grammar, penalties or a sampler change them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.core.registry import READERS

# A prompt's logits are computed so many positions at a time: a vocabulary of 150,000 takes 150 MB of them.
BLOCK = 256


@dataclass(frozen=True)
class Placed:
    """A request's part of a step: `count` positions from `start` on, its tokens from `offset` on, its place `index`."""

    name: str
    index: int
    offset: int
    start: int
    count: int


@dataclass(frozen=True)
class Piece:
    """What was read at consecutive positions from `start` on: `[position, of, column]`.

    `of` says what stands along the second axis: layers, or registered functions, which have one column.
    """

    start: int
    values: Tensor
    of: tuple[int | str, ...]


class LogitReaders:
    """Reads the logits of requests step by step. `compute` returns those behind states `[position, d_model]`.

    It may return None in a worker that has no logits, and nothing is read there.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor | None]) -> None:
        self._compute = compute
        # A request's logits that wait: a step's, the row in them, and the position of the token that they choose.
        self._waiting: dict[str, tuple[Tensor, int, int]] = {}

    def forget(self, name: str) -> None:
        """End a request."""
        self._waiting.pop(name, None)

    def read(
        self,
        rows: Sequence[Placed],
        functions: tuple[str, ...],
        hidden: Tensor,
        last: Tensor | None,
        tokens: Tensor,
    ) -> Iterator[tuple[str, Piece]]:
        """Return what the functions read in a step, by request.

        `hidden` are the states before the head and `tokens` the step's tokens, `[token]`; `last` are the logits behind
        the last token of each of its requests, where vLLM has computed them already.
        """
        tokens = tokens.long()
        yield from self._of_waiting(rows, functions, tokens)
        for row in rows:
            for begin in range(row.offset, row.offset + row.count - 1, BLOCK):
                end = min(begin + BLOCK, row.offset + row.count - 1)
                logits = self._compute(hidden[begin:end])
                if logits is not None:
                    values = _values(functions, logits, tokens[begin + 1 : end + 1])
                    yield row.name, Piece(row.start + begin + 1 - row.offset, values, functions)
        self._wait(rows, hidden, last)

    def _of_waiting(
        self, rows: Sequence[Placed], functions: tuple[str, ...], tokens: Tensor
    ) -> Iterator[tuple[str, Piece]]:
        ready: dict[int, list[tuple[Placed, Tensor, int]]] = {}
        for row in rows:
            logits, place, position = self._waiting.pop(row.name, (tokens, 0, -1))
            if position == row.start:
                ready.setdefault(id(logits), []).append((row, logits, place))
        for group in ready.values():
            logits = _picked(group[0][1], [place for _, _, place in group])
            values = _values(functions, logits, _picked(tokens, [row.offset for row, _, _ in group]))
            for i, (row, _, _) in enumerate(group):
                yield row.name, Piece(row.start, values[i : i + 1], functions)

    def _wait(self, rows: Sequence[Placed], hidden: Tensor, last: Tensor | None) -> None:
        if last is not None:
            logits: Tensor | None = _picked(last, [row.index for row in rows], copy=True)
        else:
            logits = self._compute(_picked(hidden, [row.offset + row.count - 1 for row in rows]))
        if logits is not None:
            for place, row in enumerate(rows):
                self._waiting[row.name] = (logits, place, row.start + row.count)


def _values(functions: Sequence[str], logits: Tensor, tokens: Tensor) -> Tensor:
    """`[position, function, 1]` float32."""
    found = [READERS[name].function(logits, tokens).float() for name in functions]
    return torch.stack(found, dim=-1)[..., None]


def _picked(values: Tensor, places: list[int], *, copy: bool = False) -> Tensor:
    """Rows of a tensor; the tensor itself where they are all of it, unless a copy is wanted."""
    if not copy and places == list(range(values.shape[0])):
        return values
    return values.index_select(0, torch.tensor(places, device=values.device))
