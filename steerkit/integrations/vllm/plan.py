"""What travels from vLLM's front end to its workers for a request with readers: constants, as a `Payload` has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerkit.core.errors import SteerkitError
from steerkit.engines.remote.arguments import READERS
from steerkit.interventions.base import reference
from steerkit.interventions.readers import LinearReader, NamedReader, ProbeReader, Reader

# Names the version of the form below, so that nothing else passes for it.
FORM = "steerkit-readers-1"


@dataclass(frozen=True)
class Asked:
    """One reader of a request: linear in the states behind `layer`, or without one a registered function of logits.

    `name` is how the answer calls it, `key` is equal where two read alike. A linear one is read as `weight · h + bias`,
    and handed out as it is or, with `as_probability`, as its logistic function.
    """

    name: str
    key: str
    layer: int | None = None
    weight: Tensor | None = None
    bias: float = 0.0
    as_probability: bool = False
    function: str = ""

    @classmethod
    def of(cls, reader: Reader) -> Asked:
        """Return a reader's constants. Raises SteerkitError for one that `supports_reader` has refused."""
        name, key = reader.spec(reference), reader.digest
        if isinstance(reader, LinearReader):
            weight, bias = reader.linear
            return cls(name, key, reader.place.layer, weight, bias, isinstance(reader, ProbeReader))
        if isinstance(reader, NamedReader) and reader.place is None:
            return cls(name, key, function=reader.name)
        raise SteerkitError(f"{name!r}, which no table here can hold, came past the front end's checks")


def plan_to_wire(readers: Iterable[Reader], *, stepwise: bool) -> dict[str, Any]:
    """Return what readers read as plain data that MessagePack carries.

    `stepwise` asks for the readings of every step with its token, as the front end may end the request at any of them.
    """
    return {
        "form": FORM,
        "stepwise": stepwise,
        "readers": [_to_wire(Asked.of(reader)) for reader in readers],
    }


def plan_from_wire(wire: dict[str, Any]) -> tuple[Asked, ...]:
    """Read `plan_to_wire`'s form."""
    return tuple(_from_wire(entry) for entry in wire["readers"])


def plan_of(sampling_params: Any, fault: str) -> dict[str, Any] | None:
    """Return the plan in a request's sampling parameters, in its plain form; None where nothing is read.

    Raises SteerkitError with `fault` where something else stands there, which the front end did not check.
    """
    value: Any = (getattr(sampling_params, "extra_args", None) or {}).get(READERS)
    if value is not None and not (isinstance(value, dict) and value.get("form") == FORM):
        raise SteerkitError(fault)
    plan: dict[str, Any] | None = value
    return plan


def _to_wire(asked: Asked) -> dict[str, Any]:
    return {
        "name": asked.name,
        "key": asked.key,
        "layer": asked.layer,
        "weight": b"" if asked.weight is None else asked.weight.float().numpy().tobytes(),
        "bias": asked.bias,
        "as_probability": asked.as_probability,
        "function": asked.function,
    }


def _from_wire(wire: dict[str, Any]) -> Asked:
    weight = (
        torch.from_numpy(np.frombuffer(wire["weight"], dtype=np.float32).copy()) if wire["weight"] else None
    )
    return Asked(**{**wire, "weight": weight})
