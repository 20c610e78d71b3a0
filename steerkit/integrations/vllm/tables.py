"""Persistent tables: what vLLM's compiled or captured forward pass reads, at addresses that never change.

1. Each hooked layer has one table of constants (`Stage`, shared with the other engines), a row a cell; row 0 does
   nothing. A *slot* stands for what happens at a position: on each layer, an ordered list of cells. Slot 0 does
   nothing. Equal cells and equal slots are shared, counted, and freed when the last request that uses them ends.
2. Once a step, outside the graph, `token_slots` is filled with the slot of each token of the batch. The hook is one
   opaque operation (`steerkit::edit`): it gathers its layer's cells by slot and changes the hidden state in place.
3. Outside CUDA graphs a layer on which nothing acts in this step costs one Python call. Inside one, where no Python
   runs, every layer applies its whole depth, and slot 0 leaves the states bit for bit as they are.
4. vLLM's blocks return hidden state and residual apart; the residual stream is their sum. The difference that the
   edit makes is added to the hidden state, so an unsteered row keeps the very numbers that it had.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from steerkit.core.registry import OPERATIONS
from steerkit.engines.transformers.stages import OPEN, Acting, Own, Stage
from steerkit.integrations.vllm.payload import VECTORS, Payload
from steerkit.integrations.vllm.pool import Pool
from steerkit.integrations.vllm.state_readers import StateReaders

# Which tables the operation reads: those of the runner that is executing in this thread.
_current: ContextVar[Tables | None] = ContextVar("steerkit_tables", default=None)
_library = torch.library.Library("steerkit", "FRAGMENT")


class LayerTable:
    """One layer's constants `[cells + 1, …]`, and the cell of each slot at each depth `[depth, slots + 1]`."""

    def __init__(self, cells: int, slots: int, depth: int, width: int, like: Tensor) -> None:
        def vectors() -> Tensor:
            return torch.zeros(cells + 1, width, dtype=like.dtype, device=like.device)

        def numbers(fill: float) -> Tensor:
            return torch.full((cells + 1,), fill, dtype=like.dtype, device=like.device)

        # `whole` is what a captured graph runs: it cannot ask what the cells in use need.
        self.whole = Stage(
            shift=vectors(),
            unit=vectors(),
            gain=numbers(0),
            gate_unit=vectors(),
            gate_threshold=numbers(OPEN),
            projects=True,
            gates=True,
            own=tuple(
                Own(operation, numbers(0), numbers(0))
                for _, operation in OPERATIONS.items()
                if operation.in_vllm and operation.has_own_arithmetic
            ),
        )
        self.stage = self.whole
        self.cells = torch.zeros(depth, slots + 1, dtype=torch.int64, device=like.device)
        self.pool = Pool(cells, "cell")
        self._kinds: Counter[str] = Counter()

    def write(self, cell: int, constants: Acting) -> None:
        """Put a new cell's constants into its row."""
        for name in (*VECTORS, "gain", "gate_threshold"):
            getattr(self.whole, name)[cell] = torch.as_tensor(getattr(constants, name))
        for own in self.whole.own:
            acts = own.operation.name == constants.own
            own.amount[cell] = constants.amount if acts else 0.0
            own.target[cell] = constants.target if acts else 0.0
        self.count(constants, 1)

    def count(self, constants: Acting, change: int) -> None:
        """Count a cell with these constants in (1) or out (-1). Its row then stays as it is: no slot points to it."""
        self._kinds["projects"] += change * (constants.gain != 0)
        self._kinds["gates"] += change * (constants.gate_threshold != OPEN)
        self._kinds[constants.own] += change
        self.stage = dataclasses.replace(
            self.whole,
            projects=self._kinds["projects"] > 0,
            gates=self._kinds["gates"] > 0,
            own=tuple(own for own in self.whole.own if self._kinds[own.operation.name] > 0),
        )


@dataclasses.dataclass(frozen=True)
class Allocation:
    """A program's slots by phase (prompt, thinking, answer), and what has to be given back."""

    slots: tuple[int, int, int]
    payload: Payload


