"""Whether a model that the user holds is still what it was when it was loaded, asked at each use.

1. Weights are known again by their names, forms and number formats, by how often they were written to, and by a few
   values of each, bit by bit: what `.data` writes past PyTorch's counters is seen in those. No weight is read whole,
   so the cost is some microseconds a parameter.
2. Weights that are offloaded or quantised have no values here that stay put: of those only name and form are known.
3. Adapters are known by which are active, merged and switched off, and how much they count.
4. Modules that a user puts around others are seen by their parameters, beside which all others are still there.
5. Where the weights are makes no difference. In another number format they are the same if its rounding of the values
   known is what they hold.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

VALUES = 4  # of each weight


@dataclass(frozen=True, slots=True)
class Adapted:
    """One adapted module: its active adapters, whether they are switched off, those merged, and what each counts."""

    active: tuple[str, ...]
    off: bool
    merged: tuple[str, ...]
    counts: tuple[float, ...]


Adapters = tuple[tuple[str, Adapted], ...]


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter: its class, shape and number format, how often it was written to, and whether values are known.

    `identity` is that of the object, which keeps it where it gets another name.
    """

    identity: int
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    writes: int | None
    known: bool


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What is known again of a model; `values` are on the host, as they are stored, weight after weight."""

    weights: dict[str, Weight]
    values: dict[torch.dtype, Tensor]
    adapters: Adapters

    @classmethod
    def of(cls, hf: nn.Module) -> State:
        """Return what the model is now."""
        weights: dict[str, Weight] = {}
        samples: dict[str, Tensor] = {}
        for name, weight in hf.named_parameters():
            data = weight.data
            known = type(data) is Tensor and data.is_floating_point() and not data.is_meta
            known = known and not hasattr(weight, "quant_state")
            shape = tuple(data.shape) if known or data.is_meta else ()
            writes = None if not known or weight.is_inference() else weight._version
            kind = type(weight).__name__ + (" on meta" if data.is_meta else "")
            weights[name] = Weight(id(weight), kind, shape, data.dtype, writes, known)
            if known:
                samples[name] = _sample(data)
        return cls(weights, _on_host(samples), tuple(_adapters(hf)))

    def change_to(self, now: State) -> str | None:
        """Return how `now` is another model than this was, as words behind a colon; None where it is the same."""
        if self.adapters != now.adapters:
            return f"its adapters were {_told(self.adapters)}, and are {_told(now.adapters)}"
        if self.weights == now.weights and _same(self.values, now.values):
            return None
        if others := self.weights.keys() ^ now.weights.keys():
            if self.added(now):
                return None
            name = min(others)
            return f"its modules are others: {name} {'is gone' if name in self.weights else 'is new'}"
        for name, was in self.weights.items():
            weight = now.weights[name]
            if (was.kind, was.known) != (weight.kind, weight.known):
                return f"{name} was a {was.kind} of {was.dtype}, and is a {weight.kind} of {weight.dtype}"
            if was.shape != weight.shape:
                return f"{name} had the shape {list(was.shape)}, and has {list(weight.shape)}"
        after = now._by_name()
        for name, before in self._by_name().items():
            if not torch.equal(_bits(before.to(after[name].dtype)), _bits(after[name])):
                return f"{name} holds other values"
            if self.weights[name].writes != now.weights[name].writes and before.dtype == after[name].dtype:
                return f"{name} was written to"
        return None

    def _by_name(self) -> dict[str, Tensor]:
        """The values known of each weight."""
        taken = dict.fromkeys(self.values, 0)
        found = {}
        for name, weight in self.weights.items():
            if weight.known:
                count = _count(weight.shape)
                found[name] = self.values[weight.dtype].narrow(0, taken[weight.dtype], count)
                taken[weight.dtype] += count
        return found

    def added(self, now: State) -> list[str]:
        """Return which parameters are new in `now`, all others being there still; none where one is gone."""
        ours = {weight.identity for weight in self.weights.values()}
        if not ours < {weight.identity for weight in now.weights.values()}:
            return []
        return [name for name, weight in now.weights.items() if weight.identity not in ours]

    def dtypes(self) -> list[str]:
        """The number formats of the weights, by name."""
        return sorted({str(weight.dtype).removeprefix("torch.") for weight in self.weights.values()})


def acts_in_training(module: nn.Module) -> bool:
    """Return whether training mode may change what a module computes.

    A module that a user put into the model is in training mode from the start, and need not mean it.
    """
    stochastic = isinstance(module, _DropoutNd | _BatchNorm | nn.MultiheadAttention)
    return stochastic or type(module).__module__.startswith(("transformers", "peft"))


def _count(shape: Sequence[int]) -> int:
    """How many values of a weight of this shape are known."""
    return min(VALUES, math.prod(shape))


def _sample(weight: Tensor) -> Tensor:
    """A few values of a weight, evenly spaced where that copies nothing."""
    count = _count(weight.shape)
    if weight.is_contiguous():
        return weight.as_strided((count,), (max(1, weight.numel() // VALUES),))
    return weight.flatten()[:count]


def _on_host(samples: Mapping[str, Tensor]) -> dict[torch.dtype, Tensor]:
    """The samples on the host, in their order, those of one number format together."""
    together: dict[torch.dtype, list[Tensor]] = {}
    for sample in samples.values():
        together.setdefault(sample.dtype, []).append(sample)
    return {dtype: _joined(some) for dtype, some in together.items()}


def _joined(samples: Sequence[Tensor]) -> Tensor:
    """In one transfer where all are in one place."""
    if len({sample.device for sample in samples}) == 1:
        return torch.cat(list(samples)).cpu()
    return torch.cat([sample.cpu() for sample in samples])


def _same(values: Mapping[torch.dtype, Tensor], others: Mapping[torch.dtype, Tensor]) -> bool:
    return values.keys() == others.keys() and all(
        torch.equal(_bits(values[dtype]), _bits(others[dtype])) for dtype in values
    )


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


def _adapters(hf: nn.Module) -> Iterator[tuple[str, Adapted]]:
    """Each module that peft has adapted, by name: what is active and merged in it, and how much it counts."""
    if "peft" not in sys.modules:
        return
    for name, module in hf.named_modules():
        if isinstance(getattr(type(module), "disable_adapters", None), property):
            layer: Any = module
            active = tuple(layer.active_adapters)
            scaling = getattr(layer, "scaling", None) or {}
            counts = tuple(float(scaling[each]) for each in active if each in scaling)
            yield name, Adapted(active, bool(layer.disable_adapters), tuple(layer.merged_adapters), counts)


def _told(adapters: Adapters) -> str:
    """The state of the first adapted module, in words."""
    if not adapters:
        return "none"
    first = adapters[0][1]
    words = ", ".join(first.active) or "none"
    words += " (switched off)" if first.off else ""
    words += f" (merged: {', '.join(first.merged)})" if first.merged else ""
    return words + "".join(f" × {count:g}" for count in first.counts)
