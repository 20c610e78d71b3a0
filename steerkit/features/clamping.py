"""A feature held at an activation, as a steering."""

from __future__ import annotations

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_number
from steerkit.interventions.following import StrengthRamp
from steerkit.interventions.gate import Gate
from steerkit.interventions.readers import FeatureReader
from steerkit.interventions.steering import Scope, Steering
from steerkit.interventions.vector import SteeringVector

# Activations up to here are brought to the target exactly; a power of two, by which dividing rounds nothing.
HIGHEST = 2.0**16


def clamp_feature(
    feature: SteeringVector, activation: float, *, scope: Scope = "completion", gate: Gate | None = None
) -> Steering:
    """Return the steering that holds a feature at an activation, 0 to silence it: h + (activation - a(h)) · d.

    `feature` is what `Autoencoder.feature` gives, a(h) its activation in the state as it comes, d its decoder row. That
    is its own row at a strength which follows its own reader, along a ramp of slope -1, so it composes, is written
    as a spec string and runs wherever such a steering does. In the completion alone, as nothing is followed before.
    Raises MisuseError for a vector that is no feature, and for an activation below 0.
    """
    activation = check_number("an activation", activation)
    if activation < 0:
        raise MisuseError(f"a feature's activation is never below 0, got {activation:g}")
    if feature.probe is None:
        raise MisuseError(
            f"vector {feature.name!r} brings no encoder, so its activation is not known: take Autoencoder.feature"
        )
    reader = FeatureReader(feature.probe)
    ramp = StrengthRamp(reader, low=0.0, high=HIGHEST, least=activation, most=activation - HIGHEST)
    return feature.at(reader.layer, 1.0, scope=scope, follows=ramp, gate=gate)