class Tables:
    """The tables of one model's hooked layers, and which slot each token of the coming pass has.

    `layers` are the blocks of this worker, `cells` the distinct steerings that each can hold, `tokens` the most
    tokens that a step computes; `like` gives number format and device. Each layer can be read by `readers` at once.
    """

    def __init__(
        self,
        layers: Sequence[int],
        width: int,
        tokens: int,
        cells: int,
        depth: int,
        like: Tensor,
        readers: int = 0,
    ) -> None:
        slots = 3 * cells
        self.layers = {layer: LayerTable(cells, slots, depth, width, like) for layer in layers}
        self.readers = StateReaders(layers, width, tokens, readers, like.device)
        self.depth = depth
        self.token_slots = torch.zeros(tokens, dtype=torch.int64, device=like.device)
        self._slots = Pool(slots, "slot")
        self._depth_of: dict[int, dict[int, int]] = {0: {}}  # slot -> layer -> how many cells act there
        self._filled = 0
        self._live: dict[int, int] = {}
        self.fired: Counter[int] = Counter()
        self.recorded: dict[int, Tensor] | None = None

    def allocate(self, payload: Payload) -> Allocation:
        """Return slots for this payload's program, sharing what is in the tables already."""
        cell_of: list[int] = []
        for cell in payload.cells:
            number = 0  # of another pipeline stage's
            if cell.layer in self.layers:
                table = self.layers[cell.layer]
                number, new = table.pool.take(cell.key)
                if new:
                    table.write(number, cell.constants)
            cell_of.append(number)
        slots = [self._slot(payload, bundle, cell_of) for bundle in payload.bundles]
        return Allocation((slots[0], slots[1], slots[2]), payload)

    def release(self, allocation: Allocation) -> None:
        """Give an allocation back; what no other uses becomes free."""
        for bundle in filter(None, allocation.payload.bundles):
            slot = self._slots.drop(_key(allocation.payload, bundle))
            if slot is not None:
                for layer in self._depth_of.pop(slot):
                    self.layers[layer].cells[:, slot] = 0
        for cell in allocation.payload.cells:
            if cell.layer in self.layers:
                table = self.layers[cell.layer]
                if table.pool.drop(cell.key) is not None:
                    table.count(cell.constants, -1)

    def fill(self, slots: Tensor, used: Sequence[int]) -> None:
        """Set the slot of each token of the coming pass, `[token]` int64; `used` are those that may occur in it."""
        count = slots.shape[0]
        self.token_slots[:count].copy_(slots, non_blocking=True)
        self.token_slots[count : self._filled] = 0  # what pads the batch does nothing
        self._filled = count
        self._live = {}
        for slot in used:
            for layer, depth in self._depth_of[slot].items():
                self._live[layer] = max(depth, self._live.get(layer, 0))

    def clear(self) -> None:
        """Steer no token of the coming pass."""
        if self._filled:
            self.token_slots[: self._filled] = 0
            self._filled = 0
        self._live = {}

    @property
    def steers(self) -> bool:
        """Whether the coming pass steers any token on this worker."""
        return bool(self._live)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let the operation read these tables while the block runs."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def edit(self, hidden: Tensor, residual: Tensor | None, layer: int) -> None:
        """Read the stream `hidden + residual`, `[token, d_model]`, and apply what acts on `layer` to it, in place."""
        self.fired[layer] += 1
        table = self.layers[layer]
        capturing = hidden.is_cuda and torch.cuda.is_current_stream_capturing()
        depth = self.depth if capturing else self._live.get(layer, 0)
        reads = self.readers.reads(layer, capturing=capturing)
        if depth or reads:
            before = hidden if residual is None else hidden + residual
        if reads:
            self.readers.read(layer, before)
        if depth:
            stage = table.whole if capturing else table.stage
            slots = self.token_slots[: hidden.shape[0]]
            after = before
            for k in range(depth):
                after = stage.apply(after, table.cells[k][slots])
            hidden.add_(after - before)
        if self.recorded is not None:
            state = hidden if residual is None else hidden + residual
            self.recorded[layer] = state.detach().float().cpu().clone()

    def _slot(self, payload: Payload, bundle: tuple[int, ...], cell_of: Sequence[int]) -> int:
        if not bundle:
            return 0
        slot, new = self._slots.take(_key(payload, bundle))
        if new:
            depths: Counter[int] = Counter()
            for index in bundle:
                layer = payload.cells[index].layer
                if layer in self.layers:
                    self.layers[layer].cells[depths[layer], slot] = cell_of[index]
                    depths[layer] += 1
            self._depth_of[slot] = dict(depths)
        return slot


def _key(payload: Payload, bundle: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(payload.cells[index].key for index in bundle)


def _edit(hidden: Tensor, residual: Tensor | None, layer: int) -> None:
    tables = _current.get()
    if tables is not None:  # none while vLLM profiles a model before its tables exist
        tables.edit(hidden, residual, layer)


def _edit_shapes(_hidden: Tensor, _residual: Tensor | None, _layer: int) -> None:
    """What a tracer needs to know: nothing is returned, and `hidden` keeps its shape."""


_library.define("edit(Tensor(a!) hidden, Tensor? residual, int layer) -> ()")
_library.impl("edit", _edit, "CompositeExplicitAutograd")
_library._register_fake("edit", _edit_shapes)
