"""The phases of each request's tokens, step by step: what vLLM's batch computes, turned into slots.

vLLM computes a request's positions in pieces: chunks of its prompt, then one token a step, and all of them again
after a preemption. A position's phase depends on where the completion begins and, for the scopes `thinking` and
`answer`, on the text up to it. Where the text is known on the host (prompts, and everything at a resumption) the
phase is looked up; a token that was just sampled may be known on the device only, so there the tracker's state is
kept on the device (`ThinkingState`) and moves on with each token, without waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerkit.core.errors import SteerkitError
from steerkit.core.prompts import Renderer
from steerkit.integrations.vllm.payload import Payload
from steerkit.integrations.vllm.tables import Allocation, Tables
from steerkit.models.markers import ThinkingMarkers
from steerkit.models.thinking import Tracker


@dataclass
class Row:
    """One request under way. `thinking` says of each position known on the host whether thinking is open there;
    None where the program does the same in both phases."""

    allocation: Allocation
    first: int
    thinking: np.ndarray | None = None
    state: ThinkingState | None = None


class DeviceTracker:
    """A tracker whose automaton lies on a device, `[state, column]`, and a column for each token."""

    def __init__(self, tracker: Tracker, vocabulary: int, device: torch.device) -> None:
        table = tracker.table(vocabulary)
        self.host = tracker
        self.columns = torch.from_numpy(table.columns).to(device)
        self.moves = torch.from_numpy(table.moves).long().to(device)
        self.is_open = torch.from_numpy(table.is_open).to(device)


class ThinkingState:
    """Whether thinking is open behind the newest token of one row, kept on the device."""

    def __init__(self, tracker: DeviceTracker, state: int, known: int) -> None:
        self._tracker = tracker
        self._state = torch.tensor(state, device=tracker.moves.device)
        self.next = known

    def advance(self, token: Tensor) -> Tensor:
        """Take in the token at position `next` (a scalar on the device), and return whether thinking is open there."""
        self._state = self._tracker.moves[self._state, self._tracker.columns[token.long()]]
        self.next += 1
        return self._tracker.is_open[self._state]


class Rows:
    """The steered requests of one worker; `place` points the tables at the tokens of the coming step.

    `tokenizer` returns that of the model, for the first request whose steering depends on its thinking.
    """

    def __init__(self, tables: Tables, tokenizer: Callable[[], Any]) -> None:
        self._tables = tables
        self._tokenizer = tokenizer
        self._trackers: dict[ThinkingMarkers, DeviceTracker] = {}
        self._rows: dict[str, Row] = {}

    def admit(self, request_id: str, payload: Payload, prompt_length: int, known: Sequence[int]) -> None:
        """Begin a request, or begin it again: `known` are its tokens so far, the prompt among them."""
        self.forget(request_id)
        first = (payload.first if payload.first is not None else prompt_length) - 1
        row = Row(self._tables.allocate(payload), first)
        if payload.markers is not None:
            tracker = self._tracker(payload.markers)
            state = tracker.host.start(known[: first + 1])
            row.thinking = np.zeros(len(known), dtype=bool)
            for place, token in enumerate(known[first:], first):
                state = tracker.host.after(state, token) if place > first else state
                row.thinking[place] = tracker.host.is_open(state)
            row.state = ThinkingState(tracker, state, len(known))
        self._rows[request_id] = row

    def _tracker(self, markers: ThinkingMarkers) -> DeviceTracker:
        if markers not in self._trackers:
            tokenizer = self._tokenizer()
            tracker = Tracker(Renderer(tokenizer), markers)
            self._trackers[markers] = DeviceTracker(tracker, len(tokenizer), self._tables.token_slots.device)
        return self._trackers[markers]

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
