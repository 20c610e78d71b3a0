"""The word-problem templates behind the brevity suite, read from `data/suites/brevity.json`.

In `text`, `[premise|what stands there instead]` marks a premise that the answer needs: the problem has its
left side, the unanswerable twin its right one (empty, or without the number). Braces are filled in: `{a}`,
`{b}`, … with numbers drawn from `ranges`; `{name}`, `{friend}`, `{third}` with three different first names;
`{they}` and `{them}` with the pronouns of `{name}`; `{things}` with a plural from `things`.
"""

from __future__ import annotations

import ast
import functools
import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from typing import Any

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of word problem. `formulas` are its steps, the last of which gives the answer."""

    text: str
    ranges: dict[str, tuple[int, int]]
    formulas: tuple[str, ...]
    things: tuple[str, ...] = ()

    def steps(self, **numbers: Fraction) -> tuple[Fraction, ...]:
        """Return the result of every step of the solution for these numbers."""
        return tuple(_value(_parsed(formula), numbers) for formula in self.formulas)


@functools.cache
def _parsed(formula: str) -> ast.expr:
    return ast.parse(formula, mode="eval").body


def _value(node: ast.expr, numbers: Mapping[str, Fraction]) -> Fraction:
    """The value of a formula of names, whole numbers and the four operations."""
    match node:
        case ast.Name(name):
            return numbers[name]
        case ast.Constant(int(number)):
            return Fraction(number)
        case ast.BinOp(left, sign, right):
            return _OPERATORS[type(sign)](_value(left, numbers), _value(right, numbers))
    raise ValueError(f"no formula of a template: {ast.unparse(node)}")


_FILE = resources.files("steerkit") / "data" / "suites" / "brevity.json"
_DATA: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
FIRST_NAMES: dict[str, tuple[str, str]] = {
    name: (they, them) for name, (they, them) in _DATA["first_names"].items()
}
LEVELS: dict[int, tuple[Template, ...]] = {
    level: tuple(
        Template(
            entry["text"],
            {slot: (least, most) for slot, (least, most) in entry["ranges"].items()},
            tuple(entry["steps"]),
            tuple(_DATA["things"].get(entry.get("things"), ())),
        )
        for entry in _DATA["templates"]
        if entry["level"] == level
    )
    for level in range(1, 6)
}
