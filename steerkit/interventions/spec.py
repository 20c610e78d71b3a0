"""Spec strings and ranges: how the command line writes steerings down.

    VECTOR[@key=value,…]     e.g.  abstain.safetensors@layer=14,strength=1.5
    4,8,12  or  start:stop:step, the stop included     e.g.  8:16:4  is  8, 12, 16

    DECORATION[@key=value,…]     e.g.  refusal-bias@bias=2,  thinking-budget@tokens=128,  tip@alpha=3,beta=600

Inside a spec, where the comma parts the keys, a list is written with `+`: layer=4+8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from steerkit.core.errors import MisuseError
from steerkit.interventions.decoration import Decoration, Rule, built_in_decorations
from steerkit.interventions.probe import Probe
from steerkit.interventions.steering import Gate, ProbeGate, Steering
from steerkit.interventions.vector import SteeringVector, load_gate, load_vector

KEYS = (
    "layer",
    "strength",
    "scope",
    "operation",
    "target",
    "half_life",
    "positions",
    "gate",
    "threshold",
)
GATE_KEYS = ("gate", "threshold")
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


def parse_spec(
    text: str,
    load: Callable[[str], SteeringVector] = load_vector,
    gate: Callable[[str], Probe | SteeringVector] = load_gate,
) -> Steering:
    """The steering that a spec string names.

    `load` turns the vector's name into the vector, `gate` that of a gate into its probe (the gate then decides
    once per row, at the probe's own threshold unless another is given) or its vector (position by position).
    """
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
        gate=_gate(fields, text, gate),
        half_life=_float(fields["half_life"], "half_life", text) if "half_life" in fields else None,
        positions=fields.get("positions", "every"),  # type: ignore[arg-type]
    )


def parse_decoration(text: str, gate: Callable[[str], Probe | SteeringVector] = load_gate) -> Decoration:
    """The decoration that a spec string names: one that is built in, with other numbers or a probe gate."""
    name, _, options = text.partition("@")
    known = built_in_decorations()
    if name not in known:
        raise MisuseError(f"no decoration {name!r}; the built-in ones are {', '.join(known)}")
    decoration = known[name]
    numbers = ["bias"] if decoration.openers else []
    fields = _fields(options, text, [*numbers, *decoration.settings, *GATE_KEYS])
    if "bias" in fields:
        decoration = replace(decoration, bias=_float(fields["bias"], "bias", text))
    if decoration.rule is not None:
        decoration = replace(
            decoration, rule=_with_numbers(decoration.rule, decoration.settings, fields, text)
        )
    opened_by = _gate(fields, text, gate)
    if isinstance(opened_by, Gate):
        raise MisuseError(
            f"spec {text!r}: {fields['gate']} holds no probe, and only a probe gates a decoration"
        )
    return replace(decoration, gate=opened_by)


def parse_gates(
    specs: Sequence[str], gate: Callable[[str], Probe | SteeringVector] = load_gate
) -> list[ProbeGate | None]:
    """What a grid is gated by: not at all, then each `FILE[@threshold=…]` in turn."""
    gates: list[ProbeGate | None] = [None]
    for text in specs:
        name, _, options = text.partition("@")
        opened_by = _gate({"gate": name} | _fields(options, text, ("threshold",)), text, gate)
        if not isinstance(opened_by, ProbeGate):
            raise MisuseError(
                f"{name} holds no probe, and a grid is gated by one: see steerkit extract --as probe"
            )
        gates.append(opened_by)
    return gates


def _fields(options: str, text: str, keys: Sequence[str] = KEYS) -> dict[str, str]:
    fields: dict[str, str] = {}
    for option in filter(None, options.split(",")):
        key, equals, value = (part.strip() for part in option.partition("="))
        if not equals or not value:
            raise MisuseError(f"spec {text!r}: {option!r} is not key=value")
        if key not in keys:
            raise MisuseError(f"spec {text!r}: unknown key {key!r}; the keys are {', '.join(keys)}")
        if key in fields:
            raise MisuseError(f"spec {text!r} gives {key!r} twice")
        fields[key] = value
    return fields


def _with_numbers(rule: Rule, settings: dict[str, int | float], fields: dict[str, str], text: str) -> Rule:
    """The rule with those of its numbers that the spec gives; a count of tokens is a whole number."""
    given: dict[str, Any] = {}
    for key in settings.keys() & fields.keys():
        number = _float(fields[key], key, text)
        if isinstance(settings[key], int):
            if not number.is_integer():
                raise MisuseError(f"spec {text!r}: {key} {fields[key]!r} is not a whole number")
            number = int(number)
        given[key] = number
    return replace(rule, **given)


def _float(value: str, key: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise MisuseError(f"spec {text!r}: {key} {value!r} is not a number")
    return number


def _gate(
    fields: dict[str, str], text: str, load: Callable[[str], Probe | SteeringVector]
) -> Gate | ProbeGate | None:
    threshold = _float(fields["threshold"], "threshold", text) if "threshold" in fields else None
    if "gate" not in fields:
        if threshold is not None:
            raise MisuseError(
                f"spec {text!r}: a threshold belongs to a gate: write gate=FILE,threshold=VALUE"
            )
        return None
    gate = load(fields["gate"])
    if isinstance(gate, Probe):
        return ProbeGate(gate) if threshold is None else ProbeGate(gate, threshold=threshold)
    if threshold is None:
        raise MisuseError(
            f"spec {text!r}: {fields['gate']} holds no probe, so its gate needs a threshold: write threshold=VALUE"
        )
    return Gate(gate, threshold)
