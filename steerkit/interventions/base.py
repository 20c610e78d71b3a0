"""Intervention: whatever can be done to a row, as frozen data with a JSON form and a digest.

There are three kinds: an edit of the residual stream (`Steering`), an edit of the prompt (`PromptEdit`) and a rule on
the logits (`LogitRule`). Any of them may carry a gate. A request carries one ordered tuple of them.

1. The digest is the SHA-256 of the JSON form without names: tensors stand in it by their own digests, so what has one
   digest does the same. Equality is by digest.
2. `parse(str(x), vectors=store) == x` and `from_json(x.to_json(), store) == x`, gates included; see `spec` and `store`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import plain

if TYPE_CHECKING:
    from steerkit.interventions.gate import Gate

Json = Mapping[str, Any]
BARE = re.compile(r"[\w./~()*:-]+")


class Tensors(Protocol):
    """A vector or a probe, as an intervention refers to it."""

    @property
    def name(self) -> str:
        """Its own name."""

    @property
    def digest(self) -> str:
        """SHA-256 of its contents."""


Names = Callable[[Tensors], str]  # how a spec string refers to a vector or a probe


class Intervention(ABC):
    """Something done to a row: the base of `Steering`, `PromptEdit` and every `LogitRule`."""

    kind: ClassVar[str]
    gate: Gate | None

    @property
    @abstractmethod
    def label(self) -> str:
        """A short name for tables: what acts, whatever its amount."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; vectors and probes stand in it as `{"name", "sha256"}`."""

    @abstractmethod
    def spec(self, names: Names) -> str:
        """Return the canonical spec string, in which `names` says how vectors and probes are called."""

    @property
    def acts(self) -> bool:
        """Whether it does anything at all: a steering of strength 0 does not."""
        return True

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The vectors and probes that it needs, its gate's last."""
        return () if self.gate is None else self.gate.tensors

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over all that decides what it does, the contents of vectors and probes included."""
        return hashlib.sha256(json.dumps(without_names(self.to_json())).encode()).hexdigest()

    @functools.cached_property
    def open(self) -> Self:
        """The same without its gate: what it does to a row for which the gate fires."""
        return self if self.gate is None else replace(self, gate=None)  # type: ignore[type-var]  # all are dataclasses

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervention) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __str__(self) -> str:
        """The canonical spec string; a vector stands in it by name, or by digest where the name is not enough."""
        digests: dict[tuple[type, str], set[str]] = {}
        for part in self.tensors:
            digests.setdefault((type(part), part.name), set()).add(part.digest)
        return self.spec(lambda part: reference(part, len(digests[type(part), part.name]) == 1))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


def reference(part: Tensors, unambiguous: bool = True) -> str:
    """How a spec string names a vector or probe: by its name, or by digest where that is missing or ambiguous."""
    return part.name if part.name and unambiguous else f"sha256:{part.digest}"


def json_reference(part: Tensors) -> dict[str, str]:
    """How a JSON form names a vector or probe."""
    return {"name": part.name, "sha256": part.digest}


def without_names(value: Any) -> Any:
    """A JSON form without the names in it, keys sorted: what a digest is taken of."""
    if isinstance(value, Mapping):
        return {key: without_names(value[key]) for key in sorted(value) if key != "name"}
    if isinstance(value, list | tuple):
        return [without_names(part) for part in value]
    return value


def written(value: object) -> str:
    """A value as a spec string holds it: numbers as short as they read back, texts quoted unless they are plain."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return shortest(value)
    if isinstance(value, list | tuple):
        return "+".join(map(written, value))
    return quoted(str(value))


def written_text(text: str) -> str:
    """A text in a spec string, in quotes whatever it is."""
    return json.dumps(text, ensure_ascii=False)


def quoted(text: str) -> str:
    """A name in a spec string, in quotes where it holds what the grammar gives a meaning."""
    return text if BARE.fullmatch(text) else written_text(text)


def spec_of(head: str, fields: Sequence[tuple[str, str]]) -> str:
    """`HEAD@key=value,…`, or the head alone."""
    return f"{head}@{','.join(f'{key}={value}' for key, value in fields)}" if fields else head


def shortest(value: float) -> str:
    """The shortest text that reads back as exactly this number, whole numbers without a point."""
    return repr(float(value)).removesuffix(".0")


def check_probability(given: Any) -> float:
    """Return a gate's threshold as a float. Raises MisuseError unless it lies between 0 and 1, both excluded."""
    value = plain(given)
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise MisuseError(f"a gate's threshold is a probability between 0 and 1, got {given!r}")
    return float(value)


def log_odds_of(probability: float) -> float:
    """Return log(p / (1 - p)). Raises MisuseError unless p lies between 0 and 1, both excluded."""
    probability = check_probability(probability)
    return math.log(probability) - math.log1p(-probability)


def probability_of(log_odds: float) -> float:
    """Return the probability at these log-odds."""
    return 1 / (1 + math.exp(-log_odds)) if log_odds >= 0 else 1 - 1 / (1 + math.exp(log_odds))


@functools.cache
def preset_forms() -> dict[str, dict[str, Any]]:
    """Return the fields of the package's named interventions, prompt edits and opener biases, by name."""
    text = (resources.files("steerkit") / "data" / "presets.json").read_text(encoding="utf-8")
    forms: dict[str, dict[str, Any]] = json.loads(text)
    return forms


def as_interventions(given: Any) -> tuple[Intervention, ...]:
    """Return the interventions that are given, one or several; None for none.

    Raises MisuseError, saying what to write, for anything else: a vector without a layer, a spec string.
    """
    if given is None:
        return ()
    lone = isinstance(given, Intervention | str) or hasattr(given, "at") or not isinstance(given, Iterable)
    several = (given,) if lone else tuple(given)
    for each in several:
        if not isinstance(each, Intervention):
            raise MisuseError(refusal_of(each))
    return several


def refusal_of(given: object) -> str:
    """Return what to write in the place of something that is no intervention."""
    if hasattr(given, "at"):
        return "a vector says where and how strongly it steers: write vector.at(layer=…, strength=…)"
    if isinstance(given, str):
        return f"{given!r} is a text: write sk.parse({given!r}) for the intervention that a spec string names"
    if isinstance(given, Sequence):
        each = ", and each vector as vector.at(layer=…)" if any(hasattr(one, "at") for one in given) else ""
        return f"a {type(given).__name__} of {len(given)} is given where one is taken: write *[…]{each}"
    return f"an intervention is a steering, a prompt edit or a rule on logits, got {type(given).__name__}"
