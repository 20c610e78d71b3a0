"""Spec strings and ranges: how the command line writes steerings down.

    VECTOR[@key=value,…]     e.g.  abstain.safetensors@layer=14,strength=1.5
    4,8,12  or  start:stop:step, the stop included     e.g.  8:16:4  is  8, 12, 16

Inside a spec, where the comma parts the keys, a list is written with `+`: layer=4+8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from steerkit.errors import MisuseError
from steerkit.steering import Gate, Steering
from steerkit.vector import SteeringVector, load_vector

KEYS = ("layer", "strength", "scope", "operation", "target", "gate", "threshold")
LONGEST_RANGE = 10_000


def parse_range(
    text: str, kind: type[int] | type[float] = float, *, separator: str = ",", what: str = "range"
) -> tuple:
    """Numbers of `4,8,12` or `start:stop[:step]` (stop included), in the order written, each once.

    Steps are taken in decimal arithmetic, so that `-1:2:0.1` holds 0 and 2 exactly.
    """
    values: list[Any] = []
    for part in text.split(separator):
        values.extend(_progression(part.strip(), kind, what, text))
    return tuple(dict.fromkeys(values))


def _progression(part: str, kind: type, what: str, text: str) -> list:
    bounds = [_number(field.strip(), kind, what, text) for field in part.split(":")]
    if len(bounds) == 1:
        return [kind(bounds[0])]
    if len(bounds) > 3:
        raise MisuseError(f"{what} {text!r}: a progression is start:stop:step, got {part!r}")
    start, stop = bounds[:2]
    step = bounds[2] if len(bounds) == 3 else Decimal(1)
    if step == 0 or (stop - start) * step < 0:
        raise MisuseError(f"{what} {text!r}: a step of {step} never leads from {start} to {stop}")
    count = int((stop - start) / step) + 1
    if count > LONGEST_RANGE:
        raise MisuseError(f"{what} {text!r} has {count} values; at most {LONGEST_RANGE} make sense")
    return [kind(start + step * i) for i in range(count)]


def _number(field: str, kind: type, what: str, text: str) -> Decimal:
    try:
        value = Decimal(field)
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or not math.isfinite(float(value)):
        raise MisuseError(f"{what} {text!r}: {field!r} is not a number; write 4,8,12 or start:stop:step")
    if kind is int and value != int(value):
        raise MisuseError(f"{what} {text!r}: {field!r} is not a whole number")
    return value


def parse_spec(text: str, load: Callable[[str], SteeringVector] = load_vector) -> Steering:
    """The steering that a spec string names; `load` turns the vector's name into the vector."""
    name, _, options = text.rpartition("@") if "@" in text else (text, "", "")
    if not name:
        raise MisuseError(f"spec {text!r} names no vector; write VECTOR@layer=14,strength=1.5")
    fields = _fields(options, text)
    if "layer" not in fields:
        raise MisuseError(f"spec {text!r} names no layer; write {name}@layer=14,strength=1.5")
    layers = parse_range(fields["layer"], int, separator="+", what=f"layer in {text!r}:")
    vector = load(name)
    return Steering(
        vector,
        layers,
        strength=_float(fields.get("strength", "1"), "strength", text),
        operation=fields.get("operation", "add"),  # type: ignore[arg-type]  # Steering checks it
        scope=fields.get("scope", "completion"),  # type: ignore[arg-type]
        target=_float(fields["target"], "target", text) if "target" in fields else None,
        gate=_gate(fields, text, load),
    )


def _fields(options: str, text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for option in filter(None, options.split(",")):
        key, equals, value = (part.strip() for part in option.partition("="))
        if not equals or not value:
            raise MisuseError(f"spec {text!r}: {option!r} is not key=value")
        if key not in KEYS:
            raise MisuseError(f"spec {text!r}: unknown key {key!r}; the keys are {', '.join(KEYS)}")
        if key in fields:
            raise MisuseError(f"spec {text!r} gives {key!r} twice")
        fields[key] = value
    return fields


def _float(value: str, key: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise MisuseError(f"spec {text!r}: {key} {value!r} is not a number")
    return number


def _gate(fields: dict[str, str], text: str, load: Callable[[str], SteeringVector]) -> Gate | None:
    if ("gate" in fields) != ("threshold" in fields):
        raise MisuseError(f"spec {text!r}: gate=VECTOR and threshold=VALUE go together")
    if "gate" not in fields:
        return None
    return Gate(load(fields["gate"]), _float(fields["threshold"], "threshold", text))
