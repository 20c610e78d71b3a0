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
             vector: follows (a reader; with follows_as, follows_layer, follows_site), and either low, high, least, most
             for a ramp or on, off for a switch, renewed          abstain@layer=14,follows=entropy,low=1,high=3
             policy: when (a reader; with when_as, when_layer, when_site), on, off, smoothing, renewed
    VALUE    a number, a word, or a text in double quotes with JSON's escapes; several joined by +, as in layer=4+8
    SPECS    several specs, parted by ";", compose in order
    READER   a vector or probe with a layer, or a registered reader         abstain@layer=14   entropy   norm@layer=3
             as: "probe" means the probe that a vector brings, "feature" the activation of the feature that it
             encodes                                                        abstain@as=probe

A path may hold anything: the options are what stands behind the last `@` that a known `KEY=` follows, and a comma
that no `KEY=` follows belongs to the path or text before it. A quotation mark begins a quoted text at the beginning of
a head or a value, and is a letter anywhere else. What would be read otherwise is written in quotes: a head that is
a rule's or an edit's name, begins with a quotation mark or a blank, or holds `;`, and a path that holds `,KEY=`. A
vector alone, without keys, means its recommended use; keys without a layer change that.

    4,8,12  or  start:stop:step, the stop included     e.g.  8:16:4  is  8, 12, 16
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Context, Decimal, InvalidOperation, localcontext
from itertools import chain, takewhile
from typing import Any

from steerkit.core.errors import MisuseError
from steerkit.core.registry import GATES, LOGIT_RULES, READERS
from steerkit.core.sites import RESID_POST
from steerkit.interventions.base import Intervention, quoted, written_text
from steerkit.interventions.following import Following, StrengthRamp, StrengthSwitch
from steerkit.interventions.gate import DetectorGate, Gate, PositionGate, ProbeGate
from steerkit.interventions.logit_rules import OpenerBias
from steerkit.interventions.policies import Policy, Trigger
from steerkit.interventions.presets import presets
from steerkit.interventions.probe import Probe
from steerkit.interventions.prompt_edit import TEXTS, PromptEdit, means_no_vector
from steerkit.interventions.readers import (
    FeatureReader,
    NamedReader,
    ProbeReader,
    Reader,
    VectorReader,
    as_readers,
)
from steerkit.interventions.steering import MANNER, Steering
from steerkit.interventions.store import Parts, Store, as_store, recommended_use
from steerkit.interventions.vector import SteeringVector

STEERING_KEYS = ("layer", "site", *MANNER)
WORDS, NUMBERS = ("operation", "scope", "positions"), ("strength", "target", "half_life")
READER_KEYS = ("as", "layer", "site")
WHEN_KEYS = ("when", *(f"when_{key}" for key in READER_KEYS), "on", "off", "smoothing", "renewed")
FOLLOWING_KEYS = tuple(f"follows_{key}" for key in READER_KEYS)
FOLLOWED_KEYS = ("follows", *FOLLOWING_KEYS, "low", "high", "least", "most", "on", "off", "renewed")
GATE_KEYS = ("gate", "gate_layer", "along", "threshold")
LONGEST_RANGE = 10_000
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OPENS = "@,=;+"  # behind which a quotation mark begins a quoted text
_KEY = re.compile(r"\s*(\w+)\s*=")
_BARE_VALUE = re.compile(r"[\s\d:+,.\[\]()-]+")  # numbers without their key
_TEXT_KEYS = ("gate", "along", "follows", "when", "name", "text", *TEXTS)  # whose values may hold a comma

Vectors = Store | Parts | None


def parse(text: str | Intervention, vectors: Vectors = None) -> Intervention:
    """Return the one intervention that a spec string names, see the module's grammar; an intervention as it is.

    `vectors` are looked at by name and digest before files and published vectors are. Raises MisuseError for a text
    that cannot be read, or that names several interventions.
    """
    if isinstance(text, Intervention):
        return text
    found = parse_all([text], vectors)
    if len(found) != 1:
        raise MisuseError(f"spec {text!r} names {len(found)} interventions, and one is wanted here")
    return found[0]


def parse_all(texts: str | Sequence[str], vectors: Vectors = None) -> tuple[Intervention, ...]:
    """Return all interventions that spec strings name, in order; a vector alone stands for its recommended use."""
    store = as_store(vectors)
    several = [texts] if isinstance(texts, str) else texts
    for text in several:
        if not isinstance(text, str):
            raise MisuseError(f"a spec is a text such as 'VECTOR@layer=14', got {type(text).__name__}")
    specs = [spec.strip() for text in several for spec in split(text, ";")]
    return tuple(each for spec in specs for each in _parse(spec, store))


