"""Readers that are linear in the states, in tables at addresses that never change, as those of the steerings are.

Each hooked layer has a bank of weights, a column a reader, which all tokens of a step are read with in one product, in
float32, of the stream as the block leaves it and before the layer's steerings edit it. Outside CUDA graphs a layer that
nothing reads in this step costs nothing. Inside one, where no Python runs, every layer's whole bank is read; an
operator for whom that is too much leaves it empty (STEERKIT_READERS=0).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from steerkit.integrations.vllm.plan import Asked
from steerkit.integrations.vllm.pool import Pool

Columns = dict[str, tuple[int, int]]  # a reader's key -> its layer and its column there


class StateReaders:
    """The banks of one worker's layers, `size` readers each, for steps of at most `tokens` tokens."""

    def __init__(self, layers: Sequence[int], width: int, tokens: int, size: int, device: Any) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float32, device=device)

        self.size = size
        self._place = {layer: place for place, layer in enumerate(layers)}
        self._weights = zeros(len(layers), width, size)
        self._biases = zeros(len(layers), size)
        self._values = zeros(len(layers), tokens, size)
        self._pools = {layer: Pool(size, "reader") for layer in layers}
        self.live: tuple[int, ...] = ()

    def allocate(self, plan: Iterable[Asked]) -> Columns:
        """Return the columns of the readers whose layers are here, sharing those that are in the banks already."""
        columns: Columns = {}
        for asked in plan:
            if asked.layer in self._place and asked.weight is not None:
                column, new = self._pools[asked.layer].take(asked.key)
                if new:
                    place = self._place[asked.layer]
                    self._weights[place, :, column - 1] = asked.weight.to(self._weights.device)
                    self._biases[place, column - 1] = asked.bias
                columns[asked.key] = (asked.layer, column - 1)
        return columns

    def release(self, columns: Columns) -> None:
        """Give columns back; what no other request reads becomes free."""
        for key, (layer, _) in columns.items():
            self._pools[layer].drop(key)

    def reads(self, layer: int, *, capturing: bool) -> bool:
        """Whether a layer is to be read: all of them where a graph is captured."""
        return self.size > 0 and (capturing or layer in self.live)

    def read(self, layer: int, states: Tensor) -> None:
        """Read the stream behind a layer, `[token, d_model]`."""
        place = self._place[layer]
        values = self._values[place, : states.shape[0]]
        torch.addmm(self._biases[place], states.float(), self._weights[place], out=values)

    def found(self, tokens: Tensor) -> Tensor:
        """Return what the newest step read of these tokens in the live layers, `[token, live layer, column]`."""
        return torch.stack(
            [self._values[self._place[layer]].index_select(0, tokens) for layer in self.live], 1
        )
