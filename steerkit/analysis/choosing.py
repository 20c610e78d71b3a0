"""The rule that chooses a cell: an objective and bounds, written down before anything is measured.

    OBJECTIVE [s.t. QUANTITY<=VALUE, QUANTITY>=VALUE, …]
    e.g.  recall s.t. over_abstention<=0.05, accuracy_drop<=0.02

A quantity is a metric of the summary (`abstention_recall`, or `recall` for short; `over_abstention`, `accuracy`,
`tokens`, `truncated`, …), `METRIC_rise` (the cell's minus the unsteered model's, on the items that both have) or
`METRIC_drop` (the reverse); `_increase` and `_decrease` say the same. The objective goes the way that is better:
recall and accuracy up; over-abstention, tokens, truncation and the like down; a rise or a drop according to
its metric. Bounds hold including their value. Cells that tie (within 1e-9) are decided by the smaller dose.

All by point estimates. A cell that is chosen looks better than it is, because it is the best of many: choose on
the split `choose`, then measure it once on `report`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from steerkit.analysis.frontier import actuated
from steerkit.analysis.summary import Row
from steerkit.core.errors import InputError, MisuseError
from steerkit.core.files import replacing
from steerkit.scoring.metrics import Metric, metrics

CHANGE_SIGNS = {"_rise": 1.0, "_increase": 1.0, "_drop": -1.0, "_decrease": -1.0}
ALIASES = {"recall": "abstention_recall"}
TOLERANCE = 1e-9  # means over samples differ in the last bit
CHOICE_FILE = "choice.json"
EXAMPLE = '"recall s.t. over_abstention<=0.05, accuracy_drop<=0.02"'

_NAME = r"[A-Za-z_]+"
_RULE = re.compile(rf"\s*({_NAME})\s*(?:s\.t\.\s*(.*\S)\s*)?", re.DOTALL)
_BOUND = re.compile(rf"\s*({_NAME})\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Quantity:
    """A metric, or with `sign` its change from the unsteered model: +1 the rise, -1 the drop."""

    metric: Metric
    sign: float | None = None

    def of(self, row: Row) -> float | None:
        """Its point estimate in a row; None where it was not measured."""
        estimates = row.levels if self.sign is None else row.changes
        if self.metric.name not in estimates:
            return None
        return (self.sign or 1.0) * estimates[self.metric.name].value

    @property
    def direction(self) -> float:
        """+1 where more is better, -1 where less is."""
        return (1.0 if self.metric.better == "higher" else -1.0) * (self.sign or 1.0)

    def __str__(self) -> str:
        return self.metric.name + {None: "", 1.0: "_rise", -1.0: "_drop"}[self.sign]


@dataclass(frozen=True)
class Bound:
    """`quantity` is at most (`<=`) or at least (`>=`) `limit`."""

    quantity: Quantity
    relation: Literal["<=", ">="]
    limit: float

    def excess(self, row: Row) -> float:
        """How far the row is beyond the limit, 0 within it; infinite where it was not measured."""
        value = self.quantity.of(row)
        if value is None:
            return math.inf
        beyond = value - self.limit if self.relation == "<=" else self.limit - value
        return beyond if beyond > TOLERANCE else 0.0

    def __str__(self) -> str:
        return f"{self.quantity}{self.relation}{self.limit:g}"


@dataclass(frozen=True)
class Rule:
    """What makes a cell the best: the objective, among the cells that meet every bound."""

    objective: Quantity
    bounds: tuple[Bound, ...] = ()

    @property
    def metrics(self) -> set[str]:
        """Names of the metrics that the rule reads."""
        return {quantity.metric.name for quantity in (self.objective, *(b.quantity for b in self.bounds))}

    def __str__(self) -> str:
        bounds = ", ".join(map(str, self.bounds))
        return f"{self.objective} s.t. {bounds}" if bounds else str(self.objective)


class CertifiedBound(BaseModel):
    """What is guaranteed of a chosen cell, and by what: see `steerkit.analysis.guarantees`.

    `losses` of `n` groups lost on `choose`, with a `p_value` that had to be at most `level`: 1 - confidence, shared
    among `sequences`. `order` says in which order cells were tested, `assumption` for which questions the bound holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    guarantee: str
    losses: int
    n: int
    p_value: float
    level: float
    sequences: int
    order: str
    assumption: str

    def __str__(self) -> str:
        return (
            f"{self.guarantee}: {self.losses} of {self.n} groups lost, p = {self.p_value:.2g}, "
            f"at most {self.level:.2g}"
        )


