"""What a model keeps of the tokens that it has read, row by row: taken apart, put together and refilled.

1. A cache is the model's own, made from its config, with every window opened: all positions are kept, and what a
   position may see is left to the mask. So a row's past does not depend on the rows beside it.
2. Nothing here knows a kind of layer by its name. What each layer keeps is seen from three runs of random tokens: the
   dimension of a tensor that follows the number of rows, and the one that follows the number of positions. A tensor
   without positions (a recurrent state, the last inputs of a convolution) goes with its row as it is.
3. Rows end together: each row's positions stand at the right end, zeros before them, so rows of unequal length, and
   rows that join later, share a batch.
4. Keys and values stand in buffers allocated ahead in steps of `HEADROOM` positions, so a decoding step writes in place
   where transformers' own dynamic cache would copy everything that it holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from steerkit.models import LanguageModel

HEADROOM = 32
KEYS_AND_VALUES = ("keys", "values")
OPEN = 2**30  # a window that nothing reaches
TRIED_SHAPES = ((2, 5), (3, 5), (2, 8))  # rows and positions of the runs that tell them apart

Parts = Sequence[tuple[Cache, Tensor]]  # caches, each with the rows wanted of it


class UnknownStateError(Exception):
    """What a model keeps cannot be told apart by rows; the message says of what."""


def empty_cache(lm: LanguageModel) -> Cache:
    """Return a cache for the model to fill, its windows opened."""
    cache = DynamicCache(config=lm.hf.config)
    for layer in cache.layers:
        if getattr(layer, "sliding_window", None) is not None:
            layer.sliding_window = OPEN
    return cache


@dataclass(frozen=True, slots=True)
class Held:
    """One tensor of a layer: where it is kept, which dimension counts rows, and which positions (None: it has none)."""

    attribute: str
    key: Any  # in the mapping that the attribute is; None where it is the tensor itself
    rows: int
    positions: int | None

    def of(self, layer: Any) -> Tensor:
        """Return the tensor of `layer`."""
        value = getattr(layer, self.attribute)
        tensor: Tensor = value if self.key is None else value[self.key]
        return tensor

    def put(self, layer: Any, tensor: Tensor) -> None:
        """Let `layer` hold `tensor` instead."""
        if self.key is None:
            setattr(layer, self.attribute, tensor)
        else:
            getattr(layer, self.attribute)[self.key] = tensor


@dataclass(frozen=True, slots=True)
class LayerState:
    """What one layer keeps: its tensors, and the names of the numbers that count its positions.

    `appends` says that its keys and values grow by concatenation alone, so that they may stand in buffers.
    """

    held: tuple[Held, ...]
    lengths: tuple[str, ...]
    appends: bool


class RowStates:
    """How the caches of one model are taken apart by rows.

    `per_position` and `per_row` are the bytes that a row keeps for each position and besides. `only_keys_and_values`
    says that there is nothing else. Raises UnknownStateError where the runs of random tokens do not tell.
    """

    def __init__(self, filled: Callable[[int, int], Cache]) -> None:
        caches = [filled(rows, positions) for rows, positions in TRIED_SHAPES]
        self.layers = [_layer_state(layers) for layers in zip(*(c.layers for c in caches), strict=True)]
        if not any(layer.held for layer in self.layers):
            raise UnknownStateError("it fills no cache")
        rows, positions = TRIED_SHAPES[0]
        sizes = [
            (held.of(layer), held.positions is not None)
            for state, layer in zip(self.layers, caches[0].layers, strict=True)
            for held in state.held
        ]
        size = {
            grows: sum(t.numel() * t.element_size() for t, g in sizes if g is grows)
            for grows in (True, False)
        }
        self.per_position = size[True] // (rows * positions)
        self.per_row = size[False] // rows
        self.only_keys_and_values = all(
            state.appends and len(state.held) == 2 for state in self.layers if state.held
        )

    def mask(self, real: Tensor, new: int) -> Tensor:
        """Return the mask of a pass of `new` positions behind a cache, of `real` `[row, position]`.

        That of the new ones alone where none is kept.
        """
        return real if self.per_position else real[:, -new:]

    def packed(self, parts: Parts, width: int, *, in_place: bool = True) -> Cache:
        """Return one cache from rows of several, every row right-aligned in `width` positions.

        It writes new keys and values in place, which gradients do not follow, unless `in_place` is off.
        """
        layers = []
        for state, *sources in zip(self.layers, *(cache.layers for cache, _ in parts), strict=True):
            ahead = state.appends and in_place
            kind: Any = type(sources[0])
            layer = _copied(sources[0], _appending(kind) if ahead else kind)
            if ahead:
                layer.buffers = {}
            for name in state.lengths:
                setattr(layer, name, width)
            for held in state.held:
                given = [(held.of(source), rows) for source, (_, rows) in zip(sources, parts, strict=True)]
                in_buffer = ahead and held.attribute in KEYS_AND_VALUES
                layer_rows = _gathered(given, held, width, HEADROOM if in_buffer else 0)
                if in_buffer:
                    layer.buffers[held.attribute] = layer_rows
                    layer_rows = layer_rows[..., :width, :]
                held.put(layer, layer_rows)
            layers.append(layer)
        return Cache(layers=layers)

    def put(self, cache: Cache, places: Tensor, source: Cache, taken: Tensor) -> None:
        """Give the rows at `places` of a packed cache what rows `taken` of `source` keep.

        Zeros go before it: what stood there would be masked, but it may be the infinity of a row that steering drove
        over the edge, and a masked infinity is still no number.
        """
        for state, layer, other in zip(self.layers, cache.layers, source.layers, strict=True):
            for held in state.held:
                to, new = held.of(layer), held.of(other).index_select(held.rows, taken)
                if held.positions is not None:
                    new = _right_aligned(new, held.positions, to.shape[held.positions])
                to.index_copy_(held.rows, places, new.to(to.dtype))

    def forget(self, cache: Cache, rows: Tensor) -> None:
        """Set what the rows keep besides positions to what it is before the first token: zeros."""
        for held, layer in self._besides_positions(cache):
            held.of(layer).index_fill_(held.rows, rows, 0)

    def joined_below(self, cache: Cache, above: int, owner: Tensor) -> Cache:
        """Return `cache` with the rows of its layers below `above` repeated as `owner` `[row]` says."""
        below = [_copied(layer) for layer in cache.layers[:above]]
        for state, layer in zip(self.layers, below, strict=False):
            for held in state.held:
                held.put(layer, held.of(layer).index_select(held.rows, owner))
        return Cache(layers=[*below, *cache.layers[above:]])

    def first(self, cache: Cache, positions: int) -> Cache:
        """Return the first `positions` positions of a cache of keys and values alone."""
        layers = [_copied(layer) for layer in cache.layers]
        for state, layer in zip(self.layers, layers, strict=True):
            for held in state.held:
                assert held.positions is not None
                held.put(layer, held.of(layer).narrow(held.positions, 0, positions))
        return Cache(layers=layers)

    def room(self, cache: Cache) -> int | None:
        """Return how many more positions fit before everything has to be copied; None where nothing ever is."""
        for state, layer in zip(self.layers, cache.layers, strict=True):
            if state.appends:
                return int(layer.buffers["keys"].shape[-2] - layer.keys.shape[-2])
        return None

    def _besides_positions(self, cache: Cache) -> Iterator[tuple[Held, Any]]:
        for state, layer in zip(self.layers, cache.layers, strict=True):
            yield from ((held, layer) for held in state.held if held.positions is None)


class _Appending:
    """Writes new keys and values in place, behind those in use; for layers that would concatenate them."""

    # transformers then builds the mask of every decoding step without first asking the device whether one is needed.
    is_compileable = True
    buffers: dict[str, Tensor]  # `[row, head, position, width]`, of which the first positions are in use
    keys: Tensor
    values: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new positions and return all keys and values in use."""
        length = self.keys.shape[-2]
        end = length + key_states.shape[-2]
        if end > self.buffers["keys"].shape[-2]:
            self.buffers = {
                "keys": _with_headroom(self.keys, end),
                "values": _with_headroom(self.values, end),
            }
        for name, new in zip(KEYS_AND_VALUES, (key_states, value_states), strict=True):
            self.buffers[name][..., length:end, :] = new
        self.keys, self.values = (self.buffers[name][..., :end, :] for name in KEYS_AND_VALUES)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the number of positions in use."""
        return self.keys.shape[-2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many positions the mask covers with `query_length` new ones, and where they begin."""
        return self.keys.shape[-2] + query_length, 0


