"""How good is the pick of a race that spends a quarter of the tokens? Replayed on grids that were measured in full.

    python -m experiments.tuning.run --grid abstention=RUN[,vector=NAME] --grid brevity=RUN [--orders 20]
    python -m experiments.tuning.run --measure brevity:1 --vector brief-smollm2-135m-instruct --out RUN

The first writes results.md from run directories of the split `choose`; no model is needed. The second measures a grid
of the default candidates of `steerkit tune` in full, for the first; resumable.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

import steerkit as sk
from steerkit.analysis.choosing import Rule, parse_rule
from steerkit.analysis.outcomes import Outcomes, collect
from steerkit.core.bootstrap import Estimate, Floats, bootstrap_means, resampling_weights
from steerkit.report.markdown import markdown_table
from steerkit.runs.cells import RunCell
from steerkit.runs.record import Record
from steerkit.sweeps.racing import race
from steerkit.sweeps.tune_space import space_of

HERE = Path(__file__).parent
RULES = {
    "abstention": (
        "recall s.t. over_abstention_rise<=0.05, accuracy_drop<=0.02",
        "recall s.t. over_abstention_rise<=0.15",
        "recall s.t. over_abstention_rise<=0.25, degenerate_rise<=0.1",
    ),
    "brevity": (
        "tokens s.t. accuracy_drop<=0.05, degenerate_rise<=0.1",
        "tokens s.t. degenerate_rise<=0.1",
    ),
}
ORDERS = 20  # seeds 0 to 19; the race was designed on seeds from 1000 on, and on other vectors' cells
SHARE = (
    0.23  # of the full grid's tokens; the last rung may take a little more than planned, and 0.25 is the bar
)
MOST_TOKENS = {"abstention": 32, "brevity": 160}


@dataclass(frozen=True)
class Stored:
    """A grid as it was measured: items in `items`, candidates and the unsteered cell in `cells`, `[cell, item]` arrays.

    `tokens` are those of each completion, `rows` number what was run: completions of one item with one number were
    decoded once.
    """

    name: str
    label: str
    cells: tuple[str, ...]
    specs: tuple[str, ...]
    unsteered: int
    items: tuple[str, ...]
    outcomes: Outcomes
    tokens: Floats
    rows: np.ndarray
    strata: tuple[str, ...]

    @property
    def candidates(self) -> list[int]:
        """The places of the cells that may be picked."""
        return [place for place in range(len(self.cells)) if place != self.unsteered]

    @property
    def programs(self) -> int:
        """How many cells there are, gates apart: what a prompt whose gates all open is decoded under."""
        return len({spec.partition(",gate=")[0] for spec in self.specs})

    def cost(self, cells: Sequence[int], items: Sequence[int]) -> float:
        """Return the tokens of what is decoded for these cells on these items, equal rows once."""
        total = 0.0
        for item in items:
            _, first = np.unique(self.rows[cells, item], return_index=True)
            total += self.tokens[np.asarray(cells)[first], item].sum()
        return float(total)

    def only(self, cells: Sequence[int], items: Sequence[int]) -> Outcomes:
        """Return what was measured of these cells on these items alone."""
        groups = np.unique(self.outcomes.groups[items], return_inverse=True)[1]
        values = {name: value[np.ix_(cells, items)] for name, value in self.outcomes.values.items()}
        return replace(self.outcomes, cells=tuple(self.cells[c] for c in cells), groups=groups, values=values)


def main() -> None:
    """Measure a grid, or replay races on those that were measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", action="append", default=[], metavar="SUITE=RUN[,vector=NAME]")
    parser.add_argument(
        "--orders", default=f"0:{ORDERS}", metavar="FIRST:BEHIND", help="seeds of the item orders"
    )
    parser.add_argument("--out", type=Path, help="of --measure: the run directory; else the page")
    parser.add_argument("--measure", metavar="SUITE", help="measure the default candidates in full")
    parser.add_argument("--vector", help="of --measure: the vector")
    parser.add_argument("--dtype", default="bfloat16")
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure, asked.vector, asked.out, asked.dtype)
        return
    orders = range(*map(int, asked.orders.split(":")))
    text = page([stored(each) for each in asked.grid], orders)
    (asked.out or HERE / "results.md").write_text(text, encoding="utf-8")
    print(text)


def measure(suite: str, vector: str, out: Path, dtype: str) -> None:
    """Measure every default candidate but gated ones on the whole split `choose`."""
    lm = sk.load_model("smollm2-135m-instruct", dtype=dtype)
    loaded = sk.load_vector(vector)
    space = space_of(loaded, axes={"gate": [None]})
    measurement = sk.Measurement(suite, decoding=sk.Decoding(MOST_TOKENS[suite.partition(":")[0]]))
    loaded = space.unit_of(lm, loaded, measurement.whole)
    sk.sweep(lm, [sk.Cell(), *space.cells(loaded)], measurement, out=out)


