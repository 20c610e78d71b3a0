"""The arithmetic of steerings: one at one layer as constants, many stacked by slot, gathered by position, applied.

Every operation is h + shift + gain · (unit·h) · unit, or a turn of h towards unit; see `steering` for what
each stands for, and `table` for which slot a position has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding

from steerkit.core.errors import MisuseError
from steerkit.interventions.steering import Gate, Steering


@dataclass(frozen=True)
class Constants:
    """One steering at one layer, ready to apply: h + shift + gain · (unit·h) · unit, or a turn towards unit.

    Shift, gain and turn halve `halvings` times a generated token.
    """

    shift: Tensor
    unit: Tensor
    gain: float
    turn: float
    gate_unit: Tensor
    gate_threshold: float
    halvings: float = 0.0

    @classmethod
    def of(cls, steering: Steering, layer: int) -> Constants:
        """Constants of `steering` at `layer`, float32 on the CPU; `d_model` wide."""
        v = steering.vector.direction[layer]
        unit = _unit(v)
        nothing = torch.zeros_like(v)
        gate_unit, threshold = nothing, float("-inf")
        if isinstance(steering.gate, Gate):
            g = steering.gate.vector.direction[layer]
            gate_unit, threshold = _unit(g), steering.gate.threshold
        s = steering.strength
        match steering.operation:
            case "add":
                parts = (s * v, nothing, 0.0, 0.0)
            case "ablate":
                parts = (nothing, unit, -s, 0.0)
            case "clamp":
                assert steering.target is not None
                parts = (s * steering.target * unit, unit, -s, 0.0)
            case "rotate":
                # A zero vector has no angle to turn towards.
                parts = (nothing, unit, 0.0, s if unit.any() else 0.0)
        # Of a shorter half-life nothing is left after one token, and 1 / half-life might be infinite.
        halvings = 0.0 if steering.half_life is None else 1 / max(steering.half_life, 1e-3)
        return cls(*parts, gate_unit, threshold, halvings)


@dataclass(frozen=True)
class Stage:
    """The k-th steering of every slot of one layer: constants stacked to `[slots, …]`, on the model's device.

    `projects`, `turns` and `gates` are known on the host, so that a plain addition costs one gather and one add;
    `halvings` `[slots]` float32 is None where nothing fades.
    """

    shift: Tensor
    unit: Tensor
    gain: Tensor
    turn: Tensor
    gate_unit: Tensor
    gate_threshold: Tensor
    projects: bool
    turns: bool
    gates: bool
    halvings: Tensor | None = None

    @classmethod
    def stack(cls, rows: Sequence[Constants | None], like: Tensor) -> Stage:
        """Stack per-slot constants (None: this slot has no k-th steering) in the dtype and on the device of `like`."""
        width = next(c.shift.shape[0] for c in rows if c is not None)
        idle = Constants(torch.zeros(width), torch.zeros(width), 0.0, 0.0, torch.zeros(width), float("-inf"))
        full = [c if c is not None else idle for c in rows]

        def vectors(name: str) -> Tensor:
            return _finite(torch.stack([getattr(c, name) for c in full]).to(like.dtype)).to(like.device)

        def numbers(name: str) -> Tensor:
            return torch.tensor([getattr(c, name) for c in full], dtype=like.dtype)

        return cls(
            shift=vectors("shift"),
            unit=vectors("unit"),
            gain=_finite(numbers("gain")).to(like.device),
            turn=_finite(numbers("turn")).to(like.device),
            gate_unit=vectors("gate_unit"),
            gate_threshold=numbers("gate_threshold").to(like.device),
            projects=any(c.gain != 0 for c in full),
            turns=any(c.turn != 0 for c in full),
            gates=any(c.gate_threshold != float("-inf") for c in full),
            halvings=_rates([c.halvings for c in full], like),
        )

    def gathered(self, slots: Tensor, ages: Tensor | None = None) -> Gathered:
        """The constants of each position by `slots` `[row, position]`; only those that any slot makes use of.

        `ages` `[row, position]` counts the tokens that were generated before each position; None: none were.
        """
        acts = self.projects or self.turns
        whole = Gathered(
            shift=embedding(slots, self.shift),
            unit=embedding(slots, self.unit) if acts else None,
            gain=self.gain[slots][..., None] if self.projects else None,
            turn=self.turn[slots][..., None] if self.turns else None,
            gate_unit=embedding(slots, self.gate_unit) if self.gates else None,
            gate_threshold=self.gate_threshold[slots] if self.gates else None,
        )
        if self.halvings is None or ages is None:
            return whole
        # In float32: a narrower format would round the age itself.
        return whole.times(torch.exp2(-ages * self.halvings[slots])[..., None].to(self.shift.dtype))

    def apply(self, h: Tensor, slots: Tensor, ages: Tensor | None = None) -> Tensor:
        """Edit the residual stream `h` `[row, position, d_model]` by `slots` and `ages` `[row, position]`."""
        return self.gathered(slots, ages).edit(h)


@dataclass(frozen=True)
class Gathered:
    """One stage's constants for the positions of a pass, `[row, position, …]`; None for what no row does."""

    shift: Tensor
    unit: Tensor | None
    gain: Tensor | None
    turn: Tensor | None
    gate_unit: Tensor | None
    gate_threshold: Tensor | None

    def times(self, left: Tensor) -> Gathered:
        """The same at the fraction `left` `[row, position, 1]` of the strength: every operation is linear in it."""
        return replace(
            self,
            shift=self.shift * left,
            gain=None if self.gain is None else self.gain * left,
            turn=None if self.turn is None else self.turn * left,
        )

    def edit(self, h: Tensor) -> Tensor:
        """The residual stream `h` `[row, position, d_model]` after this stage."""
        out = h + self.shift
        if self.unit is not None:
            component = (h * self.unit).sum(-1, keepdim=True)
            if self.gain is not None:
                out = out + self.gain * component * self.unit
            if self.turn is not None:
                out = torch.where(self.turn != 0, _rotated(h, self.unit, component, self.turn), out)
        if self.gate_unit is not None and self.gate_threshold is not None:
            read = (h * self.gate_unit).sum(-1)
            out = torch.where((read > self.gate_threshold)[..., None], out, h)
        return out


def _unit(v: Tensor) -> Tensor:
    """`v` at length one; a zero vector stays zero."""
    norm = v.norm()
    return v / norm if norm > 0 else torch.zeros_like(v)


def _rates(halvings: Sequence[float], like: Tensor) -> Tensor | None:
    return torch.tensor(halvings, device=like.device) if any(halvings) else None


def _finite(constants: Tensor) -> Tensor:
    """The constants themselves. Raises MisuseError where the number format could not hold one."""
    if not constants.isfinite().all():
        raise MisuseError(f"a strength is too large for {constants.dtype}: it overflows")
    return constants


def _rotated(h: Tensor, unit: Tensor, component: Tensor, turn: Tensor) -> Tensor:
    """`h` turned by the fraction `turn` of its angle to `unit`, in the plane of the two, its norm kept."""
    tiny = torch.finfo(h.dtype).tiny  # defined for a zero state, and for one parallel to `unit`
    norm = h.norm(dim=-1, keepdim=True)
    across = h - component * unit
    across = across / across.norm(dim=-1, keepdim=True).clamp_min(tiny)
    angle = torch.acos((component / norm.clamp_min(tiny)).clamp(-1, 1)) * (1 - turn)
    return norm * (torch.cos(angle) * unit + torch.sin(angle) * across)
