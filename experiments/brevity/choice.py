"""What is chosen on `choose`, and by which rules: all fixed before anything was run.

Two rounds. In the first, every cell meets the same few items, and each actuator's cell is picked. A few items hardly
tell a point of accuracy from none, so the cell over all vectors, which the study shows and publishes, is picked in a
second round: the finalists, the first round's frontier near the unsteered accuracy, on four times as many items.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.brevity.grid import RANDOM, Grid
from steerkit.analysis.choosing import choose_cell, nearest_cell, parse_rule
from steerkit.analysis.frontier import pareto_frontier
from steerkit.analysis.summary import Row
from steerkit.core.errors import MisuseError
from steerkit.core.files import replacing
from steerkit.runs.cells import Cell
from steerkit.sweeps.confirmation import relative_doses

RULES = {
    "strict": "{tokens} s.t. accuracy_drop<=0.01, truncated_rise<=0",
    "loose": "{tokens} s.t. accuracy_drop<=0.05, truncated_rise<=0",
}
FINALISTS = 6
FINALISTS_DROP = 0.1  # in the first round, whose accuracies are uncertain by several points

Picks = Mapping[str, Cell | None]


@dataclass(frozen=True)
class Choice:
    """What the rules pick: `picked` by rule and actuator in the first round, `best` by rule over all vectors.

    `headline` is the vectors' cell that is shown and published, and `rule` what picked it. `rows` and `final_rows`
    summarise the two rounds.
    """

    rules: Mapping[str, str]
    rows: Sequence[Row]
    final_rows: Sequence[Row]
    picked: Mapping[str, Picks]
    best: Picks
    headline: Cell
    rule: str


def rules(tokens: str) -> dict[str, str]:
    """The rules by name, for the metric that is to fall: `thinking_tokens`, or `tokens` of a model without chains."""
    return {name: rule.format(tokens=tokens) for name, rule in RULES.items()}


def finalists(grid: Grid, rows: Sequence[Row], tokens: str) -> list[Cell]:
    """The vectors' cells on the frontier of accuracy and tokens that lose at most `FINALISTS_DROP`.

    At most `FINALISTS`, those with the fewest tokens; where no cell is near enough, the most accurate ones.
    """
    frontier = pareto_frontier(_steered(rows), "accuracy", tokens)  # the most accurate first
    near = [row for row in frontier if row.changes["accuracy"].value >= -FINALISTS_DROP]
    return [grid.cell(row.cell) for row in near[-FINALISTS:] or frontier[:FINALISTS]]


def chosen(grid: Grid, rows: Sequence[Row], final_rows: Sequence[Row], tokens: str) -> Choice:
    """Apply the rules to both rounds.

    The headline is the first rule's pick, else the next one's, else the cell that comes nearest to the first.
    """
    by_name = rules(tokens)
    doses = relative_doses(grid.cells)

    def pick(some: Sequence[Row], rule: str) -> Cell | None:
        row = choose_cell(some, rule, doses=doses)
        return row and grid.cell(row.cell)

    actuators = [name for name in dict.fromkeys(grid.actuators.values()) if name != RANDOM]
    picked = {
        name: {actuator: pick(grid.rows(rows, actuator), rule) for actuator in actuators}
        for name, rule in by_name.items()
    }
    final = _steered(final_rows)
    best = {name: pick(final, rule) for name, rule in by_name.items()}
    for name, cell in best.items():
        if cell is not None:
            return Choice(by_name, rows, final_rows, picked, best, cell, name)
    name, rule = next(iter(by_name.items()))
    nearest = nearest_cell(final, parse_rule(rule), doses)
    assert nearest is not None  # there is a finalist, and it was measured
    cell = grid.cell(nearest.cell)
    return Choice(by_name, rows, final_rows, picked, best, cell, f"nearest to {name}")


def keep(path: Path, choice: Choice, actuator: str, facts: Mapping[str, Any]) -> None:
    """Write down what was chosen, before `report` is asked. Raises MisuseError where something else was."""
    written: dict[str, Any] = {
        **facts,
        "rule": choice.rule,
        "actuator": actuator,
        "cell": choice.headline.id,
        "spec": str(choice.headline.interventions[0]),
        "best": {name: cell and cell.id for name, cell in choice.best.items()},
        "picked": {
            name: {actuator: cell and cell.id for actuator, cell in picks.items()}
            for name, picks in choice.picked.items()
        },
    }
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != written:
            raise MisuseError(
                f"{path.parent} has chosen otherwise before, and may have reported on it: name another --out"
            )
        return
    with replacing(path, "the choice") as scratch:
        scratch.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def _steered(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.role == "steered"]
