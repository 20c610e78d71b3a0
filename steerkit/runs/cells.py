"""Cells: what is done to the model in one place of an experiment, as content-addressed data.

A cell's id is the digest of what its interventions do, so the same cell has the same id in every run, a grid can
be extended without renaming anything, and strength 0, which is the identity, is the unsteered cell itself.

`Cell` is what a sweep measures. `RunCell` is the same as a run directory has it: its fields are read from JSON alone,
its vectors and probes are loaded from the run's own files when `interventions` is asked for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, cast

from steerkit.core.errors import InputError
from steerkit.interventions.base import Intervention, Json, Names, shortest
from steerkit.interventions.steering import POSITIONS

if TYPE_CHECKING:
    from steerkit.interventions.probe import Probe
    from steerkit.interventions.vector import SteeringVector

Role = Literal["unsteered", "steered", "random", "edited"]

ID_LENGTH = 12
COMPOSED = " ; "  # between the specs of interventions that act together
LONGEST_EXCERPT = 24
_PLAIN_FIELDS = (
    "role", "controls", "spec", "vector", "layer", "strength", "scope", "operation", "target", "half_life",
    "positions",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cell:
    """One composition of interventions, applied in order; without any, the unsteered model.

    Interventions that do nothing, such as a steering of strength 0, are dropped. `controls` names the vector that a
    random direction of the same norm stands beside; None for every cell that is no control.
    """

    interventions: tuple[Intervention, ...] = ()
    controls: str | None = None

    def __post_init__(self) -> None:
        acting = tuple(each for each in self.interventions if each.acts)
        object.__setattr__(self, "interventions", acting)
        if not any(each.kind == "steering" for each in acting):
            object.__setattr__(self, "controls", None)

    @property
    def role(self) -> Role:
        """What the cell is in the experiment; `edited` is one without a steering."""
        return _role([each.kind for each in self.interventions], self.controls)

    @functools.cached_property
    def id(self) -> str:
        """The first 12 hex digits of the SHA-256 over the interventions' digests, in order."""
        digests = [each.digest for each in self.interventions]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:ID_LENGTH]

    def to_line(self, names: Names | None = None) -> bytes:
        """Return its line of `cells.jsonl`; `names` says how specs call vectors and probes, by default by name."""
        form = {
            "id": self.id,
            "controls": self.controls,
            "interventions": [each.to_json() for each in self.interventions],
            "spec": [str(each) if names is None else each.spec(names) for each in self.interventions],
        }
        return json.dumps(form, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def __repr__(self) -> str:
        specs = COMPOSED.join(map(str, self.interventions))
        return f"Cell({self.id}, {self.role}{': ' if specs else ''}{specs})"


class Reference(TypedDict):
    """How JSON names a vector or probe."""

    name: str
    sha256: str


class SteeringForm(TypedDict):
    """The JSON form of a steering; `follows` stands in it where its strength follows a reader."""

    vector: Reference
    layers: list[int]
    strength: float
    operation: str
    scope: str
    target: float | None
    half_life: float | None
    positions: Literal["last", "boundaries", "lines", "every"]
    follows: NotRequired[Json]
    gate: Json | None


@dataclass(frozen=True)
class GateField:
    """A gate of a cell, as tables show it."""

    name: str
    threshold: float

    def __str__(self) -> str:
        return f"{self.name} ≥ {self.threshold:.3g}"


@dataclass(frozen=True, eq=False)
class RunCell:
    """A cell of a run. `forms` are its interventions as JSON, `specs` as spec strings, for reading and pasting alone.

    `vector`, `strength`, `scope`, `operation`, `target`, `half_life` and `positions` are those of its one steering,
    None for a composition; `layer` also where that acts on several layers. The unsteered cell has strength 0.
    """

    id: str
    controls: str | None = None
    forms: Sequence[Json] = ()
    specs: Sequence[str] = ()
    folder: Path | None = field(default=None, repr=False)  # of the vectors and probes

    @classmethod
    def of(cls, cell: Cell) -> RunCell:
        """Return the cell as a run would show it, without a run."""
        return cls.from_line(cell.to_line())

    @classmethod
    def from_line(cls, line: bytes, folder: Path | None = None) -> RunCell:
        """Return the cell of a line of `cells.jsonl`. Raises ValueError, in one line, where it is none."""
        try:
            form = json.loads(line.decode("utf-8"))
        except RecursionError as error:
            raise ValueError(str(error)) from None
        if type(form) is not dict or form.keys() != {"id", "controls", "interventions", "spec"}:
            raise ValueError("a cell has id, controls, interventions and spec")
        try:
            cell = cls(form["id"], form["controls"], form["interventions"], form["spec"], folder)
            cell.place and cell.to_json()  # every field is read, so that a damaged one is met here
        except (KeyError, TypeError, AttributeError, ValueError, StopIteration) as error:
            raise ValueError(f"an intervention of the cell is incomplete: {error!r}") from error
        return cell

    @property
    def role(self) -> Role:
        """What the cell is in the experiment; `edited` is one without a steering."""
        return _role([form["kind"] for form in self.forms], self.controls)

    @property
    def spec(self) -> str:
        """All interventions as one spec string; empty for the unsteered model."""
        return COMPOSED.join(self.specs)

    @property
    def steerings(self) -> list[SteeringForm]:
        """The JSON forms of its steerings."""
        return [cast(SteeringForm, form) for form in self.forms if form["kind"] == "steering"]

    @property
    def vector(self) -> str | None:
        """The vector's name."""
        return self._only and self._only["vector"]["name"]

    @property
    def layer(self) -> int | None:
        """The one layer."""
        layers = () if self._only is None else self._only["layers"]
        return layers[0] if len(layers) == 1 else None

    @property
    def strength(self) -> float | None:
        """The strength."""
        return self._only and self._only["strength"] if self.forms else 0.0

    @property
    def operation(self) -> str | None:
        """The operation's name."""
        return self._only and self._only["operation"]

    @property
    def scope(self) -> str | None:
        """The scope."""
        return self._only and self._only["scope"]

    @property
    def target(self) -> float | None:
        """The target of an operation that has one."""
        return self._only and self._only["target"]

    @property
    def half_life(self) -> float | None:
        """The half-life in tokens; None also where the strength stays the same."""
        return self._only and self._only["half_life"]

    @property
    def positions(self) -> str | None:
        """The positions."""
        return self._only and self._only["positions"]

    @property
    def follows(self) -> str | None:
        """What the strength of its one steering follows, as `ramp of entropy`."""
        if self._only is None or "follows" not in self._only:
            return None
        form = self._only["follows"]
        return f"{form['kind']} of {_reader_name(form['reader'])}"

    @property
    def gates(self) -> list[GateField]:
        """The gates, in the order of the interventions, each once."""
        gates = (form["gate"] for form in self.forms if form["gate"] is not None)
        return list(dict.fromkeys(GateField(_gate_name(gate), gate["threshold"]) for gate in gates))

    @property
    def edits(self) -> list[str]:
        """What its prompt edits and rules on logits are called, whatever their amounts."""
        return [_edit_name(form) for form in self.forms if form["kind"] != "steering"]

    @property
    def exact_edits(self) -> list[str]:
        """The same with their amounts, such as `refusal-bias@bias=2`."""
        return [_edit_name(form) + _amounts(form) for form in self.forms if form["kind"] != "steering"]

    @property
    def mover(self) -> str:
        """What moves the model, whatever layer, strength, amount and gate; empty for the unsteered model.

        The vector's name with the operation unless that is `add`, its half-life and its positions if it has any; the
        names of prompt edits and rules; or all of them.
        """
        return " + ".join([*self._movers, *self.edits])

    @property
    def name(self) -> str:
        """What a reader calls the cell, gates left out: its mover, with amounts, and layers where it has several."""
        if self.role in ("unsteered", "random"):
            return self.role
        movers = self._movers
        if self.follows and self._only is not None:
            movers = [movers[0].replace(self.follows, _followed(self._only["follows"]))]
        if self.layer is None:
            movers = [
                f"{form['vector']['name']}@{'+'.join(map(str, form['layers']))},{form['strength']:g}"
                for form in self.steerings
            ]
        return " + ".join([*movers, *self.exact_edits])

    @property
    def place(self) -> tuple[Any, ...]:
        """What orders the cells of a run; a random control has the place of its cell.

        Vector and edits first, layer and strength last. Of cells that differ only in when they act, the one that
        pushes less comes first: at boundaries before line ends before everywhere, and fading fast before slowly.
        """
        vectors = self.controls or COMPOSED.join(form["vector"]["name"] for form in self.steerings)
        edits = [json.dumps(form, sort_keys=True) for form in self.forms if form["kind"] != "steering"]
        return vectors, edits, [_order(form) for form in self.steerings]

    @property
    def tensors(self) -> Iterator[tuple[str, str, str]]:
        """(noun, name, digest) of each vector and probe that it needs."""
        for form in self.forms:
            # What its strength follows, and what triggers it, where it has either.
            reads = (form[key]["reader"] for key in ("follows", "when") if form.get(key))
            for holder in (form, *reads, form["gate"] or {}):
                for noun in ("vector", "probe"):
                    if noun in holder:
                        yield noun, holder[noun]["name"], holder[noun]["sha256"]

    @functools.cached_property
    def interventions(self) -> tuple[Intervention, ...]:
        """Its interventions, from the run's own files alone.

        Raises InputError where a vector or probe is not there or has other contents than it had.
        """
        from steerkit.interventions.store import Store, from_json  # heavy, and for those who steer alone

        needs = f"cell {self.id}"
        folder = self.folder or Path()
        parts = [stored_part(folder, noun, digest, needs) for noun, _, digest in self.tensors]
        store = Store(parts, files=False)
        cell = Cell(tuple(from_json(form, store) for form in self.forms), self.controls)
        if cell.id != self.id:
            raise InputError(
                f"cell {self.id} is damaged: its interventions have the digest of cell {cell.id}"
            )
        return cell.interventions

    def to_json(self) -> dict[str, Any]:
        """Return its fields as a flat object, for tables and machines."""
        return {
            "cell": self.id,
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
            "edits": COMPOSED.join(self.exact_edits),
            "gates": COMPOSED.join(map(str, self.gates)),
        }

    def __repr__(self) -> str:
        return f"RunCell({self.id}, {self.role}{': ' if self.spec else ''}{self.spec})"

    @functools.cached_property
    def _only(self) -> SteeringForm | None:
        return self.steerings[0] if len(self.steerings) == 1 else None

    @property
    def _movers(self) -> list[str]:
        if self._only is None:
            return ["composition"] if self.steerings else []
        manner = [
            *([self.operation] if self.operation != "add" else []),
            *([f"half-life {self.half_life:g}"] if self.half_life is not None else []),
            *([self.positions] if self.positions != "every" else []),
            *([self.follows] if self.follows else []),
        ]
        return [f"{self.vector} ({', '.join(map(str, manner))})" if manner else str(self.vector)]


def stored_part(folder: Path, noun: str, digest: str, needed_by: str) -> SteeringVector | Probe:
    """Return the vector or probe of this digest from a run's folder `vectors`.

    Raises InputError where it is not there or has other contents than its name says.
    """
    from steerkit.interventions.probe import load_probe
    from steerkit.interventions.vector import load_vector

    path = tensor_file(folder, digest)
    if not path.is_file():
        raise InputError(f"{needed_by} needs {path}, which is not there: restore it, or sweep anew")
    part: SteeringVector | Probe = load_vector(path) if noun == "vector" else load_probe(path)
    if part.digest != digest:
        raise InputError(f"{path} has other contents than its name says: restore it, or sweep anew")
    return part


def tensor_file(folder: Path, digest: str) -> Path:
    """The file of a vector or probe in a run's folder `vectors`."""
    return folder / f"{digest}.safetensors"


def _role(kinds: Collection[str], controls: str | None) -> Role:
    if not kinds:
        return "unsteered"
    if "steering" not in kinds:
        return "edited"
    return "steered" if controls is None else "random"


def _reader_name(reader: Json) -> str:
    part = reader.get("vector") or reader.get("probe") or reader["reader"]
    return str(part["name"] if isinstance(part, Mapping) else part)


def _followed(form: Json) -> str:
    """A strength's function of a reader with its numbers; those that are as usual are left out."""
    name, where = (
        _reader_name(form["reader"]),
        "" if form["renewed"] == "every" else f", at {form['renewed']}",
    )
    if form["kind"] == "switch":
        return f"switch of {name}, on at {form['on']:.3g}, off at {form['off']:.3g}{where}"
    factors = (form["least"], form["most"])
    turned = "" if factors == (0, 1) else f", from {form['least']:g} to {form['most']:g} times"
    return f"ramp of {name}, {form['low']:.3g} to {form['high']:.3g}{turned}{where}"


def _gate_name(gate: Json) -> str:
    part = gate[gate["kind"] if gate["kind"] != "position" else "vector"]
    return str(part["name"] if isinstance(part, Mapping) else part)


def _edit_name(form: Json) -> str:
    """A prompt edit's name, or the beginning of its first text; a rule's own name, or the registered one."""
    if form.get("name") or "rule" in form:
        return str(form.get("name") or form["rule"])
    field, text = next((name, form[name]) for name in ("system", "instruction", "begin") if form[name])
    return f"{field} {json.dumps(text[:LONGEST_EXCERPT], ensure_ascii=False)}"


def _amounts(form: Json) -> str:
    numbers = [f"{name}={shortest(value)}" for name, value in form.items() if type(value) in (int, float)]
    amounts = "@" + ",".join(numbers) if numbers else ""
    if trigger := form.get("when"):
        sign = "≥" if trigger["on"] >= trigger["off"] else "≤"
        amounts += f" when {_reader_name(trigger['reader'])} {sign} {trigger['on']:.3g}"
    return amounts


def _order(form: SteeringForm) -> tuple[Any, ...]:
    """The fields of a steering as something that sorts, layer and strength last."""
    return (
        form["operation"],
        form["scope"],
        -math.inf if form["target"] is None else form["target"],
        "" if form["gate"] is None else json.dumps(form["gate"], sort_keys=True),
        json.dumps(form.get("follows"), sort_keys=True),
        POSITIONS.index(form["positions"]),
        math.inf if form["half_life"] is None else form["half_life"],
        form["layers"],
        form["strength"],
    )
