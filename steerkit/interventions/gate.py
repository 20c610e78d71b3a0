"""Gates: what decides whether an intervention acts, row by row or position by position.

A row gate is read once, before the row exists, from the unsteered and unedited prompt; where it stays shut the
intervention is not there. It asks a *detector*, which maps a prompt to a probability: a probe at a layer (`ProbeGate`)
or a registered one (`DetectorGate`). A position gate reads the state at each position before the edit.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_number, check_whole
from steerkit.core.registry import GATES
from steerkit.interventions.base import (
    Names,
    check_probability,
    json_reference,
    log_odds_of,
    quoted,
    shortest,
    written_text,
)

if TYPE_CHECKING:
    from steerkit.interventions.probe import Probe
    from steerkit.interventions.vector import SteeringVector


class Gate(ABC):
    """The base of all gates."""

    threshold: float

    @property
    @abstractmethod
    def name(self) -> str:
        """What is read, for tables and records."""

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The vectors and probes that it needs."""
        return ()

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""

    @abstractmethod
    def fields(self, names: Names) -> list[tuple[str, str]]:
        """Return its part of a spec string, as keys and values."""


class RowGate(Gate):
    """A gate that decides once per row: it fires from the probability `threshold` on."""

    def fires(self, log_odds: float) -> bool:
        """Whether the gate opens at these log-odds; compared there, where nothing saturates."""
        return log_odds >= log_odds_of(self.threshold)


@dataclass(frozen=True)
class ProbeGate(RowGate):
    """Act on a row only where `probe` reads at least the probability `threshold` from its prompt.

    The state read is the unsteered one at the last prompt token, at the probe's site of block `layer`; layer and
    threshold default to the probe's own. On kinds of question where the probe was found to be a coin the gate stays
    shut, whatever the threshold, and reads the probability 0 (`Probe.opening`).
    """

    probe: Probe
    layer: int = -1
    threshold: float = -1.0

    def __post_init__(self) -> None:
        metadata = self.probe.metadata
        if self.layer == -1:
            own = metadata.thresholds[0].layer if metadata.thresholds else metadata.layer
            object.__setattr__(self, "layer", own)
        if self.threshold == -1.0:
            object.__setattr__(self, "threshold", metadata.threshold)
        object.__setattr__(self, "layer", check_whole("a gate's layer", self.layer))
        object.__setattr__(self, "threshold", check_probability(self.threshold))
        self.probe.check_gate_layer(self.layer)

    @property
    def name(self) -> str:
        """The probe's name."""
        return self.probe.name

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The probe."""
        return (self.probe,)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "kind": "probe",
            "probe": json_reference(self.probe),
            "layer": self.layer,
            "threshold": self.threshold,
        }

    def fields(self, names: Names) -> list[tuple[str, str]]:
        """Return its part of a spec string."""
        name = names(self.probe)
        written = written_text(name) if name in GATES else quoted(name)
        return [("gate", written), ("gate_layer", str(self.layer)), ("threshold", shortest(self.threshold))]


@dataclass(frozen=True)
class DetectorGate(RowGate):
    """Act on a row only where a registered detector gives its prompt at least the probability `threshold`."""

    detector: str
    threshold: float = 0.5

    def __post_init__(self) -> None:
        GATES[self.detector]  # refuses an unknown name
        object.__setattr__(self, "threshold", check_probability(self.threshold))

    @property
    def name(self) -> str:
        """The detector's name."""
        return self.detector

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": "detector", "detector": self.detector, "threshold": self.threshold}

    def fields(self, names: Names) -> list[tuple[str, str]]:
        """Return its part of a spec string."""
        del names
        return [("gate", self.detector), ("threshold", shortest(self.threshold))]


@dataclass(frozen=True)
class PositionGate(Gate):
    """Steer a position only where its state's component along `vector` (unit length) exceeds `threshold`.

    The component is read at the steered layer and site, before the edit; the vector is of the same site.
    """

    vector: SteeringVector
    threshold: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", check_number("a gate's threshold", self.threshold))

    @property
    def name(self) -> str:
        """The vector's name."""
        return self.vector.name

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The vector."""
        return (self.vector,)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": "position", "vector": json_reference(self.vector), "threshold": self.threshold}

    def fields(self, names: Names) -> list[tuple[str, str]]:
        """Return its part of a spec string."""
        return [("along", quoted(names(self.vector))), ("threshold", shortest(self.threshold))]


def as_gate(given: Any) -> Gate | None:
    """Return a gate: the one given, that of a probe at its own layer and threshold, or of a registered detector.

    Raises MisuseError for anything else.
    """
    if given is None or isinstance(given, Gate):
        return given
    if hasattr(given, "logit"):  # a probe, whose module is heavy
        return ProbeGate(given)
    name = given if isinstance(given, str) else next((n for n, each in GATES.items() if each is given), None)
    if name in GATES:
        return DetectorGate(str(name))
    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
        raise MisuseError(
            f"there is no gate {path!r}; there are {', '.join(GATES)}; for a probe's file write sk.load_probe({path!r})"
        )
    positions = "; for a vector write PositionGate(vector, threshold)" if hasattr(given, "at") else ""
    raise MisuseError(
        f"a gate is a gate, a probe, or a registered detector or its name, got {type(given).__name__}{positions}"
    )
