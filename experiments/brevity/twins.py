"""Does brevity steering raise or lower abstention? Three directions at one measured KL, on problems and their twins.

A twin lacks a number that the answer needs, so it should be abstained from. The brevity vector, the same taken away,
and a random direction of its norm are each calibrated to the same KL(unsteered ‖ steered), hence push equally hard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import steerkit as sk
from experiments.brevity.strengths import Strengths
from experiments.reasoning_tax.results import compared, table
from steerkit.core.bootstrap import Estimate
from steerkit.interventions.steering import Steering
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record

TARGETS = (0.1, 0.5)
BRIEF, AWAY, RANDOM = "brevity", "minus brevity", "random"
METRICS = ("abstention_recall", "over_abstention", "accuracy", "thinking_tokens", "tokens", "truncated")
CELLS = 2 * (1 + 3 * len(TARGETS))  # two contexts, each by itself and under three directions
FLOOR = 0.05  # recall whose interval ends below it leaves nothing to lower, and says little of what raises it


@dataclass(frozen=True)
class Context:
    """What the three directions are compared in: the model as it is, or asked to say when it does not know."""

    name: str
    edits: tuple[sk.Intervention, ...]

    def cell(self, *steerings: Steering, controls: str | None = None) -> Cell:
        """The context's own cell, or steerings in it."""
        return Cell((*self.edits, *steerings), controls)


def contexts() -> tuple[Context, ...]:
    """The model as it is, and under the instruction to say "I don't know"."""
    return (
        Context("as it is", ()),
        Context('told to say "I don\'t know"', (sk.parse("dont-know-instruction"),)),
    )


def directions(steering: Steering, strengths: Strengths) -> dict[tuple[float, str], Steering]:
    """For each KL target and direction: the direction at that KL, at the steering's layer and scope.

    A steering that fades or keeps to boundaries is compared without that, as the KL is measured.
    """
    (layer,) = steering.layers
    vector = steering.vector
    made = {}
    for target in TARGETS:
        for name, acting, sign in (
            (BRIEF, vector, 1),
            (AWAY, vector, -1),
            (RANDOM, vector.random_control(), 1),
        ):
            found = strengths.at(acting, layer, target, steering.scope, sign)
            made[target, name] = acting.at(layer, found.record.strength, scope=steering.scope)
    return made


def cells(made: Mapping[tuple[float, str], Steering]) -> list[Cell]:
    """Everything that is measured: each context by itself and under each direction."""
    all_cells = []
    for context in contexts():
        all_cells.append(context.cell())
        for (_, name), steering in made.items():
            controls = steering.vector.name if name == RANDOM else None
            all_cells.append(context.cell(steering, controls=controls))
    return all_cells


def section(
    title: str, made: Mapping[tuple[float, str], Steering], records: Sequence[Record]
) -> tuple[str, list[str]]:
    """The tables of one set of questions, and what they answer in a sentence for each context and target."""
    parts, answers = [f"### {title}"], []
    for context in contexts():
        plain = _of(records, context.cell())
        by_direction = {key: _of(records, context.cell(steering)) for key, steering in made.items()}
        rows = compared(
            {"unsteered": plain}
            | {f"{name}, KL {target:g}": some for (target, name), some in by_direction.items()}
        )
        parts += [f"{context.name[0].upper()}{context.name[1:]}:", table(rows, METRICS)]
        recall = rows["unsteered"].levels.get("abstention_recall")
        for target in TARGETS:
            against = compared({name: by_direction[target, name] for name in (RANDOM, BRIEF, AWAY)})
            where = f"{title}, {context.name}, KL {target:g}"
            answers.append(
                answer(where, recall, rows[f"{BRIEF}, KL {target:g}"].changes, against[BRIEF].changes)
            )
            answers[-1] += (
                f" Taken away, against random: {_said(against[AWAY].changes, 'abstention_recall')}."
            )
    return "\n\n".join(parts), answers


def answer(
    where: str,
    unsteered: Estimate | None,
    against_unsteered: Mapping[str, Estimate],
    against_random: Mapping[str, Estimate],
) -> str:
    """What a comparison says: brevity raises or lowers recall where both paired intervals lie on one side of 0."""
    both = [
        found
        for changes in (against_unsteered, against_random)
        if (found := changes.get("abstention_recall")) is not None
    ]
    if len(both) < 2:
        return f"- {where}: no twin was measured."
    if all(change.low > 0 for change in both):
        verdict = "**raises** abstention"
    elif all(change.high < 0 for change in both):
        verdict = "**lowers** abstention"
    else:
        verdict = "no effect on abstention that both comparisons show"
    floor = ""
    if unsteered is not None and unsteered.high < FLOOR:
        floor = (
            f" (recall is at its floor, {unsteered.value:.2f} [{unsteered.low:.2f}, {unsteered.high:.2f}])"
        )
    return (
        f"- {where}: {verdict}{floor}. Recall, against unsteered {_said(against_unsteered, 'abstention_recall')}, "
        f"against random {_said(against_random, 'abstention_recall')}; over-abstention, against random "
        f"{_said(against_random, 'over_abstention')}."
    )


def _said(changes: Mapping[str, Estimate], metric: str) -> str:
    found = changes.get(metric)
    return "–" if found is None else f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _of(records: Sequence[Record], cell: Cell) -> list[Record]:
    return [record for record in records if record.cell == cell.id]
