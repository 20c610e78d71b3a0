"""Spec strings and ranges: how the command line, tables and records write interventions down. One grammar for all.

    SPEC     HEAD[@KEY=VALUE,KEY=VALUE,…]
    HEAD     a vector: its file, published name or name in the store at hand, or sha256:HEX
             a rule on logits by its registered name        thinking-budget@tokens=128
             a named prompt edit                            dont-know-system
             prompt, with the edit's texts                  prompt@system="Be brief.",begin="Sure"
    KEY      vector: layer strength operation scope target half_life positions
             vector: site, which says what the vector says itself and is refused where it says another
             any: gate (a probe's file or name, or a registered gate; with gate_layer, threshold)
             vector: along (a vector; with threshold) for a gate that decides position by position
    VALUE    a number, a word, or a text in double quotes with JSON's escapes; several joined by +, as in layer=4+8
    SPECS    several specs, parted by " ; ", compose in order

A vector whose name is a rule's or an edit's, or holds `,=+@;"` or blanks, is written in quotes. A vector alone, without
keys, means its recommended use; keys without a layer change that.

    4,8,12  or  start:stop:step, the stop included     e.g.  8:16:4  is  8, 12, 16
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Any

from steerkit.core.errors import MisuseError
from steerkit.core.registry import GATES, LOGIT_RULES
from steerkit.interventions.base import Intervention
from steerkit.interventions.gate import DetectorGate, Gate, PositionGate, ProbeGate
from steerkit.interventions.logit_rules import OpenerBias
from steerkit.interventions.presets import presets
from steerkit.interventions.probe import Probe
from steerkit.interventions.prompt_edit import TEXTS, PromptEdit
from steerkit.interventions.steering import MANNER, Steering
from steerkit.interventions.store import Parts, Store, as_store, recommended_use

STEERING_KEYS = ("layer", "site", *MANNER)
WORDS, NUMBERS = ("operation", "scope", "positions"), ("strength", "target", "half_life")
GATE_KEYS = ("gate", "gate_layer", "along", "threshold")
LONGEST_RANGE = 10_000
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_UNBALANCED = re.compile(rf'(?:[^"]|{_QUOTED})*', re.DOTALL)

Vectors = Store | Parts | None


def parse(text: str, vectors: Vectors = None) -> Intervention:
    """Return the one intervention that a spec string names; see the module's grammar.

    `vectors` are looked at by name and digest before files and published vectors are. Raises MisuseError for a text
    that cannot be read, or that names several interventions.
    """
    found = parse_all([text], vectors)
    if len(found) != 1:
        raise MisuseError(f"spec {text!r} names {len(found)} interventions, and one is wanted here")
    return found[0]


def parse_all(texts: Sequence[str], vectors: Vectors = None) -> tuple[Intervention, ...]:
    """Return all interventions that spec strings name, in order; a vector alone stands for its recommended use."""
    store = as_store(vectors)
    specs = [spec.strip() for text in texts for spec in split(text, ";")]
    return tuple(each for spec in specs for each in _parse(spec, store))


def parse_gate(text: str, vectors: Vectors = None) -> Gate:
    """Return the gate that `NAME[@threshold=…,gate_layer=…]` names: a registered one, or a file with a probe or vector.

    Raises MisuseError for a text that cannot be read.
    """
    *heads, options = split(text, "@") if "@" in text else (text, "")
    fields = {"gate": "@".join(heads).strip(), **_fields(options, text)}
    check_keys(fields, ("gate", "threshold", "gate_layer"), text)
    gate = _gate(fields, text, as_store(vectors))
    assert gate is not None
    return gate


def _parse(text: str, store: Store) -> tuple[Intervention, ...]:
    *heads, options = split(text, "@") if "@" in text else (text, "")
    head, fields = "@".join(heads).strip(), _fields(options, text)
    if not head:
        raise MisuseError(f"spec {text!r} names nothing; write VECTOR@layer=14,strength=1.5")
    if head == "prompt":
        check_keys(fields, (*TEXTS, "name", *GATE_KEYS), text)
        texts = {key: unquoted(fields[key], text) for key in (*TEXTS, "name") if key in fields}
        return (PromptEdit(**texts, gate=_gate(fields, text, store)),)
    if head in presets():
        return (_changed(presets()[head], fields, text, store),)
    if head in LOGIT_RULES:
        return (_rule(LOGIT_RULES[head](), fields, text, store),)
    return _steerings(head, fields, text, store)


def _steerings(head: str, fields: dict[str, str], text: str, store: Store) -> tuple[Intervention, ...]:
    check_keys(fields, (*STEERING_KEYS, *GATE_KEYS), text)
    vector = store.vector(unquoted(head, text))
    if fields.get("site", vector.site) != vector.site:
        raise MisuseError(
            f"spec {text!r}: {vector.name!r} was read at site {vector.site}, and acts there alone"
        )
    given: dict[str, Any] = {key: unquoted(fields[key], text) for key in WORDS if key in fields}
    given |= {key: number(fields[key], key, text) for key in NUMBERS if key in fields}
    if "layer" in fields:
        given["layers"] = parse_range(fields["layer"], int, separator="+", what=f"layer in {text!r}:")
    if gate := _gate(fields, text, store):
        given["gate"] = gate
    if "layers" in given:
        return (Steering(vector, **given),)
    use = recommended_use(vector)
    if not use:
        raise MisuseError(f"spec {text!r} names no layer; write {head}@layer=14,strength=1.5")
    return tuple(replace(each, **given) if isinstance(each, Steering) and given else each for each in use)


def _changed(preset: Intervention, fields: dict[str, str], text: str, store: Store) -> Intervention:
    if isinstance(preset, OpenerBias):
        return _rule(preset, fields, text, store)
    check_keys(fields, GATE_KEYS, text)
    return replace(preset, gate=_gate(fields, text, store))  # type: ignore[type-var]  # a PromptEdit


def _rule(rule: Any, fields: dict[str, str], text: str, store: Store) -> Intervention:
    """A rule with the settings that the spec gives, read by the types of those that it has."""
    check_keys(fields, (*rule.settings, *GATE_KEYS), text)
    given: dict[str, Any] = {}
    for key, value in rule.settings.items():
        if key not in fields:
            continue
        if isinstance(value, tuple):
            given[key] = tuple(unquoted(part, text) for part in split(fields[key], "+"))
        elif isinstance(value, str):
            given[key] = unquoted(fields[key], text)
        elif isinstance(value, bool):
            given[key] = fields[key] == "true"
        else:
            given[key] = number(fields[key], key, text, whole=isinstance(value, int))
    changed: Intervention = dataclasses.replace(rule, **given, gate=_gate(fields, text, store))
    return changed


def _gate(fields: dict[str, str], text: str, store: Store) -> Gate | None:
    threshold = number(fields["threshold"], "threshold", text) if "threshold" in fields else None
    along, named = fields.get("along"), fields.get("gate")
    if along is not None and named is not None:
        raise MisuseError(f"spec {text!r}: gate and along are two gates: give one")
    if along is None and named is None:
        if threshold is not None or "gate_layer" in fields:
            raise MisuseError(f"spec {text!r}: a threshold or gate_layer belongs to a gate: write gate=FILE")
        return None
    if named is not None and named in GATES:
        return DetectorGate(named) if threshold is None else DetectorGate(named, threshold)
    part = store.vector(unquoted(along or "", text)) if named is None else store.gate(unquoted(named, text))
    if isinstance(part, Probe):
        layer = number(fields["gate_layer"], "gate_layer", text, whole=True) if "gate_layer" in fields else -1
        return ProbeGate(part, int(layer), -1.0 if threshold is None else threshold)
    if threshold is None or "gate_layer" in fields:
        raise MisuseError(
            f"spec {text!r}: {named or along} holds no probe: its gate needs a threshold and has no layer of its own"
        )
    return PositionGate(part, threshold)


def split(text: str, separator: str) -> list[str]:
    """Split a text at a separator, quoted parts left whole. Raises MisuseError for a quote that is never closed."""
    if not _UNBALANCED.fullmatch(text):
        raise MisuseError(f"spec {text!r}: a quotation mark is never closed")
    parts, start = [], 0
    for token in re.finditer(rf"{_QUOTED}|{re.escape(separator)}", text, re.DOTALL):
        if token[0] == separator:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def unquoted(value: str, text: str) -> str:
    """Return a value without its quotes, if it has any. Raises MisuseError for a broken escape."""
    if not value.startswith('"'):
        return value
    try:
        read = json.loads(value, strict=False)
    except ValueError as error:
        raise MisuseError(f"spec {text!r}: {value} is no text in quotes: {error}") from error
    return str(read)


def _fields(options: str, text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for option in filter(None, split(options, ",")):
        key, equals, value = (part.strip() for part in option.partition("="))
        if not equals or not value:
            raise MisuseError(f"spec {text!r}: {option!r} is not key=value")
        if key in fields:
            raise MisuseError(f"spec {text!r} gives {key!r} twice")
        fields[key] = value
    return fields


def check_keys(fields: Iterable[str], keys: Sequence[str], text: str) -> None:
    """Raise MisuseError for a key that is none of `keys`."""
    for key in fields:
        if key not in keys:
            raise MisuseError(f"spec {text!r}: unknown key {key!r}; the keys are {', '.join(keys)}")


def number(value: str, key: str, text: str, *, whole: bool = False) -> float:
    """Return a number of a spec string. Raises MisuseError for one that is none, infinite, or not `whole`."""
    try:
        read = float(value)
    except ValueError:
        read = math.nan
    if not math.isfinite(read):
        raise MisuseError(f"spec {text!r}: {key} {value!r} is not a number")
    if whole and not read.is_integer():
        raise MisuseError(f"spec {text!r}: {key} {value!r} is not a whole number")
    return int(read) if whole else read


def parse_range(
    text: str, kind: type[int] | type[float] = float, *, separator: str = ",", what: str = "range"
) -> tuple[Any, ...]:
    """Return the numbers of `4,8,12` or `start:stop[:step]` (stop included), in the order written, each once.

    Steps are taken in decimal arithmetic, so that `-1:2:0.1` holds 0 and 2 exactly.
    """
    parts = (_progression(part.strip(), kind, what, text) for part in text.split(separator))
    return tuple(dict.fromkeys(chain.from_iterable(parts)))


def _progression(part: str, kind: type[int] | type[float], what: str, text: str) -> list[int | float]:
    bounds = [_decimal(field.strip(), kind, what, text) for field in part.split(":")]
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


def _decimal(field: str, kind: type[int] | type[float], what: str, text: str) -> Decimal:
    try:
        value = Decimal(field)
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or not math.isfinite(float(value)):
        raise MisuseError(f"{what} {text!r}: {field!r} is not a number; write 4,8,12 or start:stop:step")
    if kind is int and value != int(value):
        raise MisuseError(f"{what} {text!r}: {field!r} is not a whole number")
    return value
