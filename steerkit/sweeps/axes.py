"""Axes: the fields of a steering that a grid crosses, and how their values are written.

    layer=8:16:4      half_life=none,64      scope=completion,all      gate=none,probe.safetensors@threshold=0.6
    edit=none,dont-know-system,tip@alpha=3,beta=600                   follows=none,entropy@low=1,high=3

A comma begins a new value. In `gate`, `follows` and `edit`, whose values are spec strings, KEY=VALUE behind a comma
goes on with the spec before it; whatever stands in quotes is one piece. `none` is without: no gate, no edit, no
half-life. Layers joined by `+` are steered together: `layer=4+8,12` has two values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import plain
from steerkit.interventions.base import Intervention, as_interventions
from steerkit.interventions.spec import known_keys, parse_following, parse_gate, parse_range, split, unquoted
from steerkit.interventions.steering import Steering
from steerkit.runs.references import read_interventions

EDIT, GATE, LAYER, STRENGTH, FOLLOWS = "edit", "gate", "layer", "strength", "follows"
PLURAL = {"layers": LAYER, "strengths": STRENGTH}
AXES = (*(PLURAL.get(each.name, each.name) for each in fields(Steering) if each.name != "vector"), EDIT)
_KEY = re.compile(r"\s*(\w+)\s*=")
_NUMBER = re.compile(r"\s*[-+.\d]")


def axis_of(name: str) -> str:
    """Return the axis of this name. Raises MisuseError, naming those that there are."""
    axis = PLURAL.get(name, name)
    if axis not in AXES:
        raise MisuseError(f"{name!r} is no axis of a grid; there are {', '.join(AXES)}")
    return axis


def axis_values(axis: str, given: Any) -> tuple[Any, ...]:
    """Return the values of an axis: of a text as `parse_axis` reads it, of several, or the one that is given.

    An edit's value is a tuple of interventions. Raises MisuseError where there is no value.
    """
    if isinstance(given, str):
        given = parse_axis(axis, given)
    given = plain(given)
    values = tuple(map(plain, given)) if isinstance(given, Iterable) else (given,)
    if not values:
        raise MisuseError(f"the axis {axis} has no values: give some, or leave it out")
    if axis == EDIT:
        return tuple(interventions_of(value) for value in values)
    if axis == GATE:
        return tuple(parse_gate(value) if isinstance(value, str) else value for value in values)
    if axis == FOLLOWS:
        return tuple(parse_following(value) if isinstance(value, str) else value for value in values)
    return values


def parse_axis(axis: str, text: str) -> tuple[Any, ...]:
    """Return the values that a text of the command line gives an axis; gates and edits as the spec strings they are.

    Raises MisuseError for a text that cannot be read.
    """
    parts = split(text, ",")
    if axis in (EDIT, GATE, FOLLOWS):
        specs: list[str] = []
        for part in parts:
            if specs and _goes_on(specs[-1], part):
                specs[-1] += f",{part}"
            else:
                specs.append(part)
        return tuple(None if spec.strip() == "none" else spec.strip() for spec in specs)
    return tuple(value for part in parts for value in _parsed(axis, part, text))


def _goes_on(spec: str, part: str) -> bool:
    """Whether what stands behind a comma is an option of the spec before it, and no file of its own."""
    key = _KEY.match(part)
    return key is not None and (key[1] in known_keys() or ("@" in spec and not os.path.exists(part.strip())))


def interventions_of(
    given: Intervention | str | Iterable[Intervention | str] | None,
) -> tuple[Intervention, ...]:
    """Return the interventions that are given, by themselves, by a spec string, or as None for none."""
    if isinstance(given, Iterable) and not isinstance(given, str) and not hasattr(given, "at"):
        return tuple(each for one in given for each in interventions_of(one))
    return read_interventions([given]) if isinstance(given, str) else as_interventions(given)


def _parsed(axis: str, part: str, text: str) -> tuple[Any, ...]:
    """The values of one part: a word, nothing, a number, or those of a progression."""
    if axis == LAYER:
        together = "+" in part
        layers = parse_range(part, int, separator="+" if together else ",", what=axis)
        return (layers,) if together else layers
    if axis == STRENGTH or _NUMBER.match(part):
        return parse_range(part, float, what=axis)
    return (None if part.strip() == "none" else unquoted(part.strip(), text),)
