"""What the reasoning model is steered with, where, and under which gates: the ways of paying back.

Actuators: its own vector, fitted where its completions begin (in the chain's place) and where its answers begin
(behind a chain), the base's, and two learned vectors (`learned.py`); beside them a bias on how the answer opens and a
reply that is forced. The instruction is the condition "told".

Three places. On the answer, the chain stays as it is. On the completion, the chain is steered too. With the thinking
closed, no chain has stated an answer: the budget for thinking is 0 and what follows is steered, be it an answer or
the chain that the model begins all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import steerkit as sk
from experiments.reasoning_tax import learned
from experiments.reasoning_tax.after_chains import CLOSING
from experiments.reasoning_tax.gates import Reading, gated, under_gate
from experiments.reasoning_tax.setting import Setting, kept
from steerkit.engines.base import steerings_of
from steerkit.extraction.pairs import ContrastPairs
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record

AFTER_CHAIN = "Okay, let me think about this.\n</think>\n"

# On the answer a cell costs a sentence, on the whole completion a chain: a grid of the one, a handful of the other.
# At layers 12 and 14 the base's vector is known to act; 16 stands for "later". The largest strength and bias were added
# after the others had given nothing back, on `choose` as on `report`; the learned vectors and what is done with the
# thinking closed after these had given nothing either, on a few items of `choose`.
ANSWER_LAYERS, ANSWER_STRENGTHS = (12, 16), (0.5, 1.0, 1.5, 3.0)
COMPLETION_LAYERS, COMPLETION_STRENGTHS = (14,), (1.0,)
ON_ANSWER, ON_COMPLETION = ("own", "own-answer", "base"), ("own", "base")
BIASES = (4.0, 8.0, 16.0)
LEARNED_STRENGTHS = (0.7, 1.0, 1.2, 1.4)
CLOSED = ((1.0, None), (1.4, 8.0))  # strengths, and half-lives in tokens, of which the marker has three
# All that is written, and then the turn ends: how far the gate goes, whatever acts behind it.
FORCED = sk.PromptEdit(begin=f"{CLOSING}{learned.REPLY}{learned.END}", name="canned-reply")

ActingOn = Literal["answer", "completion", "closed thinking"]
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

    @property
    def steers(self) -> bool:
        """Whether a vector acts."""
        return bool(steerings_of(self.acting.interventions))

    def records(self, written: Written, plain: Mapping[str, Record]) -> Iterator[Record]:
        """What the cell would have recorded, from what it wrote ungated and what the model wrote without it."""
        return gated(self.cell, written[self.acting.id], plain, self.reading, self.gate)


def vectors_of(
    setting: Setting, lm: sk.LanguageModel, base: sk.LanguageModel
) -> dict[str, sk.SteeringVector]:
    """The vectors by name, made once and kept."""
    pairs = sk.load_pairs("abstention")
    assert isinstance(pairs, ContrastPairs)
    makers = {
        "own": lambda: sk.extract(lm, pairs),
        "own-answer": lambda: sk.extract(lm, after_a_chain(pairs)),
        "base": lambda: sk.extract(base, pairs),
        "learned-answer": lambda: learned.for_answers(lm, pairs),
        "learned-closed": lambda: learned.for_closed_thinking(lm, pairs),
    }
    return {name: kept(setting.out / "back" / f"{name}.safetensors", make) for name, make in makers.items()}


def after_a_chain(pairs: ContrastPairs) -> ContrastPairs:
    """The pairs with their completions where a reasoning model answers: behind a chain, the same on both sides."""
    moved = (
        replace(pair, positive=AFTER_CHAIN + pair.positive, negative=AFTER_CHAIN + pair.negative)
        for pair in pairs.pairs
    )
    return ContrastPairs(f"{pairs.name}, after a chain", tuple(moved))


def on_answers(vectors: Mapping[str, sk.SteeringVector], means: Sequence[str] = ON_ANSWER) -> list[Cell]:
    """The cells that act on the answer alone, with these of the mean vectors."""
    places = [
        *product(means, ANSWER_LAYERS, ANSWER_STRENGTHS),
        *product(("learned-answer",), learned.LAYERS, LEARNED_STRENGTHS),
    ]
    steered = [Cell((vectors[name].at(layer, strength, scope="answer"),)) for name, layer, strength in places]
    return [*steered, *(Cell((bias_on_answers(bias),)) for bias in BIASES)]


def on_completions(vectors: Mapping[str, sk.SteeringVector]) -> list[Cell]:
    """The cells that act on the whole completion."""
    return [
        Cell((vectors[name].at(layer, strength, scope="completion"),))
        for name, layer, strength in product(ON_COMPLETION, COMPLETION_LAYERS, COMPLETION_STRENGTHS)
    ]


def on_closed_thinking(vectors: Mapping[str, sk.SteeringVector]) -> list[Cell]:
    """The cells that close the thinking at once: by itself, with the answer steered, and with a reply forced."""
    vector = vectors["learned-closed"]
    steered = [
        Cell((learned.AT_ONCE, vector.at(learned.LAYERS[0], strength, scope="answer", half_life=half_life)))
        for strength, half_life in CLOSED
    ]
    return [Cell((learned.AT_ONCE,)), *steered, forced_reply()]


def forced_reply() -> Cell:
    """The cell that closes the thinking and says that the answer is not known, whatever the model would write."""
    return Cell((FORCED,))


def in_condition(cell: Cell, told: tuple[sk.Intervention, ...]) -> Cell:
    """The cell as the engine runs it in a condition, whose instruction comes first."""
    return Cell((*told, *cell.interventions), cell.controls)


def bias_on_answers(bias: float) -> sk.OpenerBias:
    """The built-in bias on refusal openers, where an answer begins: behind the marker comes a line break."""
    known = sk.parse("refusal-bias")
    assert isinstance(known, sk.OpenerBias)
    return sk.OpenerBias(tuple(f"\n{opener}" for opener in known.openers), bias, "answer-bias")


def ways_of(cell: Cell, found: Iterable[Reading]) -> Iterator[Way]:
    """The cell ungated, and under every gate."""
    yield Way(cell, cell)
    for read in found:
        for gate in read.gates:
            yield Way(under_gate(cell, gate), cell, read, gate)


def acting_on(cell: Cell) -> ActingOn:
    """Where an ungated cell acts; the bias is on the answer."""
    if {learned.AT_ONCE, FORCED}.intersection(cell.interventions):
        return "closed thinking"
    return (
        "completion" if any(s.scope == "completion" for s in steerings_of(cell.interventions)) else "answer"
    )


def actuator(cell: Cell) -> str:
    """What acts, and where."""
    place = acting_on(cell)
    for steering in steerings_of(cell.interventions):
        how = "with the thinking closed" if place == "closed thinking" else f"on the {place}"
        return f"{steering.label} {how}"
    if place == "answer":
        return "bias on the answer"
    return "forced reply" if FORCED in cell.interventions else "thinking closed"


def at_random(way: Way) -> Way:
    """The way with a random direction of the same norm in the place of its vector."""
    return replace(way, cell=_random(way.cell), acting=_random(way.acting))


def _random(cell: Cell) -> Cell:
    random = tuple(
        replace(each, vector=each.vector.random_control()) if isinstance(each, sk.Steering) else each
        for each in cell.interventions
    )
    return Cell(random, controls=steerings_of(cell.interventions)[0].label)
