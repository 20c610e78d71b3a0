"""A run's cells, restored from what its records say of them.

A record names its steerings in canonical form, by the vectors' names; a run directory holds their digests, not the
vectors. Given the files again, each cell is rebuilt and its id, the digest of all that it does, compared with the
recorded one, so a restored cell acts as the recorded one did or is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from steerkit.core.errors import MisuseError
from steerkit.engines.transformers.gates import gates_of
from steerkit.interventions.decoration import RULES, Decoration, Rule
from steerkit.interventions.probe import Probe
from steerkit.interventions.spec import parse_spec
from steerkit.interventions.steering import ProbeGate, Steering
from steerkit.interventions.vector import SteeringVector, load_vector, published_vectors
from steerkit.runs.directory import Record
from steerkit.runs.protocol import Protocol
from steerkit.sweeps.grid import Cell

T = TypeVar("T")
SEPARATOR = " ; "  # between the steerings of a composition, as records write it


class Cells:
    """The cells of a run with this protocol, given the vectors and probes that were used in it.

    A random control is drawn again from the vector that it controls, a probe is found in a vector that carries it,
    and a published vector by its name; none of them has to be given.
    """

    def __init__(self, protocol: Protocol, given: Iterable[SteeringVector | Probe] = ()) -> None:
        self._protocol = protocol
        self._vectors: dict[str, SteeringVector] = {}
        self._probes: dict[str, Probe] = {}
        for part in given:
            if isinstance(part, Probe):
                self._probes[part.name] = part
            else:
                self._add(part)
        self._restored: dict[str, Cell] = {}

    def of(self, record: Record) -> Cell:
        """The record's cell. Raises MisuseError where a vector or probe is missing, or is not the recorded one."""
        name = record["cell"]
        if name not in self._restored:
            cell = Cell(self._steerings(record), record["controls"], self._decoration(record))
            if cell.id != name:
                what = " and ".join(filter(None, (record["steering"], record["decoration"])))
                raise MisuseError(
                    f"cell {name} ({what or 'unsteered'}) cannot be restored from the vectors and gates given: one has "
                    "other contents than the one used in the run; give the files that the sweep was given"
                )
            if cell.decoration is not None and gates_of(cell.steerings):
                raise MisuseError(
                    f"cell {name} has a decoration beside a gated steering: such a cell cannot be taken up in the "
                    "middle of a completion; leave it out with --cell"
                )
            self._restored[name] = cell
        return self._restored[name]

    def _add(self, vector: SteeringVector) -> None:
        seed = self._protocol.decoding.seed
        for known in (vector, vector.random_control(seed)):
            self._vectors[known.name] = known
        if vector.probe is not None:
            self._probes.setdefault(vector.probe.name, vector.probe)

    def _steerings(self, record: Record) -> tuple[Steering, ...]:
        specs = filter(None, record["steering"].split(SEPARATOR))
        return tuple(self._steering(spec) for spec in specs)

    def _steering(self, spec: str) -> Steering:
        steering = parse_spec(spec, self._vector, self._gate)
        if isinstance(steering.gate, ProbeGate):
            gate = replace(steering.gate, layer=_gate_layer(spec))
            steering = replace(steering, gate=gate)
        return steering

    def _decoration(self, record: Record) -> Decoration | None:
        spec = record["decoration"]
        if spec is None:
            return None
        name, _, options = spec.partition("@")
        if name not in self._protocol.decorations:
            raise MisuseError(
                f"the run does not say what decoration {name!r} is: leave its cell out with --cell"
            )
        recorded = self._protocol.decorations[name]
        given = dict(option.split("=", 1) for option in options.split(",") if option)
        gate = None
        if "gate" in given:
            probe = self._gate(given["gate"])
            if not isinstance(probe, Probe):
                raise MisuseError(
                    f"the gate of {spec!r} is a probe, and a vector was given: give --gate FILE"
                )
            gate = ProbeGate(probe, _gate_layer(spec), float(given["threshold"]))
        return Decoration(
            name,
            recorded["system"],
            recorded["instruction"],
            tuple(recorded["openers"]),
            float(given.get("bias", recorded["bias"])),
            gate,
            _rule(recorded["rule"], given) if "rule" in recorded else None,
        )

    def _vector(self, name: str) -> SteeringVector:
        if name not in self._vectors:
            for published, path in published_vectors().items():
                if published in name:  # its own name, or within that of its random control
                    self._add(load_vector(path))
        return _found(name, self._vectors, "vector", "--vector FILE")

    def _gate(self, name: str) -> Probe | SteeringVector:
        probe, slash, _ = name.rpartition("/")
        if slash:
            return _found(probe, self._probes, "probe", "--gate FILE")
        return self._vector(name)


def _rule(recorded: Mapping[str, Any], given: Mapping[str, str]) -> Rule:
    """A decoration's rule: its words from the protocol, its numbers from the cell's own spec string."""
    kind = RULES[recorded["kind"]]
    numbers = {name: given[name] for name in (field.name for field in fields(kind)) if name in given}
    whole = {name: float(value) for name, value in numbers.items()}
    content: dict[str, Any] = {
        name: int(value) if value.is_integer() else value for name, value in whole.items()
    }
    if recorded["words"]:
        content["words"] = tuple(recorded["words"])
    return kind(**content)


def _gate_layer(spec: str) -> int:
    """The layer in `…,gate=NAME/LAYER,…`, as a probe gate writes itself."""
    (gate,) = (field for field in spec.rpartition("@")[2].split(",") if field.startswith("gate="))
    return int(gate.rpartition("/")[2])


def _found(name: str, known: Mapping[str, T], kind: str, option: str) -> T:
    if name not in known:
        given = f"; given were {', '.join(known)}" if known else ""
        raise MisuseError(f"the run uses the {kind} {name!r}: give it with {option}{given}")
    return known[name]