@functools.cache
def _appending(kind: Any) -> type:
    """The kind of layer that appends in place and is otherwise like `kind`."""
    return kind if issubclass(kind, _Appending) else type(f"Appending{kind.__name__}", (_Appending, kind), {})


def _copied(layer: Any, kind: Any = None) -> Any:
    """A layer like `layer`, of `kind` where that is given, whose state may be set without touching it."""
    twin = object.__new__(kind or type(layer))
    vars(twin).update({k: dict(v) if isinstance(v, dict) else v for k, v in vars(layer).items()})
    return twin


def _layer_state(layers: Sequence[Any]) -> LayerState:
    """What one layer keeps, from three of its fillings of the shapes `TRIED_SHAPES`."""
    tensors = [_tensors(layer) for layer in layers]
    if not tensors[0].keys() == tensors[1].keys() == tensors[2].keys():
        raise UnknownStateError("what it keeps depends on how much it has read")
    held = []
    for (attribute, key), tensor in tensors[0].items():
        shapes = [tuple(found[attribute, key].shape) for found in tensors]
        held.append(Held(attribute, key, *_dimensions(f"{attribute} {list(tensor.shape)}", shapes)))
    numbers = [_numbers(layer) for layer in layers]
    if numbers[0] != numbers[1]:
        raise UnknownStateError("it counts its rows")
    lengths = [name for name in numbers[0] if numbers[0][name] != numbers[2][name]]
    for name in lengths:
        if (numbers[0][name], numbers[2][name]) != (TRIED_SHAPES[0][1], TRIED_SHAPES[2][1]):
            raise UnknownStateError(f"{name} is neither a number of positions nor the same at all lengths")
    concatenates = getattr(type(layers[0]), "update", None) in (
        DynamicLayer.update,
        DynamicSlidingWindowLayer.update,
    )
    grows = {each.attribute for each in held if each.positions is not None} >= set(KEYS_AND_VALUES)
    return LayerState(tuple(held), tuple(lengths), concatenates and grows)


