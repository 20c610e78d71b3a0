"""The cells of the study, by actuator: fixed before any of them was measured in full, or at all on `report`.

A family is one vector at one layer and scope at several strengths, which are multiples of the strength whose KL is
`UNIT_KL`, measured for that vector and layer over the whole completion. For small strengths KL grows with the square of
the strength, so the multiples 0.5, 1, 2 and 3 ask for about 0.025, 0.1, 0.4 and 0.9 nats: from hardly anything to where
accuracy falls (in a trial of the base on four items of `choose`, replies at multiple 4 never ended). One unit serves
both scopes: the roll-outs that it is measured on end while the reasoner still thinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import steerkit as sk
from steerkit.analysis.summary import Row
from steerkit.interventions.steering import Positions, Scope
from steerkit.runs.cells import Cell
from steerkit.sweeps.grid import distinct

UNIT_KL = 0.1
RANDOM = "random direction"


@dataclass(frozen=True)
class Family:
    """A vector at one place, at `multiples` of the unit strength; `published`: at the closed form's besides."""

    actuator: str
    vector: str
    layer: int
    scope: Scope
    multiples: tuple[float, ...]
    half_life: float | None = None
    positions: Positions = "every"
    published: bool = False
    random: bool = False  # random directions of the vector's norm, in its place
    follows: bool = False  # the strength is turned, sign and all, by the row's own confidence


# "Own lines" was added after a trial of it on 16 items of `choose`, when the others were known to save 30% there, and
# "both learned" after the second round on `choose`, where one of the two saved 67% and the other doubled the accuracy.
# Layer 20 of 30 is ASC's two thirds of the depth; 14 is in the middle, where earlier studies of this base steered.
REASONER = (
    Family("ASC", "asc", 20, "completion", (0.25, 0.5, 1), published=True),
    Family("own style, last token", "style-last", 20, "completion", (0.5, 1)),
    Family("own style, last token", "style-last", 20, "thinking", (0.5, 1, 2)),
    Family("own style, mean", "style-mean", 14, "completion", (0.5, 1)),
    Family("own style, mean", "style-mean", 14, "thinking", (0.5, 1, 1.5, 2, 3)),
    Family("own style, mean", "style-mean", 20, "thinking", (1, 2)),
    Family("learned", "learned", 14, "completion", (0.5, 1)),
    Family("learned", "learned", 14, "thinking", (0.5, 1, 2)),
    Family("own lines", "own-lines", 14, "thinking", (1.5, 2, 2.5)),
    Family("own lines", "own-lines", 14, "thinking", (3, 4, 5), half_life=32),
    Family("own lines", "own-lines", 14, "thinking", (2, 3, 4), half_life=64),
    Family("both learned", "both", 14, "thinking", (1, 1.5, 2, 2.5)),
    Family("both learned", "both", 14, "thinking", (1.5, 2, 2.5), half_life=64),
    Family("fading", "style-mean", 14, "thinking", (1, 2), half_life=64),
    Family("fading", "learned", 14, "thinking", (1, 2), half_life=64),
    Family("step boundaries", "style-mean", 14, "thinking", (2,), positions="boundaries"),
    Family("line ends", "style-mean", 14, "thinking", (2, 4, 8), positions="lines"),
    Family(RANDOM, "style-mean", 14, "thinking", (1, 2), random=True),
)
# Of the second reasoner, whose chains help it: grouped by how the strength is set, because each group's pick is
# measured on 100 problems. Fixed before it was steered.
SECOND_REASONER = (
    Family("ASC", "asc", 20, "completion", (0.25, 0.5, 1), published=True),
    Family("fixed strength", "style-last", 20, "thinking", (0.5, 1, 2)),
    Family("fixed strength", "style-mean", 14, "completion", (0.5, 1)),
    Family("fixed strength", "style-mean", 14, "thinking", (0.5, 1, 1.5, 2, 3)),
    Family("fixed strength", "style-mean", 20, "thinking", (1, 2)),
    Family("fixed strength", "learned", 14, "thinking", (0.5, 1, 2)),
    Family("fixed strength", "own-lines", 14, "thinking", (0.5, 1, 1.5, 2)),
    Family("half-life", "style-mean", 14, "thinking", (1, 2, 3), half_life=64),
    Family("half-life", "learned", 14, "thinking", (1, 2), half_life=64),
    Family("half-life", "own-lines", 14, "thinking", (1, 2, 3), half_life=32),
    Family("ReBalance", "style-mean", 14, "thinking", (1, 2, 3), follows=True),
    Family("ReBalance", "own-lines", 14, "thinking", (1, 2), follows=True),
    Family(RANDOM, "style-mean", 14, "thinking", (1, 2), random=True),
)
BASE = (
    Family("ASC", "asc", 20, "completion", (0.25, 0.5, 1), published=True),
    Family("built-in pairs, mean", "brevity-mean", 12, "completion", (0.25, 0.5, 1)),
    Family("own words, mean", "own-words", 12, "completion", (0.25, 0.5, 1, 1.5, 2)),
    Family("fading", "own-words", 12, "completion", (1, 2), half_life=32),
    Family("step boundaries", "own-words", 12, "completion", (1, 2), positions="boundaries"),
    Family(RANDOM, "own-words", 12, "completion", (0.5, 1), random=True),
)

