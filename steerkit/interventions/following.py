"""Strengths that follow a reader of the same row: what a steering's strength is multiplied by, position by position.

`StrengthRamp`     from `least` at the reading `low` to `most` at `high`, and no further on either side
`StrengthSwitch`   nothing until the reading reaches `on`, all of the strength until it passes `off` (hysteresis)

    vector.at(14, 2.0, follows=StrengthRamp(ProbeReader(probe), low=0.2, high=0.8))
    abstain@layer=14,strength=2,follows=doubt,follows_as=probe,low=0.2,high=0.8

1. The reader reads each position of the completion before that position is edited, at a place that comes before the
   edit or is it; a reading of logits is that of the position's token. Where nothing is read yet the factor is 0: no
   reading of logits is taken of the prompt.
2. `renewed` says when the reading is looked at again: at `every` position, or where one of the `lines` or steps
   (`boundaries`, ended by an empty line) begins; until then the last one holds.
3. The factor may be negative: `least=-1` steers the other way at `low`. So a ramp over a step's confidence decides size
   and sign of one vector, as in ReBalance (arXiv 2603.12372).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from numpy import float32

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_number
from steerkit.interventions.base import Names, shortest
from steerkit.interventions.readers import Reader, as_readers

Renewed = Literal["every", "lines", "boundaries"]
RENEWED = ("every", "lines", "boundaries")
MOST = 1e30  # what float32, in which readings are followed, holds with room for a product


@dataclass(frozen=True)
class Following(ABC):
    """The base of both; see the module's contract."""

    reader: Reader
    renewed: Renewed = field(default="every", kw_only=True)

    kind: ClassVar[str]
    numbers: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        (reader,) = as_readers(self.reader)
        object.__setattr__(self, "reader", reader)
        if self.renewed not in RENEWED:
            raise MisuseError(f"renewed is one of {', '.join(RENEWED)}, got {self.renewed!r}")
        for name in self.numbers:
            value = check_number(name, getattr(self, name))
            if abs(value) > MOST:
                raise MisuseError(f"{name} lies between -{MOST:g} and {MOST:g}, got {value:g}")
            object.__setattr__(self, name, value)
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise MisuseError for numbers that mean nothing together."""

    @property
    def keeps_state(self) -> bool:
        """Whether a position's factor depends on the positions before it."""
        return self.renewed != "every"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        numbers = {name: getattr(self, name) for name in self.numbers}
        return {"kind": self.kind, "reader": self.reader.to_json(), "renewed": self.renewed, **numbers}

    def fields(self, names: Names) -> list[tuple[str, str]]:
        """Return its part of a spec string, as keys and values."""
        defaults = {each.name: each.default for each in self.__dataclass_fields__.values()}
        numbers = [
            (name, shortest(getattr(self, name)))
            for name in self.numbers
            if getattr(self, name) != defaults[name]
        ]
        renewed = [("renewed", self.renewed)] * (self.renewed != "every")
        return [*self.reader.fields("follows", names), *numbers, *renewed]


@dataclass(frozen=True)
class StrengthRamp(Following):
    """Take the strength `least` times at the reading `low`, `most` times at `high`, in proportion between the two.

    `low` lies below `high`; with `least` above `most` the strength falls as the reading rises.
    """

    low: float
    high: float
    least: float = 0.0
    most: float = 1.0

    kind: ClassVar[str] = "ramp"
    numbers: ClassVar[tuple[str, ...]] = ("low", "high", "least", "most")

    def check(self) -> None:
        """Raise MisuseError where the ramp has no width."""
        if float32(self.low) >= float32(self.high):
            raise MisuseError(f"a ramp leads from low to a high above it, got {self.low:g} and {self.high:g}")


@dataclass(frozen=True)
class StrengthSwitch(Following):
    """Steer from a reading of `on` until one passes `off`, and then not until one reaches `on` again.

    `off` lies below `on`, or above it for a switch that goes on where the reading falls; equal, there is no hysteresis.
    """

    on: float
    off: float

    kind: ClassVar[str] = "switch"
    numbers: ClassVar[tuple[str, ...]] = ("on", "off")

    def check(self) -> None:
        """Accept any two numbers."""

    @property
    def keeps_state(self) -> bool:
        """Whether a position's factor depends on the positions before it: between on and off it does."""
        return True

    @property
    def rises(self) -> bool:
        """Whether a higher reading switches on."""
        return self.on >= self.off


FOLLOWINGS: Mapping[str, type[Following]] = {each.kind: each for each in (StrengthRamp, StrengthSwitch)}


def as_following(given: Any) -> Following | None:
    """Return a strength's function of a reader, or None for none. Raises MisuseError for anything else."""
    if given is None or isinstance(given, Following):
        return given
    raise MisuseError(
        f"a strength follows StrengthRamp(reader, low, high) or StrengthSwitch(reader, on, off), got "
        f"{type(given).__name__}"
    )