def stored(text: str) -> Stored:
    """Return the grid of `SUITE=RUN[,vector=NAME]`: the items that every cell has, prompts and controls left out."""
    suite, _, rest = text.partition("=")
    path, _, named = rest.partition(",vector=")
    vectors = named.split("+") if named else None
    run = sk.open_run(path)
    wanted = {
        name: cell
        for name, cell in run.cells.items()
        if cell.role == "unsteered"
        or (cell.role == "steered" and (vectors is None or cell.vector in vectors))
    }
    records = list(run.records(set(wanted)))
    seen: dict[str, set[str]] = {}
    for each in records:
        seen.setdefault(each.item, set()).add(each.cell)
    whole = {item for item, cells in seen.items() if cells == set(wanted)}
    items = {item.id: item for item in sk.load_suite(run.protocol.suite)}
    twins = {item for item in whole if items[item].twin in (None, *whole)}  # no half of a pair
    outcomes = collect([each for each in records if each.item in twins], run.metrics)
    label = suite if vectors is None else f"{suite}, the vector {' and '.join(vectors)}"
    return _arranged(label, wanted, outcomes, [each for each in records if each.item in twins], items)


def _arranged(
    label: str,
    cells: dict[str, RunCell],
    outcomes: Outcomes,
    records: Sequence[Record],
    items: dict[str, sk.SuiteItem],
) -> Stored:
    place = {name: number for number, name in enumerate(outcomes.cells)}
    column = {name: number for number, name in enumerate(outcomes.items)}
    tokens = np.zeros((len(place), len(column)))
    rows = np.zeros((len(place), len(column)), np.int64)
    numbers: dict[str, int] = {}
    for each in records:
        at = place[each.cell], column[each.item]
        tokens[at] = each.tokens
        rows[at] = numbers.setdefault(_program(cells[each.cell], each), len(numbers))
    members: dict[int, list[str]] = {}
    for name, group in zip(outcomes.items, outcomes.groups, strict=True):
        members.setdefault(int(group), []).append(f"{items[name].scenario} {items[name].should_abstain}")
    return Stored(
        name=label.partition(",")[0],
        label=label,
        cells=outcomes.cells,
        specs=tuple(cells[name].spec for name in outcomes.cells),
        unsteered=next(place[name] for name, cell in cells.items() if cell.role == "unsteered"),
        items=outcomes.items,
        outcomes=outcomes,
        tokens=tokens,
        rows=rows,
        strata=tuple(" ".join(sorted(members[group])) for group in range(len(members))),
    )


def _program(cell: RunCell, record: Record) -> str:
    """What the row ran: the cell without its gates where they opened, nothing where they stayed shut."""
    if record.gates and not all(reading.fired for reading in record.gates):
        return ""
    forms = [{key: value for key, value in form.items() if key != "gate"} for form in cell.forms]
    return json.dumps(forms, sort_keys=True) if forms else ""


def order_of(grid: Stored, seed: int) -> list[int]:
    """Return an order of the items as a suite's `limit` has it: round-robin over strata, twins together."""
    rng = np.random.default_rng(seed)
    by_stratum: dict[str, list[int]] = {}
    for group, stratum in enumerate(grid.strata):
        by_stratum.setdefault(stratum, []).append(group)
    lists = [list(rng.permutation(by_stratum[name])) for name in rng.permutation(sorted(by_stratum))]
    groups = [group for turn in zip_longest(*lists) for group in turn if group is not None]
    return [int(item) for group in groups for item in np.flatnonzero(grid.outcomes.groups == group)]


@dataclass(frozen=True)
class Scored:
    """Each cell by the rule, on some items: the objective (more is better, tokens in parts of unsteered), and the
    excess.
    """

    objective: Floats
    excess: Floats

    def pick(self, cells: Sequence[int]) -> int:
        """Return the rule's pick among cells; the nearest where none meets the bounds."""
        places = np.asarray(cells)
        least = max(float(self.excess[places].min()), 0.0)
        fitting = places[self.excess[places] <= least + 1e-9]
        return int(fitting[np.argmax(self.objective[fitting])])

    def regret(self, cell: int, best: int) -> float:
        """Return what the cell falls short of the best in the objective, and what it is further beyond the bounds."""
        short = max(float(self.objective[best] - self.objective[cell]), 0.0)
        return short + max(float(self.excess[cell] - self.excess[best]), 0.0)


def scored(grid: Stored, rule: Rule, items: Sequence[int]) -> Scored:
    """Score every cell on these items."""
    values = {name: value[:, items] for name, value in grid.outcomes.values.items()}

    def of(quantity: object) -> Floats:
        value = values[quantity.metric.name]  # type: ignore[attr-defined]
        sign = quantity.sign  # type: ignore[attr-defined]
        means: Floats = np.nanmean(value if sign is None else sign * (value - value[grid.unsteered]), axis=1)
        return means

    metric = rule.objective.metric
    scale = 1.0 if metric.unit == "share" else float(np.nanmean(values[metric.name][grid.unsteered]))
    excess = np.zeros(len(grid.cells))
    for bound in rule.bounds:
        beyond = of(bound.quantity) - bound.limit
        excess = np.maximum(excess, beyond if bound.relation == "<=" else -beyond)
    return Scored(rule.objective.direction * of(rule.objective) / scale, np.where(excess > 1e-9, excess, 0.0))


