"""Operations: what a steering does to a state, each declared once.

With û = v/||v||, p = û·h and the strength s:
    add     h + s · v
    ablate  h - s · p · û
    clamp   h + s · (target - p) · û
    rotate  h turned by the fraction s of its angle to û, its norm kept
    reach   h + |s| · (target - p) · û, and mirror twice that, only where p is on the wrong side of the target
and strength 0 is the identity for each.

    @operation("flip")
    class Flip(Operation):
        \"\"\"Mirror the component along the vector.\"\"\"
        def constants(self, v, strength, target):
            unit = unit_of(v)
            return Constants(shift=v.new_zeros(v.shape), unit=unit, gain=-2 * strength)

An operation says all about itself: its constants for one vector, whether those are a plain shift (which is all that
some export formats can hold), its own arithmetic where a shift and a gain along the vector do not express it
(`edit`), and whether vLLM's tables can hold it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from steerkit.core.registry import OPERATIONS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Constants:
    """What one operation does with one vector: h + shift + gain · (unit·h) · unit, or its own arithmetic.

    `shift` and `unit` are `[d_model]` float32. `amount` (with `target`) is what an operation with an `edit` of its own
    is given there; 0 leaves the state as it is.
    """

    shift: Tensor
    unit: Tensor
    gain: float = 0.0
    amount: float = 0.0
    target: float = 0.0


class Operation(ABC):
    """The base of all operations; see the module's contract."""

    name: ClassVar[str]
    takes_target: ClassVar[bool] = False
    is_constant_shift: ClassVar[bool] = False
    in_vllm: ClassVar[bool] = True

    @abstractmethod
    def constants(self, v: Tensor, strength: float, target: float | None) -> Constants:
        """Return the constants for the vector `v` `[d_model]`, linear in `strength`: half-lives scale them."""

    def edit(self, h: Tensor, unit: Tensor, amount: Tensor, target: Tensor) -> Tensor:
        """Return the edited states; only for an operation that `has_own_arithmetic`.

        `h` and `unit` are `[row, position, d_model]`, `amount` and `target` `[row, position, 1]`. Where the amount is 0
        the result is not used. Called inside the forward pass: nothing here may wait for the device.
        """
        raise NotImplementedError(f"{self.name} is all in its constants")

    @property
    def has_own_arithmetic(self) -> bool:
        """Whether the operation overrides `edit`."""
        return type(self).edit is not Operation.edit


Made = TypeVar("Made", bound=type[Operation])


def operation(name: str) -> Callable[[Made], Made]:
    """Register an operation, a class that derives from `Operation`, under `name`."""

    def register(made: Made) -> Made:
        made.name = name
        OPERATIONS.add(name, made())
        return made

    return register


def unit_of(v: Tensor) -> Tensor:
    """Return `v` at length one; a zero vector stays zero."""
    norm = v.norm()
    return v / norm if norm > 0 else v.new_zeros(v.shape)


@operation("add")
class Add(Operation):
    """Add the vector: h + s · v."""

    is_constant_shift = True

    def constants(self, v: Tensor, strength: float, target: float | None) -> Constants:
        """Return the shift."""
        del target
        return Constants(strength * v, v.new_zeros(v.shape))


@operation("ablate")
class Ablate(Operation):
    """Take the component along the vector away: h - s · p · û."""

    def constants(self, v: Tensor, strength: float, target: float | None) -> Constants:
        """Return the gain along the vector."""
        del target
        return Constants(v.new_zeros(v.shape), unit_of(v), -strength)


@operation("clamp")
class Clamp(Operation):
    """Bring the component along the vector to a target: h + s · (target - p) · û."""

    takes_target = True

    def constants(self, v: Tensor, strength: float, target: float | None) -> Constants:
        """Return the shift and the gain along the vector."""
        unit = unit_of(v)
        return Constants(strength * (target or 0.0) * unit, unit, -strength)


@operation("rotate")
class Rotate(Operation):
    """Turn the state by the fraction s of its angle to the vector, in the plane of the two, its norm kept."""

    def constants(self, v: Tensor, strength: float, target: float | None) -> Constants:
        """Return the fraction; a zero vector has no angle to turn towards."""
        del target
        unit = unit_of(v)
        return Constants(v.new_zeros(v.shape), unit, amount=strength if unit.any() else 0.0)

    def edit(self, h: Tensor, unit: Tensor, amount: Tensor, target: Tensor) -> Tensor:
        """Return the states turned towards `unit`."""
        import torch

        del target
        tiny = torch.finfo(h.dtype).tiny  # defined for a zero state, and for one parallel to `unit`
        component = (h * unit).sum(-1, keepdim=True)
        norm = h.norm(dim=-1, keepdim=True)
        across = h - component * unit
        across = across / across.norm(dim=-1, keepdim=True).clamp_min(tiny)
        angle = torch.acos((component / norm.clamp_min(tiny)).clamp(-1, 1)) * (1 - amount)
        turned: Tensor = norm * (torch.cos(angle) * unit + torch.sin(angle) * across)
        return turned


class _OneSided(Operation):
    """What moves a state only where its component is on the wrong side of the target (arXiv 2604.08169).

    The wrong side is below the target; for a negative strength it is above. What is on the right side stays as it is,
    bit for bit.
    """

    takes_target = True
    in_vllm = False
    times: ClassVar[float]

    def constants(self, v: Tensor, strength: float, target: float | None) -> Constants:
        """Return the strength and the target; along a zero vector there are no sides."""
        unit = unit_of(v)
        amount = strength if unit.any() else 0.0
        return Constants(v.new_zeros(v.shape), unit, amount=amount, target=target or 0.0)

    def edit(self, h: Tensor, unit: Tensor, amount: Tensor, target: Tensor) -> Tensor:
        """Return the states moved towards the target, or beyond it."""
        import torch

        missing = target - (h * unit).sum(-1, keepdim=True)
        moved = h + self.times * amount.abs() * missing * unit
        return torch.where(missing * amount > 0, moved, h)


@operation("reach")
class Reach(_OneSided):
    """Bring the component along the vector to a target where it is short of it: StTP, arXiv 2604.08169."""

    times = 1.0


@operation("mirror")
class Mirror(_OneSided):
    """Mirror the component along the vector at a target where it is short of it: StMP, arXiv 2604.08169."""

    times = 2.0
