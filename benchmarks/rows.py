"""A row of the result: what was compared, what came out, and what was aimed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.measure import Spread


@dataclass(frozen=True)
class Target:
    """What a value should be at most, or at least."""

    kind: Literal["at most", "at least"]
    bound: float

    def met(self, value: float) -> bool:
        """Whether the value keeps to it."""
        return value <= self.bound if self.kind == "at most" else value >= self.bound


@dataclass(frozen=True)
class Row:
    """One comparison. `value` is None where it could not be measured; then `note` says why.

    `low` and `high` are the quartiles over the turns, `seconds` all the times that the value comes from.
    """

    what: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = "×"
    target: Target | None = None
    note: str = ""
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, what: str, values: Sequence[float], **more: Any) -> Row:
        """The row of a list of values, one a turn."""
        spread = Spread.of(values)
        return cls(what, spread.median, spread.low, spread.high, **more)

    @property
    def turns(self) -> int | None:
        """How many turns the median is of, where the times are kept."""
        return max(map(len, self.seconds.values()), default=None)

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing where there is no target or no value."""
        if self.target is None or self.value is None:
            return ""
        return "met" if self.target.met(self.value) else "missed"

    def as_dict(self) -> dict[str, Any]:
        """The row for the results file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Row:
        """The row that `as_dict` wrote."""
        target = Target(**stored["target"]) if stored["target"] else None
        return cls(**{**stored, "target": target})


@dataclass(frozen=True)
class Part:
    """The rows of one part, and the environment in which they were measured."""

    environment: Mapping[str, Any]
    rows: Sequence[Row]


def at_most(bound: float) -> Target:
    """The target of a cost."""
    return Target("at most", bound)


def at_least(bound: float) -> Target:
    """The target of a gain."""
    return Target("at least", bound)