def parse_gate(text: str, vectors: Vectors = None) -> Gate:
    """Return the gate that `NAME[@threshold=…,gate_layer=…]` names: a registered one, or a file with a probe or vector.

    Raises MisuseError for a text that cannot be read.
    """
    head, options = parted(text)
    fields = {"gate": head, **_fields(options, text)}
    check_keys(fields, ("gate", "threshold", "gate_layer"), text)
    gate = _gate(fields, text, as_store(vectors))
    assert gate is not None
    return gate


def parse_reader(text: str | Reader, vectors: Vectors = None) -> Reader:
    """Return the reader that a spec string names; a reader as it is.

    What is both a vector and a probe is the vector, or with `as=probe` the probe. Without a layer a probe reads at its
    own, and a vector at that of its recommended use. Raises MisuseError for a text that cannot be read.
    """
    if isinstance(text, Reader):
        return text
    if not isinstance(text, str) or not text.strip():
        raise MisuseError(f"a reader is a text such as 'entropy' or 'VECTOR@layer=14', got {text!r}")
    head, options = parted(text)
    fields = _fields(options, text)
    check_keys(fields, READER_KEYS, text)
    return _reader(head, fields, text, as_store(vectors))


def parse_following(text: str | Following, vectors: Vectors = None) -> Following:
    """Return what a strength follows by `READER@low=1,high=3` or `READER@on=0.7,off=0.4`; see the module's grammar.

    The reader's own keys are `follows_layer`, `follows_as` and `follows_site`, as in a steering's spec string. Raises
    MisuseError for a text that cannot be read.
    """
    if isinstance(text, Following):
        return text
    head, options = parted(text)
    fields = {"follows": head, **_fields(options, text)}
    check_keys(fields, FOLLOWED_KEYS, text)
    following = _following(fields, text, as_store(vectors))
    assert following is not None
    return following


def _following(fields: Mapping[str, str], text: str, store: Store) -> Following | None:
    given = [key for key in FOLLOWED_KEYS if key in fields]
    if not given:
        return None
    if "follows" not in fields:
        raise MisuseError(
            f"spec {text!r}: {given[0]} belongs to a reader that the strength follows: write follows=READER"
        )
    of_reader = {key: fields[f"follows_{key}"] for key in READER_KEYS if f"follows_{key}" in fields}
    reader = _reader(fields["follows"], of_reader, text, store)
    made = StrengthSwitch if "on" in fields or "off" in fields else StrengthRamp
    own = {"on", "off", "low", "high", "least", "most"}.intersection(fields)
    if not own <= set(made.numbers) or not own >= set(made.numbers[:2]):
        raise MisuseError(
            f"spec {text!r}: a strength follows by low and high (a ramp), or by on and off (a switch)"
        )
    values: dict[str, Any] = {key: number(fields[key], key, text) for key in own}
    return made(reader, **values, renewed=unquoted(fields.get("renewed", "every"), text))  # type: ignore[arg-type]


def _trigger(fields: Mapping[str, str], text: str, store: Store) -> Trigger:
    if not {"when", "on"} <= fields.keys():
        raise MisuseError(
            f"spec {text!r} says not when: write when=READER,on=0.7 and, for hysteresis, off=0.5"
        )
    of_reader = {key: fields[f"when_{key}"] for key in READER_KEYS if f"when_{key}" in fields}
    reader = _reader(fields["when"], of_reader, text, store)
    on = number(fields["on"], "on", text)
    off = number(fields["off"], "off", text) if "off" in fields else on
    smoothing = number(fields["smoothing"], "smoothing", text) if "smoothing" in fields else 1.0
    renewed = unquoted(fields.get("renewed", "every"), text)
    return Trigger(reader, on, off, smoothing, renewed)  # type: ignore[arg-type]  # it refuses another word


