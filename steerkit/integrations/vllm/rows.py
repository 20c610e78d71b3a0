"""The phases of each request's tokens, step by step: what vLLM's batch computes, turned into slots.

vLLM computes a request's positions in pieces: chunks of its prompt, then one token a step, and all of them again
after a preemption. A position's phase depends on where the completion begins and, for the scopes `thinking` and
`answer`, on the text up to it. Where the text is known on the host (prompts, and everything at a resumption) the
phase is looked up; a token that was just sampled may be known on the device only, so there the state of the
markers is kept on the device (`ThinkingState`) and moves on with each token, without waiting for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steerkit.core.errors import SteerkitError
from steerkit.engines.transformers.table import thinking_positions
from steerkit.integrations.vllm.payload import Payload
from steerkit.integrations.vllm.tables import Allocation, Tables


@dataclass
class Row:
    """One request under way. `thinking` says of each position known on the host whether thinking is open there;
    None where the program does the same in both phases."""

    allocation: Allocation
    first: int
    thinking: np.ndarray | None = None
    state: ThinkingState | None = None


class ThinkingState:
    """Whether thinking is open behind the newest token of one row, kept on the device."""

    def __init__(self, known: Sequence[int], payload: Payload, device: torch.device) -> None:
        assert payload.markers is not None
        self._opening, self._closing = (torch.tensor(m, device=device) for m in payload.markers)
        width = max(self._opening.numel(), self._closing.numel())
        text = torch.tensor([[-1] * width + list(known)], device=device)  # -1 is no token
        self._tail = text[0, -width:].clone()
        self._open = thinking_positions(text, self._opening, self._closing)[0, -1].clone()
        self.next = len(known)

    def advance(self, token: Tensor) -> Tensor:
        """Take in the token at position `next` (a scalar on the device), and return whether thinking is open there."""
        self._tail = torch.cat([self._tail[1:], token.reshape(1).to(self._tail.dtype)])
        opens, closes = (self._ends_with(marker) for marker in (self._opening, self._closing))
        self._open = (self._open | opens) & ~closes
        self.next += 1
        return self._open

    def _ends_with(self, marker: Tensor) -> Tensor:
        size = marker.numel()
        if not size:
            return torch.zeros_like(self._open)
        return (self._tail[-size:] == marker).all()


class Rows:
    """The steered requests of one worker; `place` points the tables at the tokens of the coming step."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._rows: dict[str, Row] = {}

    def admit(self, request_id: str, payload: Payload, prompt_length: int, known: Sequence[int]) -> None:
        """Begin a request, or begin it again: `known` are its tokens so far, the prompt among them."""
        self.forget(request_id)
        first = (payload.first if payload.first is not None else prompt_length) - 1
        row = Row(self._tables.allocate(payload), first)
        if payload.markers is not None:
            opening, closing = (torch.tensor(marker) for marker in payload.markers)
            row.thinking = thinking_positions(torch.tensor([list(known)]), opening, closing)[0].numpy()
            row.state = ThinkingState(known, payload, self._tables.token_slots.device)
        self._rows[request_id] = row

    def payload(self, request_id: str) -> Payload | None:
        """Return the payload of a request that is under way; None for one that is not steered."""
        row = self._rows.get(request_id)
        return row.allocation.payload if row is not None else None

    def forget(self, request_id: str) -> None:
        """End a request; nothing happens for one that was not steered."""
        row = self._rows.pop(request_id, None)
        if row is not None:
            self._tables.release(row.allocation)

    def place(
        self, request_ids: Sequence[str], starts: Sequence[int], counts: Sequence[int], input_ids: Tensor
    ) -> None:
        """Fill the slot map for a step.

        Request i computes `counts[i]` positions from `starts[i]` on, and its tokens lie behind those of the requests
        before it in `input_ids` `[token]`, on the device.
        """
        if not any(request_id in self._rows for request_id in request_ids):
            self._tables.clear()
            return
        slots = np.zeros(int(np.sum(counts)), dtype=np.int64)
        used: set[int] = set()
        sampled: list[tuple[int, Tensor, Row]] = []  # where the device decides between thinking and answer
        offset = 0
        for request_id, start, count in zip(request_ids, map(int, starts), map(int, counts), strict=True):
            row = self._rows.get(request_id)
            if row is not None:
                part = slots[offset : offset + count]
                self._host_part(row, start, part)
                used.update(np.unique(part).tolist())
                # Where thinking makes no difference the host knows all phases.
                known = start + count if row.thinking is None else len(row.thinking)
                for position in range(max(start, known), start + count):
                    assert row.state is not None
                    if row.state.next != position:
                        raise SteerkitError(
                            f"request {request_id} is at position {position}, but its text was followed to "
                            f"{row.state.next}: steering by thinking would be wrong from here on"
                        )
                    token = offset + position - start
                    sampled.append((token, row.state.advance(input_ids[token]), row))
                    used.update(row.allocation.slots)
            offset += count
        on_device = torch.from_numpy(slots).to(input_ids.device, non_blocking=True)
        for token, is_open, row in sampled:
            _, thinking, answer = row.allocation.slots
            on_device[token] = torch.where(is_open, thinking, answer)
        self._tables.fill(on_device, sorted(used))

    @staticmethod
    def _host_part(row: Row, start: int, slots: np.ndarray) -> None:
        """Slots of the positions from `start` on whose phase the host knows, written into `slots`."""
        prompt, thinking, answer = row.allocation.slots
        begin = min(max(row.first - start, 0), len(slots))
        slots[:begin] = prompt
        slots[begin:] = answer
        if row.thinking is not None:
            inside = row.thinking[start + begin : start + len(slots)]
            slots[begin : begin + len(inside)][inside] = thinking
