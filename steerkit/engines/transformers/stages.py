"""The arithmetic of a table: constants of one steering at one place, stacked by slot, gathered by position, applied.

What an operation's constants are, and its own arithmetic, `steerkit.interventions.operations` says; which slot a
position has, `table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding

from steerkit.core.errors import MisuseError
from steerkit.core.registry import OPERATIONS
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.operations import Operation, unit_of
from steerkit.interventions.steering import Steering

OPEN = float("-inf")  # the threshold of a gate that lets everything pass


@dataclass(frozen=True)
class Acting:
    """One steering at one layer, ready to apply: h + shift + gain · (unit·h) · unit, or its operation's own arithmetic.

    `own` names the operation where it has its own, which takes `amount` and `target`. Shift, gain and amount halve
    `halvings` times a generated token.
    """

    shift: Tensor
    unit: Tensor
    gain: float
    amount: float
    gate_unit: Tensor
    gate_threshold: float
    halvings: float = 0.0
    target: float = 0.0
    own: str = ""
    gate: int = 0
    follows: int = 0

    @classmethod
    def of(cls, steering: Steering, layer: int, gate: int = 0, follows: int = 0) -> Acting:
        """Return the constants of `steering` at `layer`, float32 on the CPU, as wide as its vector.

        `gate` numbers its position gate from 1, for counting, and `follows` what its strength follows; 0: none.
        """
        v = steering.vector.direction[layer]
        c = steering.acts_by.constants(v, steering.strength, steering.target)
        gate_unit, threshold = torch.zeros_like(v), OPEN
        if isinstance(steering.gate, PositionGate):
            gate_unit, threshold = unit_of(steering.gate.vector.direction[layer]), steering.gate.threshold
        # Of a shorter half-life nothing is left after one token, and 1 / half-life might be infinite.
        halvings = 0.0 if steering.half_life is None else 1 / max(steering.half_life, 1e-3)
        own = steering.operation if steering.acts_by.has_own_arithmetic else ""
        return cls(
            c.shift, c.unit, c.gain, c.amount, gate_unit, threshold, halvings, c.target, own, gate, follows
        )


@dataclass(frozen=True)
class Own:
    """What one operation with its own arithmetic is given, by slot `[slots]` or by position `[row, position, 1]`."""

    operation: Operation
    amount: Tensor
    target: Tensor


@dataclass(frozen=True)
class Stage:
    """The k-th steering of every slot of one place: constants stacked to `[slots, …]`, on the device of its states.

    `projects` and `gates` are known on the host, as are the operations in `own`, so that a plain addition costs one
    gather and one add; `halvings` `[slots]` float32 is None where nothing fades.
    """

    shift: Tensor
    unit: Tensor
    gain: Tensor
    gate_unit: Tensor
    gate_threshold: Tensor
    projects: bool
    gates: bool
    own: tuple[Own, ...] = ()
    halvings: Tensor | None = None
    gate: Tensor | None = None
    follows: Tensor | None = None

    @classmethod
    def stack(cls, rows: Sequence[Acting | None], like: Tensor) -> Stage:
        """Stack per-slot constants (None: this slot has no k-th steering) in the dtype and on the device of `like`."""
        width = next(c.shift.shape[0] for c in rows if c is not None)
        nothing = torch.zeros(width)
        idle = Acting(nothing, nothing, 0.0, 0.0, nothing, OPEN)
        full = [c if c is not None else idle for c in rows]

        def vectors(name: str) -> Tensor:
            return _finite(torch.stack([getattr(c, name) for c in full]).to(like.dtype)).to(like.device)

        def numbers(values: Sequence[float]) -> Tensor:
            return _finite(torch.tensor(values, dtype=like.dtype)).to(like.device)

        def of_operation(name: str) -> Own:
            return Own(
                OPERATIONS[name],
                numbers([c.amount if c.own == name else 0.0 for c in full]),
                numbers([c.target if c.own == name else 0.0 for c in full]),
            )

        thresholds = [c.gate_threshold for c in full]
        return cls(
            shift=vectors("shift"),
            unit=vectors("unit"),
            gain=numbers([c.gain for c in full]),
            gate_unit=vectors("gate_unit"),
            gate_threshold=torch.tensor(thresholds, dtype=like.dtype).to(like.device),
            projects=any(c.gain != 0 for c in full),
            gates=any(threshold != OPEN for threshold in thresholds),
            own=tuple(of_operation(name) for name in dict.fromkeys(c.own for c in full if c.own)),
            halvings=_where_any([c.halvings for c in full], like),
            gate=_where_any([c.gate for c in full], like),
            follows=_where_any([c.follows for c in full], like),
        )

    def gathered(self, slots: Tensor, ages: Tensor | None = None) -> Gathered:
        """Return the constants of each position by `slots` `[row, position]`; only those that any slot makes use of.

        `ages` `[row, position]` counts the tokens that were generated before each position; None: none were.
        """

        def numbers(by_slot: Tensor) -> Tensor:
            return by_slot[slots][..., None]

        whole = Gathered(
            shift=embedding(slots, self.shift),
            unit=embedding(slots, self.unit) if self.projects or self.own else None,
            gain=numbers(self.gain) if self.projects else None,
            own=tuple(replace(o, amount=numbers(o.amount), target=numbers(o.target)) for o in self.own),
            gate_unit=embedding(slots, self.gate_unit) if self.gates else None,
            gate_threshold=self.gate_threshold[slots] if self.gates else None,
            gate=None if self.gate is None else self.gate[slots],
            follows=None if self.follows is None else self.follows[slots],
        )
        if self.halvings is None or ages is None:
            return whole
        # In float32: a narrower format would round the age itself.
        return whole.times(torch.exp2(-ages * self.halvings[slots])[..., None].to(self.shift.dtype))

    def apply(
        self, h: Tensor, slots: Tensor, ages: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        """Edit the states `h` `[row, position, width]` by `slots` and `ages` `[row, position]`."""
        return self.gathered(slots, ages).edit(h, counts)


@dataclass(frozen=True)
class Gathered:
    """One stage's constants for the positions of a pass, `[row, position, …]`; None for what no row does."""

    shift: Tensor
    unit: Tensor | None
    gain: Tensor | None
    own: tuple[Own, ...]
    gate_unit: Tensor | None
    gate_threshold: Tensor | None
    gate: Tensor | None = None
    follows: Tensor | None = None

    def times(self, left: Tensor) -> Gathered:
        """Return the same at the fraction `left` `[row, position, 1]` of the strength: operations are linear in it."""
        return replace(
            self,
            shift=self.shift * left,
            gain=None if self.gain is None else self.gain * left,
            own=tuple(replace(o, amount=o.amount * left) for o in self.own),
        )

    def edit(self, h: Tensor, counts: Tensor | None = None) -> Tensor:
        """Return the states `h` `[row, position, width]` after this stage.

        `counts` `[2, row, 1 + gates]` gains, by the number of a position gate, the positions that asked it and those at
        which it fired.
        """
        out = h + self.shift
        if self.unit is not None:
            if self.gain is not None:
                out = out + self.gain * (h * self.unit).sum(-1, keepdim=True) * self.unit
            for own in self.own:
                edited = own.operation.edit(h, self.unit, own.amount, own.target)
                out = torch.where(own.amount != 0, edited, out)
        if self.gate_unit is not None and self.gate_threshold is not None:
            fired = (h * self.gate_unit).sum(-1) > self.gate_threshold
            out = torch.where(fired[..., None], out, h)
            if counts is not None and self.gate is not None:
                counts[0].scatter_add_(1, self.gate, torch.ones_like(self.gate))
                counts[1].scatter_add_(1, self.gate, fired.long())
        return out


def _where_any(numbers: Sequence[float], like: Tensor) -> Tensor | None:
    """Return numbers in a format of their own on the device of `like`; None where all of them are 0."""
    return torch.tensor(numbers, device=like.device) if any(numbers) else None


def _finite(constants: Tensor) -> Tensor:
    """Return the constants themselves. Raises MisuseError where the number format could not hold one."""
    if not constants.isfinite().all():
        raise MisuseError(f"a strength is too large for {constants.dtype}: it overflows")
    return constants