def _reader(head: str, fields: Mapping[str, str], text: str, store: Store) -> Reader:
    layer = int(number(fields["layer"], "layer", text, whole=True)) if "layer" in fields else None
    if head in READERS:
        of_states = READERS[head].of == "states"
        taken = ("layer", "site") if of_states else ("layer",)  # which NamedReader refuses in its own words
        if ignored := [key for key in fields if key not in taken]:
            what = "states, as it is" if of_states else "the logits"
            raise MisuseError(f"spec {text!r}: {head} reads {what}, and takes no {ignored[0]}")
        site = unquoted(fields.get("site", RESID_POST), text)
        return NamedReader(head, layer, site)  # type: ignore[arg-type]  # it refuses what is no site
    kind = unquoted(fields.get("as", ""), text)
    if kind not in ("", "vector", "probe", "feature"):
        raise MisuseError(f"spec {text!r}: a reader is read as vector, probe or feature, got {kind!r}")
    part = _vector_or_probe(unquoted(head, text), store, "probe" if kind == "feature" else kind)
    if fields.get("site", part.site) != part.site:
        raise MisuseError(f"spec {text!r}: {part.name!r} was read at site {part.site}, and reads there alone")
    if isinstance(part, Probe) and kind == "feature":
        return FeatureReader(part, -1 if layer is None else layer)
    if isinstance(part, Probe):
        return ProbeReader(part, -1 if layer is None else layer)
    if layer is None:
        layers = {at for each in recommended_use(part) if isinstance(each, Steering) for at in each.layers}
        if len(layers) != 1:
            raise MisuseError(f"spec {text!r} names no layer to read at; write {head}@layer=14")
        (layer,) = layers
    return VectorReader(part, layer)


def readers_of(
    given: Reader | str | Iterable[Reader | str] | None, vectors: Vectors = None
) -> tuple[Reader, ...]:
    """Return the readers that are given, one or several, each a reader or a spec string.

    Raises MisuseError for anything else, for a text that cannot be read, and for one that is given twice.
    """
    several = [given] if isinstance(given, str) or not isinstance(given, Iterable) else given
    store = as_store(vectors)
    return as_readers(
        None
        if given is None
        else [parse_reader(each, store) if isinstance(each, str) else each for each in several]
    )


def _vector_or_probe(name: str, store: Store, kind: str) -> SteeringVector | Probe:
    if kind != "probe":
        try:
            return store.vector(name)
        except MisuseError:
            if kind:
                raise
    found = store.gate(name)
    if isinstance(found, Probe):
        return found
    if found.probe is None:
        raise MisuseError(f"{name!r} brings no probe: read along it, as {name}@layer=14")
    return found.probe


def _parse(text: str, store: Store) -> tuple[Intervention, ...]:
    head, options = parted(text)
    fields = _fields(options, text)
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
    check_keys(fields, (*STEERING_KEYS, *FOLLOWED_KEYS, *GATE_KEYS), text)
    vector = store.vector(unquoted(head, text))
    if fields.get("site", vector.site) != vector.site:
        raise MisuseError(
            f"spec {text!r}: {vector.name!r} was read at site {vector.site}, and acts there alone"
        )
    given: dict[str, Any] = {key: unquoted(fields[key], text) for key in WORDS if key in fields}
    given |= {key: number(fields[key], key, text) for key in NUMBERS if key in fields}
    if "layer" in fields:
        given["layers"] = parse_range(fields["layer"], int, separator="+", what=f"layer in {text!r}:")
    if following := _following(fields, text, store):
        given["follows"] = following
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
    decides = isinstance(rule, Policy)
    check_keys(fields, (*rule.settings, *(WHEN_KEYS if decides else ()), *GATE_KEYS), text)
    given: dict[str, Any] = {"when": _trigger(fields, text, store)} if decides else {}
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
    """Split a text at a separator, quoted texts left whole. Raises MisuseError for a quote that is never closed."""
    parts, start, place, opens = [], 0, 0, True
    while place < len(text):
        if opens and text[place] == '"':
            quoted_text = _QUOTED.match(text, place)
            if quoted_text is None:
                raise MisuseError(f"spec {text!r}: a quotation mark is never closed")
            place, opens = quoted_text.end(), False
            continue
        if text[place] == separator:
            parts.append(text[start:place])
            start = place + 1
        opens = text[place] in _OPENS or (opens and text[place].isspace())
        place += 1
    return [*parts, text[start:]]


def parted(text: str) -> tuple[str, str]:
    """Return the head of a spec string and its options, without the `@` between them; see the module's grammar."""
    parts = split(text, "@")
    keys = {place: found[1] for place, part in enumerate(parts) if place and (found := _KEY.match(part))}
    known = [place for place, key in keys.items() if key in known_keys()]
    if not known and (len(parts) == 1 or os.path.isfile(text)):
        return text.strip(), ""
    last = parts[-1].partition(",")[0].strip()
    meant = not last or last in known_keys() or _BARE_VALUE.fullmatch(last)  # options that lack something
    places = known or list(keys) or ([len(parts) - 1] if meant else [])
    if not places:
        return text.strip(), ""
    return "@".join(parts[: places[-1]]).strip(), "@".join(parts[places[-1] :])


