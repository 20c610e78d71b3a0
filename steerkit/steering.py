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
from dataclasses import dataclass
from typing import Literal, get_args

from steerkit.errors import MisuseError
from steerkit.vector import SteeringVector

Operation = Literal["add", "ablate", "clamp", "rotate"]
Scope = Literal["completion", "prompt", "all", "thinking", "answer"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, eq=False)
class Gate:
    """Steer a position only where its state's component along `vector` (unit length) exceeds `threshold`.

    The component is read at the steered layer, before the edit.
    """

    vector: SteeringVector
    threshold: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise MisuseError(f"a gate's threshold is a finite number, got {self.threshold}")


@dataclass(frozen=True, eq=False)
class Steering:
    """One vector applied at `layers`, each with the full strength.

    `scope` says at which positions: `completion`, those from whose output a completion token is sampled (the
    last prompt token and every completion token but the last); `prompt`, every earlier prompt position; `all`,
    both; `thinking`, completion positions while a thinking block is open; `answer`, the other completion
    positions. Padding is never steered.
    """

    vector: SteeringVector
    layers: tuple[int, ...]
    strength: float = 1.0
    operation: Operation = "add"
    scope: Scope = "completion"
    target: float | None = None
    gate: Gate | None = None

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
        if not self.layers:
            raise MisuseError("a steering needs at least one layer (layer=…)")
        for layer in self.layers:
            if not 0 <= layer < self.vector.n_layers:
                raise MisuseError(
                    f"layer {layer} is out of range: {self.vector.metadata.model} has layers 0 to "
                    f"{self.vector.n_layers - 1}"
                )
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))

    @property
    def vectors(self) -> tuple[SteeringVector, ...]:
        """Every vector that this steering reads or adds: its own, and its gate's."""
        return (self.vector,) if self.gate is None else (self.vector, self.gate.vector)

    def spec(self) -> str:
        """The canonical spec string; two steerings of one vector act alike if and only if these are equal."""
        fields = [f"layer={'+'.join(map(str, self.layers))}", f"strength={_shortest(self.strength)}"]
        if self.operation != "add":
            fields.append(f"operation={self.operation}")
        if self.target is not None:
            fields.append(f"target={_shortest(self.target)}")
        fields.append(f"scope={self.scope}")
        if self.gate is not None:
            fields += [f"gate={self.gate.vector.name}", f"threshold={_shortest(self.gate.threshold)}"]
        return f"{self.vector.name}@{','.join(fields)}"

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over all that decides what this steering does, the vectors' contents included."""
        gate = None if self.gate is None else [self.gate.vector.digest, float(self.gate.threshold).hex()]
        content = [
            self.vector.digest,
            list(self.layers),
            float(self.strength).hex(),
            self.operation,
            self.scope,
            None if self.target is None else float(self.target).hex(),
            gate,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _shortest(value: float) -> str:
    """The shortest text that reads back as exactly this number, whole numbers without a point."""
    return repr(float(value)).removesuffix(".0")