class Choice(BaseModel):
    """`choice.json`: the rule in its canonical form, and the cell that it picked on `choose`, as id and spec string.

    `bound` is what is guaranteed of that cell, where a guarantee was asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    rule: str
    cell: str
    spec: str
    bound: CertifiedBound | None = None

    @property
    def asked(self) -> str:
        """The rule, with the guarantee where there is one."""
        return self.rule if self.bound is None else f"{self.rule} with {self.bound.guarantee}"


def parse_rule(text: str) -> Rule:
    """The rule that the text writes down, in the grammar above. Raises MisuseError where it cannot be read."""
    rule = _RULE.fullmatch(text)
    if rule is None:
        raise MisuseError(
            f"rule {text!r} cannot be read: write OBJECTIVE s.t. BOUND, BOUND, such as {EXAMPLE}"
        )
    said = f"rule {text!r}"
    bounds = tuple(parse_bound(part, said) for part in rule[2].split(",")) if rule[2] else ()
    limited = [(str(bound.quantity), bound.relation) for bound in bounds]
    for quantity, relation in limited:
        if limited.count((quantity, relation)) > 1:
            raise MisuseError(f"rule {text!r} bounds {quantity} with {relation} twice")
    return Rule(_quantity(rule[1]), bounds)


def parse_bound(text: str, said: str) -> Bound:
    """The bound that a text writes down. Raises MisuseError, which begins with what was `said`, where it is none."""
    found = _BOUND.fullmatch(text)
    if found is None:
        raise MisuseError(f"{said}: {text.strip()!r} is no bound; write QUANTITY<=VALUE or QUANTITY>=VALUE")
    try:
        limit = float(found[3])
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise MisuseError(f"{said}: {found[3]!r} is not a number; write a share as 0.05")
    bound = Bound(_quantity(found[1]), "<=" if found[2] == "<=" else ">=", limit)
    if bound.quantity.metric.unit == "share" and abs(limit) > 1:
        raise MisuseError(
            f"{said}: {bound.quantity} is a share, and no share is {limit:g}; write 0.05 for 5%"
        )
    return bound


def choose_cell(
    rows: Sequence[Row],
    rule: Rule | str,
    bounds: Mapping[str, float] | None = None,
    doses: Mapping[str, float] | None = None,
) -> Row | None:
    """The cell that the rule picks among those that are neither unsteered nor a control; None where none fits.

    `bounds` are further limits, each the most that is allowed: `{"over_abstention_rise": 0.2}`. A cell
    without a measurement that the rule asks for does not fit. Ties go to the smaller of `doses` (by cell id;
    by default the absolute strength), then to the first. Raises MisuseError for a rule that cannot be read.
    """
    rule = parse_rule(rule) if isinstance(rule, str) else rule
    limits = [*rule.bounds, *(Bound(_quantity(name), "<=", most) for name, most in (bounds or {}).items())]
    fitting = [row for row in _candidates(rows, rule) if not any(bound.excess(row) for bound in limits)]
    return _best(fitting, rule.objective, doses)


def nearest_cell(rows: Sequence[Row], rule: Rule, doses: Mapping[str, float] | None = None) -> Row | None:
    """The cell that comes nearest to meeting the bounds, to show where none does.

    Nearest is the smallest largest excess, each relative to its limit (or to 1 for a limit of 0).
    """
    distances = {row.cell: _distance(row, rule) for row in _candidates(rows, rule)}
    least = min(distances.values(), default=math.inf)
    near = [row for row in rows if distances.get(row.cell, math.inf) <= least + TOLERANCE]
    return _best(near, rule.objective, doses) if math.isfinite(least) else None


def read_choice(folder: Path) -> Choice | None:
    """The choice that a run directory confirms, or None. Raises InputError where its file is damaged."""
    path = folder / CHOICE_FILE
    try:
        return Choice.model_validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError as error:
        raise InputError(f"{path} is damaged: start again with another folder (out)") from error


def write_choice(folder: Path, choice: Choice) -> None:
    """Say in the run directory what it confirms. Raises SteerkitError where it cannot be written."""
    with replacing(folder / CHOICE_FILE, "the choice") as scratch:
        scratch.write_text(choice.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")


def _candidates(rows: Sequence[Row], rule: Rule) -> list[Row]:
    return [row for row in actuated(rows) if rule.objective.of(row) is not None]


def _best(rows: Sequence[Row], objective: Quantity, doses: Mapping[str, float] | None) -> Row | None:
    """The best in the objective; among ties the smallest dose, then the first."""
    values = {row.cell: objective.direction * (objective.of(row) or 0.0) for row in rows}
    best = max(values.values(), default=0.0)
    tied = [row for row in rows if values[row.cell] >= best - TOLERANCE]
    return min(tied, key=lambda row: _dose(row, doses), default=None)


def _dose(row: Row, doses: Mapping[str, float] | None) -> float:
    if doses is not None:
        return doses.get(row.cell, math.inf)
    if row.at.strength is not None:
        return abs(row.at.strength)
    return math.inf if row.at.steerings else 0.0  # a composition has no one strength, an edit pushes nothing


def _distance(row: Row, rule: Rule) -> float:
    return max((bound.excess(row) / (abs(bound.limit) or 1.0) for bound in rule.bounds), default=0.0)


def _quantity(name: str) -> Quantity:
    known = metrics()
    if name in known or name in ALIASES:
        return Quantity(known[ALIASES.get(name, name)])
    for suffix, sign in CHANGE_SIGNS.items():
        metric = ALIASES.get(name.removesuffix(suffix), name.removesuffix(suffix))
        if name.endswith(suffix) and metric in known:
            return Quantity(known[metric], sign)
    raise MisuseError(
        f"no metric {name!r}; there are {', '.join(known)} (recall is abstention_recall), and METRIC_rise or "
        "METRIC_drop for the change from the unsteered model"
    )
