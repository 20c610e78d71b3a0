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

from steerkit.engines.forward import KeysAndValues
from steerkit.models import LanguageModel

HEADROOM = 32
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


def recurrent_layers(lm: LanguageModel) -> list[str]:
    """The kinds of layer that keep state other than keys and values, by the model's own config."""
    return sorted(set(getattr(lm.config, "layer_types", None) or ()) - ATTENTION_LAYERS)


class AlignedLayer(DynamicLayer):
    """One layer's keys and values in buffers `[row, head, position, width]`, the first `length` positions in use."""

    # transformers then builds the mask of every decoding step without first asking the device whether one is needed.
    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()
        self._buffers = (keys, values)
        self._length = length
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new positions and return all keys and values in use."""
        end = self._length + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            keys, values = self.in_use
            self._buffers = (_with_headroom(keys, end), _with_headroom(values, end))
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., self._length : end, :] = new
        self._length = end
        return self.in_use

    def put(self, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Give the rows at `places` other keys and values, right-aligned, with zeros before them.

        What stood there before would be masked, but it may be the infinity of a row that steering drove over the
        edge, and a masked infinity is still no number.
        """
        width = min(keys.shape[-2], self._length)
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer[places, :, : self._length - width] = 0
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


def _with_headroom(tensor: Tensor, length: int) -> Tensor:
    """A copy with room for `length` positions and more. What is beyond `tensor` is never read before it is written."""
    buffer = _buffer_like(tensor, tensor.shape[0], length)
    buffer[..., : tensor.shape[-2], :] = tensor
    return buffer


def _buffer_like(tensor: Tensor, rows: int, length: int) -> Tensor:
    _, heads, _, width = tensor.shape
    return tensor.new_empty((rows, heads, length + HEADROOM, width))


def aligned_cache(parts: Sequence[tuple[KeysAndValues, Tensor]], width: int) -> Cache:
    """One cache from rows of several: each part gives its keys and values and the rows wanted of it.

    Every row comes out right-aligned in `width` positions.
    """
    layers = []
    for per_part in zip(*(keys_and_values for keys_and_values, _ in parts), strict=True):
        keys, values = (
            _gathered([(layer[side], rows) for layer, (_, rows) in zip(per_part, parts, strict=True)], width)
            for side in (0, 1)
        )
        layers.append(AlignedLayer(keys, values, width))
    return Cache(layers=layers)


def _gathered(parts: Sequence[tuple[Tensor, Tensor]], width: int) -> Tensor:
    """The wanted rows' last `width` positions in one new buffer, led by zeros where there are fewer.

    Those positions are masked, but what is multiplied with a masked weight of zero must still be finite.
    """
    buffer = _buffer_like(parts[0][0], sum(len(rows) for _, rows in parts), width)
    places = torch.split(buffer, [len(rows) for _, rows in parts])
    for place, (tensor, rows) in zip(places, parts, strict=True):
        missing = max(0, width - tensor.shape[-2])
        place[..., :missing, :] = 0
        kept = tensor.shape[-2] - width + missing
        place[..., missing:width, :] = tensor[..., kept:, :].index_select(0, rows)
    return buffer


def keys_and_values(cache: Cache) -> KeysAndValues:
    """Per layer, the keys and values `[row, head, position, width]` that a cache holds."""
    return [
        layer.in_use if isinstance(layer, AlignedLayer) else (layer.keys, layer.values)
        for layer in cache.layers
    ]
