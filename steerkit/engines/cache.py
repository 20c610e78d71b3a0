"""A key-value cache whose rows end together: each row's tokens stand at the right end, zeros before them.

Rows of unequal length, and rows that join later, share a batch this way. Buffers are allocated ahead in steps
of `HEADROOM` positions, so a decoding step writes in place where transformers' own dynamic cache would copy
everything that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from steerkit.models import LanguageModel

HEADROOM = 32
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}

KeysAndValues = list[tuple[Tensor, Tensor]]


def empty_cache() -> Cache:
    """A cache to prefill: every layer keeps all positions, sliding windows are left to the mask."""
    return Cache(layer_class_to_replicate=DynamicLayer)


def recurrent_layers(lm: LanguageModel) -> list[str]:
    """The kinds of layer that keep state other than keys and values, by the model's own config."""
    return sorted(set(getattr(lm.config, "layer_types", None) or ()) - ATTENTION_LAYERS)


class AlignedLayer(DynamicLayer):
    """Keys and values of one layer, `[row, head, position, width]`, the first `length` positions in use."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self._buffers = (_with_headroom(keys), _with_headroom(values))
        self._length = keys.shape[-2]
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new positions and return all keys and values in use."""
        end = self._length + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            keys, values = self.in_use
            self._buffers = (
                _with_headroom(keys, end - self._length),
                _with_headroom(values, end - self._length),
            )
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., self._length : end, :] = new
        self._length = end
        return self.in_use

    def put(self, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Give the rows at `places` other keys and values, right-aligned; what stood there before is masked."""
        width = min(keys.shape[-2], self._length)
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer[places, :, self._length - width : self._length] = new[..., new.shape[-2] - width :, :]

    @property
    def room(self) -> int:
        """How many more positions fit before everything has to be copied."""
        return self._buffers[0].shape[-2] - self._length

    @property
    def in_use(self) -> tuple[Tensor, Tensor]:
        """Views of the keys and values written so far."""
        keys, values = self._buffers
        return keys[..., : self._length, :], values[..., : self._length, :]

    def get_seq_length(self) -> int:
        """Number of positions in use."""
        return self._length


def _with_headroom(tensor: Tensor, extra: int = 0) -> Tensor:
    """A copy with room for more positions. What is beyond `tensor` is never read before it is written."""
    *lead, length, width = tensor.shape
    buffer = tensor.new_empty((*lead, length + extra + HEADROOM, width))
    buffer[..., :length, :] = tensor
    return buffer


def aligned_cache(parts: Sequence[tuple[KeysAndValues, Tensor]], width: int) -> Cache:
    """One cache from rows of several: each part gives its keys and values and the rows wanted of it.

    Every row comes out right-aligned in `width` positions; positions before a part's own are zero (they are
    masked, but what is multiplied with a masked weight of zero must still be finite).
    """
    layers = []
    for per_part in zip(*(keys_and_values for keys_and_values, _ in parts), strict=True):
        sides = []
        for side in (0, 1):
            tensors = [
                _fitted(layer[side].index_select(0, rows), width)
                for layer, (_, rows) in zip(per_part, parts, strict=True)
            ]
            sides.append(torch.cat(tensors) if len(tensors) > 1 else tensors[0])
        layers.append(AlignedLayer(*sides))
    return Cache(layers=layers)


def _fitted(tensor: Tensor, width: int) -> Tensor:
    """The last `width` positions, led by zeros where there are fewer."""
    missing = width - tensor.shape[-2]
    if missing <= 0:
        return tensor[..., -missing:, :] if missing else tensor
    return torch.nn.functional.pad(tensor, (0, 0, missing, 0))


def keys_and_values(cache: Cache) -> KeysAndValues:
    """Per layer, the keys and values `[row, head, position, width]` that a cache holds."""
    return [
        layer.in_use if isinstance(layer, AlignedLayer) else (layer.keys, layer.values)
        for layer in cache.layers
    ]
