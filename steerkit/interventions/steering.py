"""Steering: a vector at layers, with a strength, an operation, a scope and a gate, as frozen data.

Nothing here touches a model. With û = v/||v|| and p = û·h, the operations are
    add     h + strength · v
    ablate  h - strength · p · û
    clamp   h + strength · (target - p) · û
    rotate  h turned by the fraction `strength` of its angle to û, its norm kept
and strength 0 is the identity for each.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from steerkit.core.errors import MisuseError
from steerkit.interventions.probe import Probe, log_odds_of
from steerkit.interventions.vector import SteeringVector

Operation = Literal["add", "ablate", "clamp", "rotate"]
Scope = Literal["completion", "prompt", "all", "thinking", "answer"]
Positions = Literal["boundaries", "lines", "every"]  # from few to all
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
SCOPES: tuple[Scope, ...] = get_args(Scope)
POSITIONS: tuple[Positions, ...] = get_args(Positions)
COMPLETION_SCOPES = ("completion", "thinking", "answer")


@dataclass(frozen=True, eq=False)
class Gate:
    """Steer a position only where its state's component along `vector` (unit length) exceeds `threshold`.

    The component is read at the steered layer, before the edit: position by position, where a `ProbeGate`
    decides once per row.
    """

    vector: SteeringVector
    threshold: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise MisuseError(f"a gate's threshold is a finite number, got {self.threshold}")

    @property
    def fields(self) -> list[str]:
        """The gate's part of a canonical spec string."""
        return [f"gate={self.vector.name}", f"threshold={shortest(self.threshold)}"]

    @property
    def content(self) -> list[object]:
        """What the gate adds to a digest."""
        return [self.vector.digest, float(self.threshold).hex()]


@dataclass(frozen=True, eq=False)
class ProbeGate:
    """Act on a row only where `probe` reads at least the probability `threshold` from its prompt.

    The state read is the unsteered one at the last prompt token, output of block `layer`, once per row; layer
    and threshold default to the probe's own. A row for which the gate stays shut is the unsteered row.
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
        log_odds_of(self.threshold)  # refuses what is no probability
        if not 0 <= self.layer < self.probe.n_layers:
            raise MisuseError(
                f"probe {self.probe.name!r} reads layers 0 to {self.probe.n_layers - 1}, not {self.layer}"
            )

    def fires(self, logit: float) -> bool:
        """Whether the gate opens at these log-odds."""
        return logit >= log_odds_of(self.threshold)

    @property
    def fields(self) -> list[str]:
        """The gate's part of a canonical spec string."""
        return [f"gate={self.probe.name}/{self.layer}", f"threshold={shortest(self.threshold)}"]

    @property
    def content(self) -> list[object]:
        """What the gate adds to a digest."""
        return [self.probe.digest, self.layer, float(self.threshold).hex()]


@dataclass(frozen=True, eq=False)
class Steering:
    """One vector applied at `layers`, each with the full strength.

    `scope` says at which positions: `completion`, those from whose output a completion token is sampled (the
    last prompt token and every completion token but the last); `prompt`, every earlier prompt position; `all`,
    both; `thinking`, completion positions while a thinking block is open; `answer`, the other completion
    positions. Padding is never steered.

    `positions` narrows a scope of the completion down to `boundaries`, the positions where a step ends: the text
    read so far ends in an empty line (two newlines, in one token or two), as in SEAL (arXiv 2504.07986); or to
    `lines`, where it ends in a newline, for models whose steps are lines. With a
    `half_life` of H tokens the strength at the position from whose output completion token i is sampled, counted
    from 0, is `strength` · 2^(-i / H); None: it stays the same.
    """

    vector: SteeringVector
    layers: tuple[int, ...]
    strength: float = 1.0
    operation: Operation = "add"
    scope: Scope = "completion"
    target: float | None = None
    gate: Gate | ProbeGate | None = None
    half_life: float | None = None
    positions: Positions = "every"

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise MisuseError(f"operation is one of {', '.join(OPERATIONS)}, got {self.operation!r}")
        if self.scope not in SCOPES:
            raise MisuseError(f"scope is one of {', '.join(SCOPES)}, got {self.scope!r}")
        if not math.isfinite(self.strength):
            raise MisuseError(f"strength is a finite number, got {self.strength}")
        if (self.operation == "clamp") != (self.target is not None):
            raise MisuseError("operation 'clamp' needs a target (target=…), and only it takes one")
        if self.target is not None and not math.isfinite(self.target):
            raise MisuseError(f"target is a finite number, got {self.target}")
        if self.positions not in POSITIONS:
            raise MisuseError(f"positions is one of {', '.join(POSITIONS)}, got {self.positions!r}")
        if self.half_life is not None and not 0 < self.half_life < math.inf:
            raise MisuseError(f"half_life is a positive number of tokens, got {self.half_life}")
        for field, given in (
            ("half_life", self.half_life is not None),
            ("positions", self.positions != "every"),
        ):
            if given and self.scope not in COMPLETION_SCOPES:
                raise MisuseError(
                    f"{field} is about the completion, and scope {self.scope!r} holds the prompt: give scope "
                    f"{', '.join(COMPLETION_SCOPES[:-1])} or {COMPLETION_SCOPES[-1]}"
                )
        if not self.layers:
            raise MisuseError("a steering needs at least one layer (layer=…)")
        for layer in self.layers:
            if not 0 <= layer < self.vector.n_layers:
                raise MisuseError(
                    f"layer {layer} is out of range: {self.vector.metadata.model} has layers 0 to "
                    f"{self.vector.n_layers - 1}"
                )
            if self.vector.metadata.scaling == "trained" and not self.vector.direction[layer].any():
                trained = self.vector.direction.any(dim=1).nonzero().flatten().tolist()
                raise MisuseError(
                    f"{self.vector.name!r} has no direction at layer {layer}: it was trained at {trained}"
                )
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))

    @property
    def vectors(self) -> tuple[SteeringVector, ...]:
        """Every vector that this steering reads or adds: its own, and its gate's."""
        return (self.vector, self.gate.vector) if isinstance(self.gate, Gate) else (self.vector,)

    @functools.cached_property
    def open(self) -> Steering:
        """This steering without its gate: what it does to a row for which the gate fires."""
        return replace(self, gate=None)

    def spec(self) -> str:
        """The canonical spec string; two steerings of one vector act alike if and only if these are equal."""
        fields = [f"layer={'+'.join(map(str, self.layers))}", f"strength={shortest(self.strength)}"]
        if self.operation != "add":
            fields.append(f"operation={self.operation}")
        if self.target is not None:
            fields.append(f"target={shortest(self.target)}")
        fields.append(f"scope={self.scope}")
        if self.half_life is not None:
            fields.append(f"half_life={shortest(self.half_life)}")
        if self.positions != "every":
            fields.append(f"positions={self.positions}")
        if self.gate is not None:
            fields += self.gate.fields
        return f"{self.vector.name}@{','.join(fields)}"

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over all that decides what this steering does, the vectors' contents included."""
        content: list[object] = [
            self.vector.digest,
            list(self.layers),
            float(self.strength).hex(),
            self.operation,
            self.scope,
            None if self.target is None else float(self.target).hex(),
            None if self.gate is None else self.gate.content,
        ]
        # Only where given: what acts as before these fields were there keeps its digest.
        if self.half_life is not None:
            content.append({"half_life": float(self.half_life).hex()})
        if self.positions != "every":
            content.append({"positions": self.positions})
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def shortest(value: float) -> str:
    """The shortest text that reads back as exactly this number, whole numbers without a point."""
    return repr(float(value)).removesuffix(".0")