CONCISE = sk.PromptEdit(instruction="Be concise.", name="concise-instruction")
PROMPTS: Mapping[str, Sequence[str | sk.Intervention]] = {
    "prompt": ("concise-system", CONCISE, "chain-of-draft"),
}
LOGIT_RULES: Mapping[str, Sequence[str | sk.Intervention]] = {
    "thinking budget": (
        "thinking-budget@tokens=32",
        "thinking-budget@tokens=64",
        "thinking-budget@tokens=128",
    ),
    # The cyclic rule's published period is longer than a chain here, which it would never see fall; hence a second one.
    "switch penalty": (
        "tip@alpha=3,beta=600",
        "cyclic-reflex@amplitude=3,period=600",
        "cyclic-reflex@amplitude=3,period=200",
    ),
}
# The same for the second reasoner; its chains have a line for each fact and step, so a policy that reads how sure the
# model is looks at every token, or where lines begin, and closes the thinking where its mean entropy falls below `on`.
POLICIES = (
    "reply-now@when=entropy,on=0.02,off=1,smoothing=16",
    "reply-now@when=entropy,on=0.05,off=1,smoothing=16",
    "reply-now@when=entropy,on=0.05,off=1,smoothing=4,renewed=lines",
    "reply-now@when=entropy,on=0.05,off=1,smoothing=6,renewed=lines",
)
SECOND_EDITS: Mapping[str, Sequence[str | sk.Intervention]] = {
    "prompt": ("concise-system", CONCISE),
    "chain of draft": ("chain-of-draft",),
    "thinking budget": (
        "thinking-budget@tokens=32",
        "thinking-budget@tokens=64",
        "thinking-budget@tokens=96",
    ),
    "TIP": ("tip@alpha=3,beta=600",),
    "policy": POLICIES,
}


@dataclass(frozen=True)
class Plan:
    """What a study measures: the vectors' families, and what competes with them.

    Each actuator's pick is measured on `compared` items, the headline on `twins` items with and without an answer.
    """

    families: Sequence[Family]
    edits: Mapping[str, Sequence[str | sk.Intervention]]
    compared: int = 60
    twins: int = 64


SECOND = "smollm2-135m-reasoner-2"


def plan_of(model: str, thinks: bool) -> Plan:
    """The plan of a model: the second reasoner's, another thinking model's, or that of one that does not think."""
    if model == SECOND:
        return Plan(SECOND_REASONER, SECOND_EDITS, compared=1000, twins=64)
    return Plan(REASONER, {**PROMPTS, **LOGIT_RULES}) if thinks else Plan(BASE, PROMPTS)


@dataclass(frozen=True)
class Grid:
    """The cells, the unsteered one first, and by cell id what acts there; the unsteered cell has no actuator."""

    cells: tuple[Cell, ...]
    actuators: Mapping[str, str]

    def cell(self, cell_id: str) -> Cell:
        """The cell of that id."""
        return next(cell for cell in self.cells if cell.id == cell_id)

    def rows(self, rows: Sequence[Row], actuator: str) -> list[Row]:
        """Those of the rows in which the actuator acts."""
        return [row for row in rows if self.actuators.get(row.cell) == actuator]


UnitStrengths = Callable[[sk.SteeringVector, int], tuple[float, float | None]]
"""For a vector and a layer: the strength at `UNIT_KL`, and what the published closed form gives."""


def build(
    families: Sequence[Family],
    vectors: Mapping[str, sk.SteeringVector],
    units: UnitStrengths,
    edits: Mapping[str, Sequence[str | sk.Intervention]],
    ramp: sk.StrengthRamp | None = None,
) -> Grid:
    """The cells of the families, the prompts and the rules, led by the unsteered one.

    `ramp` is what turns the strength of a family that follows the row's confidence.
    """
    cells = [Cell()]
    actuators: dict[str, str] = {}
    for family in families:
        vector = vectors[family.vector]
        unit, published = units(vector, family.layer)
        strengths = [unit * multiple for multiple in family.multiples]
        if family.published and published:  # the closed form gives 0 where it breaks down
            strengths.insert(0, published)
        acting = vector.random_control() if family.random else vector
        for strength in strengths:
            steering = acting.at(
                family.layer,
                float(f"{strength:.3g}"),  # a spec that can be read; KL moves by less than its own tolerance
                scope=family.scope,
                half_life=family.half_life,
                positions=family.positions,
                follows=ramp if family.follows else None,
            )
            cells.append(Cell((steering,), controls=vector.name if family.random else None))
            actuators[cells[-1].id] = family.actuator
    for actuator, some in edits.items():
        for edit in some:
            cells.append(Cell((sk.parse(edit) if isinstance(edit, str) else edit,)))
            actuators[cells[-1].id] = actuator
    return Grid(tuple(distinct(cells)), actuators)


def control(cell: Cell) -> Cell:
    """A random direction of the same norm in the place of a cell's vector."""
    (steering,) = cell.interventions
    assert isinstance(steering, sk.Steering)
    return Cell((replace(steering, vector=steering.vector.random_control()),), steering.vector.name)
