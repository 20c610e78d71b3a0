"""The row-bound table: what happens to a row of a batch is bound to the row, never to its place in a list.

The contract, which every engine shares:

1. A row's *program* says which ordered composition of steerings acts on it at each layer in each phase of its
   text. Phases are: prompt (every real prompt position before the last), thinking (completion positions while a
   thinking block is open) and answer (the other completion positions). Padding has no phase and no steering.
2. A table is compiled from the programs of the rows at hand. Each hooked layer gets a bank of slots; slot 0 does
   nothing; equal compositions share a slot. Splitting, sorting, retiring or refilling a batch means compiling a
   table from other rows, so no row can inherit another row's steering. Constants are computed then.
3. Before a forward pass, outside the hooks, the slot maps `[hooked layer, row, position]` are written from the
   phase of each position, and for a single position a row its constants are gathered there too. A hook gathers
   its layer's constants by slot, where that is not done yet, and applies them.
4. Steerings that meet on one layer apply in the listed order, each to the result of the one before it.
5. Nothing in a hook synchronises with the host, copies between devices, changes a number format, or recomputes
   a constant. Hooks come off when the block that installed them ends, whatever ended it, and a pass in which a
   hooked block did not run is an error, not an unsteered result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from steerkit.errors import MisuseError, SteerkitError
from steerkit.models import LanguageModel
from steerkit.models.sites import hidden_of, with_hidden
from steerkit.steering import Gate, ProbeGate, Steering

NOWHERE, PROMPT, THINKING, ANSWER = range(4)
PHASES_OF_SCOPE = {
    "prompt": (PROMPT,),
    "completion": (THINKING, ANSWER),
    "all": (PROMPT, THINKING, ANSWER),
    "thinking": (THINKING,),
    "answer": (ANSWER,),
}
Composition = tuple[Steering, ...]


@dataclass(frozen=True)
class Program:
    """What one row does: an ordered composition of steerings per (layer, phase). Empty means unsteered.

    `key` is equal for equal programs, `prompt_key` for programs that act alike on prompt positions.
    """

    compositions: dict[tuple[int, int], Composition]
    key: tuple[str, ...]
    prompt_key: tuple[str, ...]

    @classmethod
    def of(cls, steerings: Sequence[Steering]) -> Program:
        """The program of an ordered list of steerings; those of strength 0 act on nothing and are left out."""
        acting = [s for s in steerings if s.strength != 0]
        if any(isinstance(s.gate, ProbeGate) for s in acting):
            raise SteerkitError("a probe gate is read before a program is made: see steerkit.engines.gates")
        compositions: dict[tuple[int, int], Composition] = {}
        for steering in acting:
            for layer in steering.layers:
                for phase in PHASES_OF_SCOPE[steering.scope]:
                    compositions[layer, phase] = (*compositions.get((layer, phase), ()), steering)
        key = tuple(s.digest for s in acting)
        prompt_key = tuple(s.digest for s in acting if PROMPT in PHASES_OF_SCOPE[s.scope])
        return cls(compositions, key, prompt_key)

    @property
    def layers(self) -> set[int]:
        """Layers that need a hook for this row."""
        return {layer for layer, _ in self.compositions}

    @property
    def tells_thinking_apart(self) -> bool:
        """Whether thinking and answer positions are steered differently."""
        return any(
            self.compositions.get((layer, THINKING)) != self.compositions.get((layer, ANSWER))
            for layer in self.layers
        )


@dataclass(frozen=True)
class Constants:
    """One steering at one layer, ready to apply: h + shift + gain · (unit·h) · unit, or a turn towards unit."""

    shift: Tensor
    unit: Tensor
    gain: float
    turn: float
    gate_unit: Tensor
    gate_threshold: float

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
        return cls(*parts, gate_unit, threshold)


@dataclass(frozen=True)
class Stage:
    """The k-th steering of every slot of one layer: constants stacked to `[slots, …]`, on the model's device.

    `projects`, `turns` and `gates` are known on the host, so that a plain addition costs one gather and one add.
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
        )

    def gathered(self, slots: Tensor) -> Gathered:
        """The constants of each position by `slots` `[row, position]`; only those that any slot makes use of."""
        acts = self.projects or self.turns
        return Gathered(
            shift=embedding(slots, self.shift),
            unit=embedding(slots, self.unit) if acts else None,
            gain=self.gain[slots][..., None] if self.projects else None,
            turn=self.turn[slots][..., None] if self.turns else None,
            gate_unit=embedding(slots, self.gate_unit) if self.gates else None,
            gate_threshold=self.gate_threshold[slots] if self.gates else None,
        )

    def apply(self, h: Tensor, slots: Tensor) -> Tensor:
        """Edit the residual stream `h` `[row, position, d_model]` by `slots` `[row, position]`."""
        return self.gathered(slots).edit(h)


@dataclass(frozen=True)
class Gathered:
    """One stage's constants for the positions of a pass, `[row, position, …]`; None for what no row does."""

    shift: Tensor
    unit: Tensor | None
    gain: Tensor | None
    turn: Tensor | None
    gate_unit: Tensor | None
    gate_threshold: Tensor | None

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


