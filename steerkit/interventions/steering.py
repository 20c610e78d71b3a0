"""Steering: a vector at layers, with a strength, an operation, a scope and a gate, as frozen data.

Nothing here touches a model. What the operations do is said in `operations`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_number, check_several, plain
from steerkit.core.registry import OPERATIONS
from steerkit.core.sites import RESID_POST, Place, SiteName
from steerkit.interventions.base import Intervention, Names, json_reference, shortest, spec_of
from steerkit.interventions.following import Following, as_following
from steerkit.interventions.gate import Gate, as_gate
from steerkit.interventions.operations import Operation
from steerkit.interventions.prompt_edit import head_of

if TYPE_CHECKING:
    from steerkit.interventions.vector import SteeringVector

Scope = Literal["completion", "prompt", "all", "thinking", "answer", "tool"]
Positions = Literal["last", "boundaries", "lines", "every"]  # from few to all
SCOPES: tuple[Scope, ...] = get_args(Scope)
POSITIONS: tuple[Positions, ...] = get_args(Positions)
COMPLETION_SCOPES = ("completion", "thinking", "answer", "tool")
# The fields besides vector, layers and gate.
MANNER = ("strength", "operation", "scope", "target", "half_life", "positions")


@dataclass(frozen=True, eq=False, repr=False)
class Steering(Intervention):
    """One vector applied at `layers`, each with the full strength, by a registered operation.

    It acts at the vector's site of each layer. `layers` may be one number, `gate` a probe or a registered gate's name,
    `operation` the operation itself.

    `scope` says at which positions: `completion`, those from whose output a completion token is sampled (the
    last prompt token and every completion token but the last); `prompt`, every earlier prompt position; `all`,
    both; `thinking`, completion positions while a thinking block is open; `tool`, those while a call of a tool is
    open, which no other scope steers, where the model shows how it calls one; `answer`, the other completion positions.
    Padding is never steered.

    `positions` narrows a scope of the completion down to `boundaries`, the positions where a step ends: the text
    read so far ends in an empty line (two newlines, in one token or two), as in SEAL (arXiv 2504.07986); to
    `lines`, where it ends in a newline, for models whose steps are lines; or to `last`, the last prompt token alone.
    With a `half_life` of H tokens the strength at the position from whose output completion token i is sampled,
    counted from 0, is `strength` · 2^(-i / H); None: it stays the same. What it `follows`, a reader of the same row,
    multiplies the strength position by position; see `steerkit.interventions.following`.
    """

    vector: SteeringVector
    layers: tuple[int, ...]
    strength: float = 1.0
    operation: str = field(default="add", kw_only=True)
    scope: Scope = field(default="completion", kw_only=True)
    target: float | None = field(default=None, kw_only=True)
    half_life: float | None = field(default=None, kw_only=True)
    positions: Positions = field(default="every", kw_only=True)
    follows: Following | None = field(default=None, kw_only=True)
    gate: Gate | None = field(default=None, kw_only=True)

    kind: ClassVar[str] = "steering"

    def __post_init__(self) -> None:
        if isinstance(self.operation, Operation):
            object.__setattr__(self, "operation", self.operation.name)
        OPERATIONS[self.operation]  # refuses an unknown name
        object.__setattr__(self, "gate", as_gate(self.gate))
        check_choice("scope", self.scope, SCOPES)
        check_choice("positions", self.positions, POSITIONS)
        object.__setattr__(self, "strength", check_number("strength", self.strength))
        if self.target is not None:
            object.__setattr__(self, "target", check_number("target", self.target))
        if self.acts_by.takes_target != (self.target is not None):
            needs = "needs a target (target=…)" if self.target is None else "takes no target"
            raise MisuseError(f"operation {self.operation!r} {needs}")
        if self.half_life is not None:
            object.__setattr__(self, "half_life", check_half_life(self.half_life))
        object.__setattr__(self, "follows", as_following(self.follows))
        narrowing = {
            "half_life": self.half_life is not None,
            "positions": self.positions != "every",
            "follows": self.follows is not None,
        }
        for name, given in narrowing.items():
            if given and self.scope not in COMPLETION_SCOPES:
                raise MisuseError(
                    f"{name} is about the completion, and scope {self.scope!r} holds the prompt: give scope "
                    f"{', '.join(COMPLETION_SCOPES[:-1])} or {COMPLETION_SCOPES[-1]}"
                )
        along = getattr(self.gate, "vector", None)
        if along is not None and along.site != self.site:
            raise MisuseError(
                f"a gate along a vector reads where the steering acts, and {along.name!r} is at {along.site}, but "
                f"{self.vector.name!r} at {self.site}"
            )
        object.__setattr__(self, "layers", tuple(sorted(set(check_several("a layer", self.layers)))))
        self._check_layers()
        if self.follows is not None and (place := self.follows.reader.place) is not None:
            first = Place(self.layers[0], self.site)
            if not place.comes_before(first):
                raise MisuseError(
                    f"a strength follows what is read before it acts: {str(self.follows.reader)!r} reads at {place}, "
                    f"and the steering acts at {first}"
                )

    def _check_layers(self) -> None:
        if not self.layers:
            raise MisuseError("a steering needs at least one layer (layer=…)")
        for layer in self.layers:
            self.vector.check_layer(layer)
            if self.vector.metadata.scaling == "trained" and not self.vector.direction[layer].any():
                trained = self.vector.direction.any(dim=1).nonzero().flatten().tolist()
                raise MisuseError(
                    f"{self.vector.name!r} has no direction at layer {layer}: it was trained at {trained}"
                )
            if self.site != RESID_POST and not self.vector.direction[layer].any():
                raise MisuseError(
                    f"{self.vector.name!r} has no direction at layer {layer}, whose block has no {self.site}"
                )

    @property
    def site(self) -> SiteName:
        """Where in each block it acts: where its vector was read."""
        return self.vector.site

    @property
    def acts_by(self) -> Operation:
        """The operation itself."""
        operation: Operation = OPERATIONS[self.operation]
        return operation

    @property
    def acts(self) -> bool:
        """Whether the strength is another than 0, at which every operation is the identity."""
        return self.strength != 0

    @property
    def label(self) -> str:
        """The vector's name."""
        return self.vector.name

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The vector, then those of what it follows, then its gate's."""
        followed = () if self.follows is None else self.follows.reader.tensors
        return (self.vector, *followed, *super().tensors)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "kind": self.kind,
            "vector": json_reference(self.vector),
            "layers": list(self.layers),
            **{name: getattr(self, name) for name in MANNER},
            **({} if self.follows is None else {"follows": self.follows.to_json()}),
            "gate": None if self.gate is None else self.gate.to_json(),
        }

    def spec(self, names: Names) -> str:
        """Return the canonical spec string."""
        fields = [("layer", "+".join(map(str, self.layers)))]
        if self.site != RESID_POST:
            fields.append(("site", self.site))
        fields.append(("strength", shortest(self.strength)))
        if self.operation != "add":
            fields.append(("operation", self.operation))
        if self.target is not None:
            fields.append(("target", shortest(self.target)))
        fields.append(("scope", self.scope))
        if self.half_life is not None:
            fields.append(("half_life", shortest(self.half_life)))
        if self.positions != "every":
            fields.append(("positions", self.positions))
        if self.follows is not None:
            fields += self.follows.fields(names)
        if self.gate is not None:
            fields += self.gate.fields(names)
        return spec_of(head_of(names(self.vector)), fields)


def check_choice(what: str, value: object, choices: Sequence[str]) -> None:
    """Raise MisuseError unless `value` is one of `choices`."""
    if value not in choices:
        raise MisuseError(f"{what} is one of {', '.join(choices)}, got {value!r}")


def check_half_life(value: float) -> float:
    """Return a half-life as a float. Raises MisuseError unless it is a positive number of tokens."""
    number = plain(value)
    if not isinstance(number, int | float) or not 0 < number < math.inf:
        raise MisuseError(f"half_life is a positive number of tokens, got {value!r}")
    return float(number)