@functools.cache
def known_keys() -> frozenset[str]:
    """Return every key that some spec string may have."""
    rules = (key for _, rule in LOGIT_RULES.items() for key in rule().settings)
    return frozenset((*STEERING_KEYS, *FOLLOWED_KEYS, *WHEN_KEYS, *GATE_KEYS, *TEXTS, "name", *rules))


def is_whole(text: str) -> bool:
    """Return whether a text that is the head of a spec string is read as it stands, and needs no quotes."""
    try:
        return split(text, ";") == [text] and text == text.strip() and not text.startswith('"')
    except MisuseError:
        return False


def vector_at(name: str, **fields: object) -> str:
    """Return the spec string of a vector's file or name with these fields, the name in quotes where it needs them."""
    options = ",".join(f"{key}={value}" for key, value in fields.items())
    bare = f"{name}@{options}"
    if means_no_vector(name) or not is_whole(name) or parted(bare) != (name, options):
        return f"{written_text(name)}@{options}"
    return bare


def gate_at(name: object) -> str:
    """Return how a gate's file or name stands behind `gate=`, in a spec string or an axis."""
    return quoted(str(name))


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
    key, given = "", list(filter(None, split(options, ",")))
    for place, option in enumerate(given):
        if key in _TEXT_KEYS and not _KEY.match(option):
            fields[key] += f",{option}"
            continue
        before, key = key, option.partition("=")[0].strip()
        value = option.partition("=")[2].strip()
        if not value:
            raise MisuseError(
                f"spec {text!r}: {option!r} is not key=value{_advice(before, fields, given[place:])}"
            )
        if key in fields:
            raise MisuseError(f"spec {text!r} gives {key!r} twice")
        if key not in _TEXT_KEYS and (blank := re.search(r"\s+(?=\w+=)", value)) and '"' not in value:
            written = f"{key}={value[: blank.start()]},{value[blank.end() :]}"
            raise MisuseError(f"spec {text!r}: a comma parts one option from the next: write {written}")
        fields[key] = value
    return fields


def _advice(key: str, fields: Mapping[str, str], rest: Iterable[str]) -> str:
    """What numbers without a key of their own are meant to be, behind the option `key`."""
    bare = list(takewhile(_BARE_VALUE.fullmatch, rest))
    if not bare:
        return ""
    numbers = re.findall(r"\d+", " ".join([fields.get(key, ""), *bare]))
    if key in ("", "layer"):
        return f": write layer={'+'.join(numbers)}" if numbers else ""
    return f": {key} takes one value, and a grid takes several" if key in NUMBERS else ""


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

    Steps are taken in decimal arithmetic, so that `-1:2:0.1` holds 0 and 2 exactly. Raises MisuseError for what is no
    number or range, and for a range of more than 10,000 values.
    """
    advice = f"write 4{separator}8{separator}12 or start:stop:step"
    parts = (_progression(part.strip(), kind, what, text, advice) for part in text.split(separator))
    return tuple(dict.fromkeys(chain.from_iterable(parts)))


def _progression(
    part: str, kind: type[int] | type[float], what: str, text: str, advice: str
) -> list[int | float]:
    bounds = [_decimal(field.strip(), kind, what, text, advice) for field in part.split(":")]
    if len(bounds) == 1:
        return [kind(bounds[0])]
    if len(bounds) > 3:
        raise MisuseError(f"{what} {text!r}: a progression is start:stop:step, got {part!r}")
    start, stop = bounds[:2]
    step = bounds[2] if len(bounds) == 3 else Decimal(1)
    if step == 0 or (stop - start) * step < 0:
        raise MisuseError(f"{what} {text!r}: a step of {step} never leads from {start} to {stop}")
    with localcontext(Context(traps=[])):  # a step that is next to nothing gives infinity
        steps = (stop - start) / step
    if not steps < LONGEST_RANGE:
        raise MisuseError(f"{what} {text!r} has too many values; at most {LONGEST_RANGE} make sense")
    return [kind(start + step * i) for i in range(int(steps) + 1)]


def _decimal(field: str, kind: type[int] | type[float], what: str, text: str, advice: str) -> Decimal:
    try:
        value = Decimal(field)
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or not math.isfinite(float(value)):
        raise MisuseError(f"{what} {text!r}: {field!r} is not a number; {advice}")
    if kind is int and value != value.to_integral_value():
        raise MisuseError(f"{what} {text!r}: {field!r} is not a whole number")
    return value