class RowTable:
    """Banks and slots for the rows of one batch; see the module's contract.

    `programs` holds one program per row, in row order; constants take the model's device and number format.
    """

    def __init__(self, lm: LanguageModel, programs: Sequence[Program]) -> None:
        self._lm = lm
        self.layers = sorted(set().union(*(p.layers for p in programs)))
        self._fired = 0
        self.bind(programs)

    def bind(self, programs: Sequence[Program]) -> None:
        """Compile the table for these rows instead; they may steer no layer that the table does not hook."""
        like = torch.empty(0, device=self._lm.device, dtype=self._lm.dtype)
        self.tells_thinking_apart = any(p.tells_thinking_apart for p in programs)
        self._stages: list[list[Stage]] = []
        distinct = {program.key: program for program in programs}
        number = {key: i for i, key in enumerate(distinct)}
        slots = []
        for layer in self.layers:
            bank: dict[tuple[str, ...], int] = {(): 0}
            compositions: list[Composition] = [()]
            per_program = []
            for program in distinct.values():
                phase_slots = [0]
                for phase in (PROMPT, THINKING, ANSWER):
                    composition = program.compositions.get((layer, phase), ())
                    key = tuple(s.digest for s in composition)
                    if key not in bank:
                        bank[key] = len(compositions)
                        compositions.append(composition)
                    phase_slots.append(bank[key])
                per_program.append(phase_slots)
            slots.append([per_program[number[program.key]] for program in programs])
            self._stages.append(_stages(compositions, layer, like))
        # [hooked layer, row, phase]
        self._slots = torch.tensor(slots, device=like.device).reshape(len(self.layers), len(programs), 4)
        self._map = self._slots[..., :1]
        self._ready: list[list[Gathered]] = []

    def point(self, phases: Tensor) -> None:
        """Write the slot maps for the coming pass from the phase of each position, `[row, position]`.

        A table of one row serves a batch of any size, a table of R rows a batch of k·R (each row's expansions
        lying together, as beams and returned sequences do).
        """
        rows = phases.shape[0]
        slots = self._slots
        if slots.shape[1] != rows:
            if rows % slots.shape[1]:
                raise SteerkitError(
                    f"steering was given for {slots.shape[1]} rows, but the batch has {rows}: give one list a row"
                )
            slots = slots.repeat_interleave(rows // slots.shape[1], dim=1)
        self._map = slots.gather(2, phases[None].expand(len(self.layers), -1, -1))
        # A decoding step's constants are few and serve until rows change, so they are gathered ahead of the hooks.
        self._ready = self._gathered() if phases.shape[1] == 1 else []

    def _gathered(self) -> list[list[Gathered]]:
        return [
            [stage.gathered(slots) for stage in stages]
            for stages, slots in zip(self._stages, self._map, strict=True)
        ]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hooks on the blocks while the block runs; they come off whatever happens."""
        handles = []
        try:
            for index, layer in enumerate(self.layers):
                handles.append(self._lm.blocks[layer].register_forward_hook(self._hook(index)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Hooks for exactly one forward pass, in which each hooked block must run exactly once."""
        self._fired = 0
        with self.installed():
            yield
        if self._fired != len(self.layers):
            raise SteerkitError(
                f"{self._fired} of {len(self.layers)} steered blocks ran in a forward pass: the model skips or "
                "replaces blocks (torch.compile?), so it cannot be steered safely"
            )

    def _hook(self, index: int) -> Callable[..., Any]:
        def steer(_module: nn.Module, _args: Any, output: Any) -> Any:
            if self._lm.is_suspended:
                return output
            self._lm.check_owner()
            self._fired += 1
            hidden = hidden_of(output)
            if self._ready:
                for constants in self._ready[index]:
                    hidden = constants.edit(hidden)
            else:
                for stage in self._stages[index]:
                    hidden = stage.apply(hidden, self._map[index])
            return with_hidden(output, hidden)

        return steer


def _stages(compositions: Sequence[Composition], layer: int, like: Tensor) -> list[Stage]:
    depth = max(len(c) for c in compositions)
    return [
        Stage.stack([Constants.of(c[k], layer) if k < len(c) else None for c in compositions], like)
        for k in range(depth)
    ]


def thinking_positions(ids: Tensor, opening: Tensor, closing: Tensor) -> Tensor:
    """Which positions lie inside an open thinking block, `[row, position]` bool.

    `ids` is `[row, position]`, `opening` and `closing` the markers' token ids. A position is inside once an
    opening marker ends at or before it and no closing marker has ended since; so the position from whose output
    the closing marker's last token is sampled is still inside.
    """
    return _last_end(ids, opening) > _last_end(ids, closing)


def _last_end(ids: Tensor, marker: Tensor) -> Tensor:
    """For each position, where the latest occurrence of `marker` up to it ended; -1 for nowhere."""
    size = marker.numel()
    ends = torch.full_like(ids, -1)
    if size and ids.shape[1] >= size:
        matches = (ids.unfold(1, size, 1) == marker).all(-1)
        places = torch.arange(size - 1, ids.shape[1], device=ids.device)
        ends[:, size - 1 :] = torch.where(matches, places, -1)
    return ends.cummax(dim=1).values