@dataclass(frozen=True)
class Replay:
    """One order: regret and share of the full grid's tokens, of the race and of random search."""

    raced: float
    spent: float
    random: float
    random_spent: float


def replay(grid: Stored, rule: Rule, seed: int) -> Replay:
    """Race the grid in the order of a seed, and search it at random for as many tokens."""
    order, n = order_of(grid, seed), len(grid.items)
    whole = scored(grid, rule, range(n))
    best = whole.pick(grid.candidates)
    full = grid.cost(range(len(grid.cells)), range(n))
    at = {name: place for place, name in enumerate(grid.cells)}
    met, tokens = 0, 0.0

    def measure(names: Sequence[str], items: int) -> tuple[Outcomes, float]:
        nonlocal met, tokens
        cells = [*(at[name] for name in names), grid.unsteered]
        groups = grid.outcomes.groups[order]
        while 0 < items < n and groups[items - 1] == groups[items]:
            items -= 1  # twins come together
        tokens += grid.cost(cells, order[met:items])
        met = items
        return grid.only(cells, order[:items]), tokens

    raced = race(
        [grid.cells[c] for c in grid.candidates],
        grid.cells[grid.unsteered],
        rule,
        n,
        SHARE * full,
        measure,
        cost=float(grid.tokens[grid.unsteered].mean()) * grid.programs / len(grid.cells),
        seed=seed,
    )
    seen = scored(grid, rule, order[:met])
    pick = seen.pick([at[name] for name in raced.finalists])
    taken, random_tokens = _at_random(grid, seed, tokens)
    return Replay(
        raced=whole.regret(pick, best),
        spent=tokens / full,
        random=whole.regret(whole.pick(taken), best),
        random_spent=random_tokens / full,
    )


def _at_random(grid: Stored, seed: int, tokens: float) -> tuple[list[int], float]:
    """Cells drawn at random and measured in full for as many tokens, at least one; and their tokens."""
    taken: list[int] = []
    spent = 0.0
    for cell in np.random.default_rng(seed).permutation(grid.candidates):
        cost = grid.cost([*taken, int(cell), grid.unsteered], range(len(grid.items)))
        if taken and cost > tokens:
            break
        taken, spent = [*taken, int(cell)], cost
    return taken, spent


def page(grids: Sequence[Stored], orders: range) -> str:
    """Return results.md."""
    lines = [row for grid in grids for row in table_rows(grid, orders)]
    headings = [
        "suite",
        "rule",
        "candidates",
        "items",
        "tokens (most)",
        "regret [95%], worst",
        "random search",
    ]
    return (
        "# What a race loses against the full grid\n\n"
        f"Written by `run.py`: {len(orders)} item orders a rule. *Regret*: how far the race's pick falls short of the "
        "full grid's in the objective (a share; tokens in parts of the unsteered model's), plus how far it is further "
        "beyond a bound, both on all items; its mean over orders with the 95% interval of that mean, and the worst. "
        "*Tokens*: the race's share of the full grid's, the mean over orders (and the most). *Random search* measures "
        "cells drawn at random in full, for as many tokens, and picks by the same rule: its mean regret, and in how "
        "many orders the race was better, equal, worse.\n\n" + markdown_table(headings, lines) + "\n"
    )


def table_rows(grid: Stored, orders: range) -> Iterator[list[object]]:
    """Yield a row of the table for each rule of the grid's suite."""
    for text in RULES[grid.name]:
        found = [replay(grid, parse_rule(text), seed) for seed in orders]
        regret = mean_of([each.raced for each in found])
        random = mean_of([each.random for each in found])
        spent = [each.spent for each in found]
        signs = [int(np.sign(round(each.random - each.raced, 9))) for each in found]
        yield [
            grid.label,
            f"`{text}`",
            len(grid.candidates),
            len(grid.items),
            f"{np.mean(spent):.3f} ({max(spent):.3f})",
            f"{interval(regret)}, {max(each.raced for each in found):.3f}",
            f"{interval(random)}; {signs.count(1)} / {signs.count(0)} / {signs.count(-1)}",
        ]


def mean_of(values: Sequence[float]) -> Estimate:
    """Return the mean over orders with its bootstrap interval."""
    groups = np.arange(len(values))
    found = bootstrap_means(np.asarray(values)[None, :], groups, resampling_weights(len(values)))[0]
    return found or Estimate(math.nan, math.nan, math.nan, 0)


def interval(found: Estimate) -> str:
    """Return `0.012 [0.003, 0.020]`."""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    main()