def _dimensions(name: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int | None]:
    """Which dimension follows the rows and which the positions, of a tensor in runs of `TRIED_SHAPES`."""
    few, more, longer = shapes
    by_rows = [i for i, (a, b) in enumerate(zip(few, more, strict=True)) if a != b]
    by_length = [i for i, (a, b) in enumerate(zip(few, longer, strict=True)) if a != b]
    (rows, positions), (more_rows, _), (_, more_positions) = TRIED_SHAPES
    if len(by_rows) != 1 or (few[by_rows[0]], more[by_rows[0]]) != (rows, more_rows):
        raise UnknownStateError(f"{name} does not have a dimension of rows")
    if not by_length:
        return by_rows[0], None
    if len(by_length) != 1 or (few[by_length[0]], longer[by_length[0]]) != (positions, more_positions):
        raise UnknownStateError(f"{name} grows otherwise than by one place a position")
    return by_rows[0], by_length[0]


def _tensors(layer: Any) -> dict[tuple[str, Any], Tensor]:
    """A layer's tensors, by attribute, and by key where that is a mapping of them; numbers are left out."""
    found: dict[tuple[str, Any], Tensor] = {}
    for name, value in vars(layer).items():
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        found |= {(name, key): part for key, part in parts if isinstance(part, Tensor) and part.ndim}
    return found


def _numbers(layer: Any) -> dict[str, int]:
    return {name: value for name, value in vars(layer).items() if type(value) is int}


def _with_headroom(tensor: Tensor, length: int) -> Tensor:
    """A copy with room for `length` positions and more. What is beyond `tensor` is never read before it is written."""
    shape = list(tensor.shape)
    shape[-2] = length + HEADROOM
    buffer = tensor.new_empty(shape)
    buffer[..., : tensor.shape[-2], :] = tensor
    return buffer


def _gathered(parts: Sequence[tuple[Tensor, Tensor]], held: Held, width: int, headroom: int) -> Tensor:
    """The wanted rows of several tensors in one, their last `width` positions led by zeros where there are fewer.

    Those positions are masked, but what is multiplied with a masked weight of zero must still be finite.
    """
    if held.positions is None:
        return torch.cat([tensor.index_select(held.rows, rows) for tensor, rows in parts], dim=held.rows)
    at = held.positions
    shape = list(parts[0][0].shape)
    shape[held.rows], shape[at] = sum(len(rows) for _, rows in parts), width + headroom
    buffer = parts[0][0].new_empty(shape)
    places = torch.split(buffer, [len(rows) for _, rows in parts], dim=held.rows)
    for place, (tensor, rows) in zip(places, parts, strict=True):
        missing = max(0, width - tensor.shape[at])
        place.narrow(at, 0, missing).zero_()
        kept = tensor.narrow(at, tensor.shape[at] - width + missing, width - missing)
        place.narrow(at, missing, width - missing).copy_(kept.index_select(held.rows, rows))
    return buffer


def _right_aligned(tensor: Tensor, at: int, width: int) -> Tensor:
    """The last `width` positions along dimension `at`, led by zeros where there are fewer."""
    given = tensor.shape[at]
    if given >= width:
        return tensor.narrow(at, given - width, width)
    shape = list(tensor.shape)
    shape[at] = width - given
    return torch.cat([tensor.new_zeros(shape), tensor], dim=at)
