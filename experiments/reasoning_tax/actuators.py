"""What the long variant is steered with, where, and under which gates: the ways of paying back, fixed beforehand.

Actuators: its own vector, fitted where its completions begin (in the chain's place) and where its answers begin
(behind a chain), and the base's; beside them a bias on how the answer opens. The instruction is the condition "told".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import steerkit as sk
from experiments.reasoning_tax.gates import Reading, gated, under_gate
from experiments.reasoning_tax.setting import Setting, kept
from steerkit.pairs import ContrastPairs
from steerkit.steering import Scope
from steerkit.sweeps.grid import Cell
from steerkit.sweeps.store import Record

AFTER_CHAIN = "Okay, let me think about this.\n</think>\n"

# On the answer a cell costs a sentence, on the whole completion a chain: a grid of the one, a handful of the other.
# At layers 12 and 14 the base's vector is known to act; 16 stands for "later". The two largest strengths and biases
# were added after the others had given nothing back, on `choose` as on `report`.
ANSWER_LAYERS, ANSWER_STRENGTHS = (12, 16), (0.5, 1.0, 1.5, 3.0, 6.0)
COMPLETION_LAYERS, COMPLETION_STRENGTHS = (14,), (1.0,)
ON_COMPLETION = ("own", "base")
BIASES = (4.0, 8.0, 16.0, 32.0)

Written = Mapping[str, Mapping[str, Record]]  # by the id of an ungated cell, then by item


@dataclass(frozen=True)
class Way:
    """A cell as it is recorded; the ungated cell that acts in it; the probe's reading and gate, where it has them."""

    cell: Cell
    acting: Cell
    reading: Reading | None = None
    gate: sk.ProbeGate | None = None

    @property
    def family(self) -> str:
        """What competes: an actuator where it acts, and what gates it."""
        return f"{actuator(self.acting)}, {f'gate of {self.reading.name}' if self.reading else 'ungated'}"

    def records(self, written: Written, plain: Mapping[str, Record]) -> Iterator[Record]:
        """What the cell would have recorded, from what it wrote ungated and what the model wrote without it."""
        return gated(self.cell, written[self.acting.id], plain, self.reading, self.gate)


def vectors_of(
    setting: Setting, lm: sk.LanguageModel, base: sk.LanguageModel
) -> dict[str, sk.SteeringVector]:
    """The three vectors, made once and kept."""
    pairs = sk.load_pairs("abstention")
    assert isinstance(pairs, ContrastPairs)
    makers = {
        "own": lambda: sk.extract(lm, pairs),
        "own-answer": lambda: sk.extract(lm, after_a_chain(pairs)),
        "base": lambda: sk.extract(base, pairs),
    }
    return {name: kept(setting.out / "back" / f"{name}.safetensors", make) for name, make in makers.items()}


def after_a_chain(pairs: ContrastPairs) -> ContrastPairs:
    """The pairs with their completions where a reasoning model answers: behind a chain, the same on both sides."""
    moved = (
        replace(pair, positive=AFTER_CHAIN + pair.positive, negative=AFTER_CHAIN + pair.negative)
        for pair in pairs.pairs
    )
    return ContrastPairs(f"{pairs.name}, after a chain", tuple(moved))


def on_answers(vectors: Mapping[str, sk.SteeringVector]) -> list[Cell]:
    """The cells that act on the answer alone."""
    steered = [
        Cell((vector.at(layer, strength, "answer"),))
        for vector, layer, strength in product(vectors.values(), ANSWER_LAYERS, ANSWER_STRENGTHS)
    ]
    return [*steered, *(Cell(decoration=bias_on_answers(bias)) for bias in BIASES)]


def on_completions(vectors: Mapping[str, sk.SteeringVector]) -> list[Cell]:
    """The cells that act on the whole completion."""
    return [
        Cell((vectors[name].at(layer, strength, "completion"),))
        for name, layer, strength in product(ON_COMPLETION, COMPLETION_LAYERS, COMPLETION_STRENGTHS)
    ]


def bias_on_answers(bias: float) -> sk.Decoration:
    """The built-in bias on refusal openers, where an answer begins: behind the marker comes a line break.

    A run keeps one bias for a name, hence a name for each: so the grid may grow.
    """
    known = sk.parse_decoration("refusal-bias")
    openers = tuple(f"\n{opener}" for opener in known.openers)
    return replace(known, name=f"answer-bias-{bias:g}", openers=openers, bias=bias)


def ways_of(cell: Cell, found: Iterable[Reading]) -> Iterator[Way]:
    """The cell ungated, and under every gate."""
    yield Way(cell, cell)
    for read in found:
        for gate in read.gates:
            yield Way(under_gate(cell, gate), cell, read, gate)


def scope_of(cell: Cell) -> Scope:
    """Where an ungated cell acts; the bias is on the answer."""
    return cell.steerings[0].scope if cell.steerings else "answer"


def actuator(cell: Cell) -> str:
    """What acts, and where."""
    if cell.decoration is not None:
        return "bias on the answer"
    return f"{cell.steerings[0].vector.name} on the {scope_of(cell)}"


def at_random(way: Way) -> Way:
    """The way with a random direction of the same norm in the place of its vector."""
    return replace(way, cell=_random(way.cell), acting=_random(way.acting))


def _random(cell: Cell) -> Cell:
    steerings = tuple(replace(s, vector=s.vector.random_control()) for s in cell.steerings)
    return replace(cell, steerings=steerings, controls=cell.steerings[0].vector.name)
