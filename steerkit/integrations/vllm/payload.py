"""What travels from vLLM's front end to its workers for a steered request: constants and slots, no file names.

The front end, which checks a request, also computes what it will do. Workers read no file and no spec, so what
was checked is what is applied: a vector file that changes, or is missing on another machine, cannot matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerkit.core.errors import SteerkitError
from steerkit.core.sites import RESID_POST
from steerkit.engines.remote.arguments import ARGUMENT
from steerkit.engines.transformers.stages import Acting
from steerkit.engines.transformers.table import ANSWER, PROMPT, THINKING, Program
from steerkit.interventions.steering import Steering
from steerkit.models.markers import ThinkingMarkers

PHASES = (PROMPT, THINKING, ANSWER)
VECTORS = ("shift", "unit", "gate_unit")
NUMBERS = ("gain", "amount", "target", "gate_threshold")
# Names the version of the form below, so that nothing else passes for it.
FORM = "steerkit-program-3"


@dataclass(frozen=True)
class Cell:
    """One steering at one layer. `key` is equal where the two act alike."""

    key: str
    layer: int
    constants: Acting


@dataclass(frozen=True)
class Payload:
    """A request's program, ready to be put into tables.

    `bundles` holds, for prompt, thinking and answer positions, which cells act, as indices in the order in which
    they apply. `first` is the first completion position where that is not the last prompt token (a text that is
    scored). `markers` are the texts that open and close a thinking block; None where the program does the same in
    both.
    """

    cells: tuple[Cell, ...]
    bundles: tuple[tuple[int, ...], ...]
    key: str
    prompt_key: str
    first: int | None = None
    markers: ThinkingMarkers | None = None

    @classmethod
    def of(
        cls, steerings: Sequence[Steering], markers: ThinkingMarkers, first: int | None = None
    ) -> Payload | None:
        """Return the payload of an ordered list of steerings; None where none of them acts on anything.

        Raises SteerkitError for a program that this form cannot express, which `admission` has refused by field.
        """
        program = Program.of(steerings)
        # Neither cells nor bundles could say so.
        inside = any(place.site != RESID_POST for place in program.places)
        follows = any(steering.follows is not None for steering in steerings)
        if inside or follows or program.fades or program.tells_steps_apart or program.tells_last_apart:
            raise SteerkitError("a program that no table here can hold came past the front end's checks")
        if not program.compositions:
            return None
        cells: dict[str, Cell] = {}
        bundles: list[tuple[int, ...]] = []
        for phase in PHASES:
            acting: list[int] = []
            for place in sorted(program.places):
                for steering in program.compositions[place].get(phase, ()):
                    key = f"{steering.digest}:{place.layer}"
                    if key not in cells:
                        cells[key] = Cell(key, place.layer, Acting.of(steering, place.layer))
                    acting.append(list(cells).index(key))
            bundles.append(tuple(acting))
        return cls(
            tuple(cells.values()),
            tuple(bundles),
            _digest(program.key),
            _digest(program.prompt_key),
            first,
            markers if program.tells_thinking_apart else None,
        )

    @property
    def depth(self) -> int:
        """The most steerings that meet on one layer at one position."""
        by_layer = [Counter(self.cells[i].layer for i in bundle) for bundle in self.bundles]
        return max(meeting for count in by_layer for meeting in count.values())

    def to_wire(self) -> dict[str, Any]:
        """Return it as plain data that MessagePack carries."""
        return {
            "form": FORM,
            "cells": [_cell_to_wire(cell) for cell in self.cells],
            "bundles": [list(bundle) for bundle in self.bundles],
            "key": self.key,
            "prompt_key": self.prompt_key,
            "first": self.first,
            "markers": None if self.markers is None else [self.markers.opening, self.markers.closing],
        }

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Payload:
        """Read `to_wire`'s form."""
        markers = wire["markers"]
        return cls(
            tuple(_cell_from_wire(cell) for cell in wire["cells"]),
            tuple(tuple(bundle) for bundle in wire["bundles"]),
            wire["key"],
            wire["prompt_key"],
            wire["first"],
            None if markers is None else ThinkingMarkers(*markers),
        )


def is_wire(value: Any) -> bool:
    """Return whether `value` is a payload in its plain form. No HTTP request can hold one: its arguments are flat."""
    return isinstance(value, dict) and value.get("form") == FORM


def wire_of(sampling_params: Any, fault: str) -> dict[str, Any] | None:
    """Return the payload in a request's sampling parameters, in its plain form; None where it is not steered.

    Raises SteerkitError with `fault` where something else stands there, which the front end did not check.
    """
    value: dict[str, Any] | None = (getattr(sampling_params, "extra_args", None) or {}).get(ARGUMENT)
    if value is not None and not is_wire(value):
        raise SteerkitError(fault)
    return value


def _digest(keys: Sequence[str]) -> str:
    """One text for an ordered list of digests, empty for an empty one."""
    return hashlib.sha256("/".join(keys).encode()).hexdigest() if keys else ""


def _cell_to_wire(cell: Cell) -> dict[str, Any]:
    constants = cell.constants
    wire: dict[str, Any] = {"key": cell.key, "layer": cell.layer, "width": constants.shift.shape[0]}
    wire["own"] = constants.own
    for name in VECTORS:
        vector: Tensor = getattr(constants, name)
        wire[name] = vector.numpy().tobytes() if vector.any() else b""
    for name in NUMBERS:
        wire[name] = float(getattr(constants, name))
    return wire


def _cell_from_wire(wire: dict[str, Any]) -> Cell:
    parts: dict[str, Any] = {name: wire[name] for name in (*NUMBERS, "own")}
    for name in VECTORS:
        data = wire[name] or bytes(4 * wire["width"])  # nothing stands for zeros
        parts[name] = torch.from_numpy(np.frombuffer(data, dtype=np.float32).copy())
    return Cell(wire["key"], wire["layer"], Acting(**parts))
