"""What a calibration found: the strength at each layer, the curve it was read from, and the formulas beside it."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from steerkit.calibration.closed_forms import ClosedForms, Statistic
from steerkit.calibration.tokens import TokenStatistics
from steerkit.core.errors import MisuseError
from steerkit.interventions.steering import Scope, Steering
from steerkit.interventions.vector import CalibrationRecord, SteeringVector

FORMULAS = ("published", "exact", "fisher")
USABLE = 2.0  # a formula is called usable where the KL at its strength is within this factor of the target
MONOTONE = 0.01  # a fall by less than this share is taken for rounding


@dataclass(frozen=True, slots=True)
class MeasuredKL:
    """The divergence at one strength, with the strength's relative dose (None where the vector has no ||h||)."""

    strength: float
    kl: TokenStatistics
    relative_dose: float | None


@dataclass(frozen=True)
class LayerCalibration:
    """One layer. `strength` is None, and `reason` says why, where the target was not met.

    `at_strength` is the divergence there on the unsteered roll-out, `rollout` that on the steered model's own
    greedy roll-out. `curve` holds every strength that was measured, weakest first; `monotone` says whether the
    divergence grows all along it. `published`, `exact` and `fisher` are the divergence at what the formulas
    give, None where there is no such strength up to the largest; `forms` is None, and `forms_reason` says why,
    where the formulas do not describe what is done.
    """

    layer: int
    strength: float | None
    reason: str | None
    at_strength: MeasuredKL | None
    rollout: MeasuredKL | None
    curve: tuple[MeasuredKL, ...]
    monotone: bool
    forms: ClosedForms | None
    forms_reason: str | None
    published: MeasuredKL | None = None
    exact: MeasuredKL | None = None
    fisher: MeasuredKL | None = None


@dataclass(frozen=True)
class Calibration:
    """The strengths at which one vector's divergence meets a target, layer by layer.

    `tokens` is the longest roll-out, `completion_tokens` how many tokens were measured in all, `prompts_digest`
    the SHA-256 of the rendered prompts. `largest` bounds the strengths that were tried.
    """

    vector: SteeringVector
    model: str
    target_kl: float
    statistic: Statistic
    operation: str
    scope: Scope
    target: float | None
    tolerance: float
    largest: float
    tokens: int
    prompts: int
    completion_tokens: int
    prompts_digest: str
    layers: tuple[LayerCalibration, ...]

    def __iter__(self) -> Iterator[LayerCalibration]:
        return iter(self.layers)

    @property
    def strengths(self) -> dict[int, float]:
        """The calibrated strength of every layer that met the target."""
        return {found.layer: found.strength for found in self.layers if found.strength is not None}

    def steering(self, layer: int) -> Steering:
        """The vector at one layer with its calibrated strength. Raises MisuseError where there is none."""
        found = next((found for found in self.layers if found.layer == layer), None)
        if found is None or found.strength is None:
            why = "it was not among the layers" if found is None else found.reason
            raise MisuseError(f"layer {layer} has no calibrated strength: {why}")
        return self.vector.at(
            layer, found.strength, scope=self.scope, operation=self.operation, target=self.target
        )

    def records(self) -> list[CalibrationRecord]:
        """A record for every layer that met the target, for the vector's metadata."""
        return [
            CalibrationRecord(
                layer=found.layer,
                strength=found.strength,
                operation=self.operation,
                scope=self.scope,
                target=self.target,
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
            if found.strength is not None and found.at_strength is not None
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data for JSON; a formula's infinite strength becomes null."""
        own = {
            name: getattr(self, name)
            for name in (
                "model", "target_kl", "statistic", "operation", "scope", "target", "tolerance", "largest", "tokens",
                "prompts", "completion_tokens", "prompts_digest",
            )
        }  # fmt: skip
        head = {"vector": self.vector.name, "vector_digest": self.vector.digest, **own}
        return head | {"layers": [_finite(asdict(found)) for found in self.layers]}

    def notes(self) -> list[str]:
        """What a reader must know beside the numbers: layers without a strength, bumps, and which formula to trust.

        A formula is judged by the median over layers of the KL measured at its strength, against the target.
        """
        lines = []
        for found in self.layers:
            if found.reason is not None:
                lines.append(f"layer {found.layer}: {found.reason}")
            if not found.monotone:
                lines.append(
                    f"layer {found.layer}: the KL falls somewhere as the strength grows; the first crossing is shown"
                )
        lines += sorted(
            {f"no closed forms: {found.forms_reason}" for found in self.layers if found.forms_reason}
        )
        for formula in FORMULAS:
            points = [point for found in self.layers if (point := getattr(found, formula)) is not None]
            if points:
                ratio = statistics.median(point.kl.value(self.statistic) for point in points) / self.target_kl
                lines.append(f"{formula}: {_verdict(ratio)}")
        return lines


def _verdict(ratio: float) -> str:
    measured = f"the KL measured there is {ratio:.3g} times the target"
    if ratio > USABLE:
        return f"{measured}: too strong, trust the measured strength"
    if ratio < 1 / USABLE:
        return f"{measured}: a bound that holds but says little, trust the measured strength"
    return f"{measured}: a usable estimate"


def is_monotone(curve: tuple[MeasuredKL, ...], statistic: Statistic) -> bool:
    """Whether the divergence never falls as the strength grows, rounding apart."""
    values = [point.kl.value(statistic) for point in curve]
    return all(b >= a * (1 - MONOTONE) for a, b in itertools.pairwise(values))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
