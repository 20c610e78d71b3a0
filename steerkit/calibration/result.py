"""What a calibration found: the strength at each layer, and the curve it was read from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from steerkit.calibration.tokens import Statistic, TokenStatistics
from steerkit.core.errors import MisuseError
from steerkit.interventions.steering import Steering
from steerkit.interventions.vector import CalibrationRecord, SteeringVector

MONOTONE = 0.01  # a fall by less than this share is taken for rounding


@dataclass(frozen=True, slots=True)
class MeasuredKL:
    """The divergence at one strength, with the strength's relative dose (None where the vector has no ||h||)."""

    strength: float
    kl: TokenStatistics
    relative_dose: float | None


@dataclass(frozen=True, slots=True)
class LayerCalibration:
    """One layer. `strength` is None, and `reason` says why, where the target was not met.

    `at_strength` is the divergence there on the unsteered roll-out, `rollout` that on the steered model's own
    greedy roll-out. `curve` holds every strength that was measured, weakest first; `monotone` says whether the
    divergence grows all along it.
    """

    layer: int
    strength: float | None
    reason: str | None
    at_strength: MeasuredKL | None
    rollout: MeasuredKL | None
    curve: tuple[MeasuredKL, ...]
    monotone: bool


@dataclass(frozen=True, repr=False)
class Calibration:
    """The strengths at which a steering's divergence meets a target, layer by layer.

    `tokens` is the longest roll-out, `completion_tokens` how many tokens were measured in all, `prompts_digest`
    the SHA-256 of the rendered prompts. `largest` bounds the strengths that were tried.
    """

    steering: Steering
    model: str
    target_kl: float
    statistic: Statistic
    tolerance: float
    largest: float
    tokens: int
    prompts: int
    completion_tokens: int
    prompts_digest: str
    layers: tuple[LayerCalibration, ...]

    def __iter__(self) -> Iterator[LayerCalibration]:
        return iter(self.layers)

    def __repr__(self) -> str:
        found = ", ".join(f"layer {layer}: {strength:.4g}" for layer, strength in self.strengths.items())
        return f"Calibration({self.steering.vector.name!r}, KL {self.target_kl:g}; {found or 'not met'})"

    @property
    def strengths(self) -> dict[int, float]:
        """The calibrated strength of every layer that met the target."""
        return {found.layer: found.strength for found in self.layers if found.strength is not None}

    @property
    def vector(self) -> SteeringVector:
        """The vector with these strengths on record, in place of those for the same target there."""
        new = self.records()
        asked = {record.asked for record in new}
        kept = [r for r in self.steering.vector.metadata.calibration or () if r.asked not in asked]
        return self.steering.vector.with_calibration([*kept, *new])

    def at(self, layer: int) -> Steering:
        """Return the steering at one layer with its calibrated strength. Raises MisuseError where there is none."""
        found = next((found for found in self.layers if found.layer == layer), None)
        if found is None or found.strength is None:
            why = "it was not among the layers" if found is None else found.reason
            raise MisuseError(f"layer {layer} has no calibrated strength: {why}")
        return replace(self.steering, layers=(layer,), strength=found.strength)

    def records(self) -> list[CalibrationRecord]:
        """Return a record for every layer that met the target, for the vector's metadata."""
        return [
            CalibrationRecord(
                layer=found.layer,
                strength=found.at_strength.strength,
                operation=self.steering.operation,
                scope=self.steering.scope,
                target=self.steering.target,
                half_life=self.steering.half_life,
                positions=self.steering.positions,
                statistic=self.statistic,
                target_kl=self.target_kl,
                measured_kl=found.at_strength.kl.value(self.statistic),
                interval=found.at_strength.kl.interval(self.statistic),
                rollout_kl=found.rollout.kl.value(self.statistic) if found.rollout else None,
                tokens=self.tokens,
                prompts=self.prompts,
                prompts_digest=self.prompts_digest,
            )
            for found in self.layers
            if found.at_strength is not None
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        layers = [asdict(found) for found in self.layers]
        return plain | {"steering": self.steering.to_json(), "layers": layers}

    def notes(self) -> list[str]:
        """Return what a reader must know beside the numbers: layers without a strength, and bumps."""
        lines = []
        for found in self.layers:
            if found.reason is not None:
                lines.append(f"layer {found.layer}: {found.reason}")
            if not found.monotone:
                lines.append(
                    f"layer {found.layer}: the KL falls somewhere as the strength grows; the first crossing is shown"
                )
        return lines


def is_monotone(curve: tuple[MeasuredKL, ...], statistic: Statistic) -> bool:
    """Return whether the divergence never falls as the strength grows, rounding apart."""
    values = [point.kl.value(statistic) for point in curve]
    return all(b >= a * (1 - MONOTONE) for a, b in itertools.pairwise(values))
