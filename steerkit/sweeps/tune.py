"""tune: from pairs or a vector to a recommended use, within a budget, confirmed once.

    OUT/plan.json           what was asked; another plan in the same folder is refused
    OUT/NAME.safetensors    the vector, first with the calibrated strengths, in the end with what is recommended
    OUT/choose              the race (`steerkit.sweeps.racing`) on the split `choose`
    OUT/report              the pick on `report`, once, beside unsteered, the best prompt and a random direction
    OUT/price               what the pick costs elsewhere (`steerkit.sweeps.tune_price`)
    OUT/tune.json, card.md  what came of it

Whatever was recorded is not measured again, and every decision is a function of the plan and the records: after
SIGKILL the same call ends as it would have ended. `choice.json` in OUT/report is written before anything is measured
there, and no other choice is measured after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from steerkit.analysis.choosing import (
    Choice,
    Rule,
    choose_cell,
    nearest_cell,
    parse_rule,
    read_choice,
    write_choice,
)
from steerkit.analysis.outcomes import Outcomes, collect
from steerkit.analysis.run import Run
from steerkit.analysis.summary import Row, summarise
from steerkit.core.errors import InputError, MisuseError
from steerkit.core.files import replacing
from steerkit.engines.base import Engine, steerings_of
from steerkit.engines.catalogue import engine_for
from steerkit.extraction.extract import extract
from steerkit.extraction.pairs import ContrastPairs, LabelledPrompts
from steerkit.interventions.vector import SteeringVector, load_vector
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell, RunCell
from steerkit.runs.directory import RunDirectory
from steerkit.sweeps.axes import interventions_of
from steerkit.sweeps.confirmation import check_measurable, companions, relative_doses
from steerkit.sweeps.measurement import Measurement
from steerkit.sweeps.racing import Raced, race
from steerkit.sweeps.runner import Progress
from steerkit.sweeps.sweep import sweep
from steerkit.sweeps.tune_price import Price, PriceLine, measure_price
from steerkit.sweeps.tune_space import Space, space_of, with_edits
from steerkit.sweeps.tune_verdict import Verdict, verdict_of

PLAN_FILE, RESULT_FILE, CARD_FILE = "plan.json", "tune.json", "card.md"
PRICE = Price()
SHARE = 0.25  # of the full grid's records, which is the budget unless another is given
PROMPTS = {  # what competes with a vector for the metric that is to be moved
    "abstention_recall": ("dont-know-system", "dont-know-instruction"),
    "tokens": ("concise-system", "chain-of-draft"),
    "thinking_tokens": ("concise-system", "chain-of-draft"),
}
TOKENS_EXPECTED = 0.5  # of the most that a completion may have, before any is there
_BUDGET = re.compile(r"\s*(\d+)\s*(records|tokens)?\s*")


@dataclass(frozen=True)
class Budget:
    """How much the race may spend, in completions (`records`) or in their tokens."""

    amount: int
    unit: Literal["records", "tokens"] = "records"

    @classmethod
    def parse(cls, text: str | int) -> Budget:
        """Return the budget of `2000`, `2000 records` or `60000 tokens`. Raises MisuseError for anything else."""
        found = _BUDGET.fullmatch(str(text))
        if found is None or int(found[1]) < 1:
            raise MisuseError(f"the budget {text!r} is no number of records; write 2000 or '60000 tokens'")
        return cls(int(found[1]), "tokens" if found[2] == "tokens" else "records")

    def __str__(self) -> str:
        return f"{self.amount} {self.unit}"


@dataclass(frozen=True)
class Tuning:
    """What a tune found; `pick` is its row on `choose`, None where no candidate meets the bounds.

    `nearest` is then the one that comes nearest. `verdict` says what the pick is on `report`, `price` what it costs
    elsewhere. `vector` carries the pick as its recommended use where it is clearly better than nothing.
    """

    rule: Rule
    out: Path
    vector: SteeringVector
    space: Space
    raced: Raced
    choose: Run
    report: Run | None
    pick: Row | None
    nearest: Row | None
    verdict: Verdict | None
    price: tuple[PriceLine, ...]
    budget: Budget

    @property
    def is_better(self) -> bool:
        """Whether the pick is clearly better than the unsteered model and a random direction, within its bounds."""
        return self.verdict is not None and self.verdict.is_better

    @property
    def file(self) -> Path:
        """The vector's file."""
        return self.out / f"{self.vector.name}.safetensors"

    def to_json(self) -> dict[str, Any]:
        """Return everything but the records as plain data for JSON."""
        return {
            "rule": str(self.rule),
            "vector": str(self.file),
            "budget": str(self.budget),
            "heats": [
                asdict(heat) | {"losses": {k: round(v, 6) for k, v in heat.losses.items()}}
                for heat in self.raced.heats
            ],
            "pick": self.pick and self.pick.to_json(),
            "nearest": self.nearest and self.nearest.to_json(),
            "verdict": self.verdict and self.verdict.to_json(),
            "price": [line.to_json() for line in self.price],
            "is_better": self.is_better,
        }

    def __repr__(self) -> str:
        found = "nothing meets the bounds" if self.pick is None else self.pick.at.spec
        return f"Tuning({found}{'' if self.is_better else '; not clearly better'})"


def tune(
    model: LanguageModel | Engine,
    source: SteeringVector | ContrastPairs | LabelledPrompts | str | os.PathLike[str],
    rule: Rule | str,
    measurement: Measurement = Measurement(),
    *,
    out: str | os.PathLike[str],
    layers: Any = None,
    strengths: Any = None,
    axes: Mapping[str, Any] | None = None,
    budget: Budget | str | int | None = None,
    prompts: Sequence[Any] | None = None,
    price: Price | None = PRICE,
    name: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    allow_mismatch: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Find how a vector is best used by a rule, confirm it once, and say what it costs.

        found = sk.tune(lm, sk.load_pairs("abstention"), "recall s.t. over_abstention_rise<=0.15", out="runs/tuned")
        found.is_better, found.vector

    `source` is a vector (or its file or published name), or pairs, of which one is extracted. `layers`, `strengths` and
    `axes` take the place of the defaults of `steerkit.sweeps.tune_space`. `budget` bounds the race: records by default,
    or `"60000 tokens"`; by default a quarter of the full grid's records. `prompts` compete (interventions or specs; by
    default the presets for the rule's objective) and are confirmed beside the pick. `price` says what else is measured
    of the pick; None for nothing. The other arguments are those of `sweep`; `limit` holds for each split.

    Raises MisuseError, before anything is measured, for a rule that cannot be read or that the suite cannot answer, for
    a budget that not even one item of each candidate fits in, and where `out` holds another plan.
    """
    rule = parse_rule(rule) if isinstance(rule, str) else rule
    if measurement.split != "choose":
        raise MisuseError("tuning uses the splits choose and report: leave split out")
    check_measurable(rule, measurement)
    asked = budget if isinstance(budget, Budget) or budget is None else Budget.parse(budget)
    edits = edits_of(rule, prompts)
    engine = engine_for(model, batch_size, allow_mismatch=allow_mismatch)
    folder = Path(out)
    vector, space = _prepared(model, source, folder, name, layers, strengths, axes, measurement, progress)
    cells = space.cells(vector)
    n = len(measurement.items)
    limits = asked or Budget(max(len(cells) + len(edits) + 1, round(SHARE * len(cells) * n)))
    if limits.unit == "records" and limits.amount < 2 * len(cells):
        raise MisuseError(
            f"{limits} cannot meet the {len(cells)} candidates twice: give at least {2 * len(cells)}, or fewer "
            "layers, strengths or values of an axis"
        )
    _keep_plan(folder, rule, vector, cells, edits, limits, n, seed)
    known = with_edits(cells, edits)
    measured = _Measured(engine, known, measurement, folder / "choose", limits.unit, command, progress)
    doses = relative_doses(cells)
    guess = 1.0 if limits.unit == "records" else TOKENS_EXPECTED * measurement.decoding.max_new_tokens
    raced = race(
        [cell.id for cell in cells],
        Cell().id,
        rule,
        n,
        limits.amount,
        measured,
        cost=guess,
        beside=len(known) - len(cells),
        doses=doses,
        seed=seed,
    )
    rows = summarise(raced.outcomes, {cell.id: RunCell.of(cell) for cell in known})
    final = [row for row in rows if row.cell in raced.finalists]
    pick = choose_cell(final, rule, doses=doses)
    by_id = {cell.id: cell for cell in known}
    found = Tuning(
        rule, folder, vector, space, raced, Run(folder / "choose"), None, pick, None, None, (), limits
    )
    if pick is None:
        return _finished(replace(found, nearest=nearest_cell(final, rule, doses)))
    edited = [row for row in rows if row.role == "edited"]
    prompt = choose_cell(edited, rule) or nearest_cell(edited, rule)
    report = _confirmed(
        engine, by_id, pick, prompt, rule, measurement, folder / "report", seed, command, progress
    )
    chosen = by_id[pick.cell]
    verdict = verdict_of(report, rule, pick.cell, None if prompt is None else prompt.cell)
    lines = (
        ()
        if price is None
        else measure_price(price, engine, chosen, rule, measurement, folder / "price", progress)
    )
    found = replace(found, report=report, verdict=verdict, price=tuple(lines))
    if found.is_better:
        found = replace(found, vector=_recommending(vector, chosen))
    return _finished(found)


class _Measured:
    """Measures the cells of a race: sweeps them on the first so many items, and counts what that costs.

    What is counted are the records that the race asked for, whatever else the run directory holds already.
    """

    def __init__(
        self,
        engine: Engine,
        cells: Sequence[Cell],
        measurement: Measurement,
        out: Path,
        unit: str,
        command: str | None,
        progress: Progress | None,
    ) -> None:
        self._engine, self._cells, self._measurement, self._out = engine, cells, measurement, out
        self._unit, self._command, self._progress = unit, command, progress
        self._counted: dict[tuple[str, str, int], float] = {}

    def __call__(self, names: Sequence[str], items: int) -> tuple[Outcomes, float]:
        racing = set(names)
        asked = [cell for cell in self._cells if cell.id in racing or cell.role in ("unsteered", "edited")]
        part = replace(self._measurement, limit=items)
        sweep(self._engine, asked, part, out=self._out, command=self._command, progress=self._progress)
        wanted = {item.id for item in part.items}
        directory = RunDirectory(self._out)
        records = [each for each in directory.records({cell.id for cell in asked}) if each.item in wanted]
        for each in records:
            self._counted[each.key] = 1.0 if self._unit == "records" else float(each.tokens)
        return collect(records, Run(self._out).metrics), sum(self._counted.values())


def _prepared(
    model: LanguageModel | Engine,
    source: Any,
    out: Path,
    name: str | None,
    layers: Any,
    strengths: Any,
    axes: Mapping[str, Any] | None,
    measurement: Measurement,
    progress: Progress | None,
) -> tuple[SteeringVector, Space]:
    """The vector, extracted and calibrated if need be, as it stands in OUT from then on; and where to look."""
    pairs = source if isinstance(source, ContrastPairs | LabelledPrompts) else None
    given = None if pairs is not None else load_vector(source)
    called = name or (given.name if given is not None else pairs.name if pairs is not None else "")
    path = out / f"{called}.safetensors"
    lm = model if isinstance(model, LanguageModel) else None
    if path.is_file():
        vector = load_vector(path)
        if not _is_of(vector, pairs or given):
            raise MisuseError(f"{path} is another vector than the one given: name another place (out)")
    elif given is not None:
        vector = given.renamed(called)
    elif lm is not None and pairs is not None:
        vector = extract(lm, pairs).renamed(called)
    else:
        raise MisuseError("a vector is extracted from a loaded model: give the vector, or the model")
    space = space_of(vector, layers, strengths, axes)
    if space.is_calibrated and not (out / PLAN_FILE).is_file():  # else what was found then stands in the file
        if lm is None:
            raise MisuseError("strengths come from the KL of a loaded model: give strengths to this engine")
        vector = space.unit_of(lm, vector, measurement.whole, progress)
    if not path.is_file() or vector.metadata != load_vector(path).metadata:
        out.mkdir(parents=True, exist_ok=True)
        vector.save(path)
    return vector, space


def _is_of(vector: SteeringVector, source: Any) -> bool:
    """Whether the vector that is there is the one that is given, or of the pairs that are."""
    if isinstance(source, SteeringVector):
        return vector.digest == source.digest
    return bool(vector.metadata.pairs_digest == source.digest)


def edits_of(rule: Rule, prompts: Sequence[Any] | None) -> list[Cell]:
    """Return what competes with the vector: these prompts, or for None the presets for the rule's objective.

    Raises MisuseError for a steering among them.
    """
    named = PROMPTS.get(rule.objective.metric.name, ()) if prompts is None else prompts
    cells = [Cell(interventions_of(each)) for each in named]
    if any(steerings_of(cell.interventions) for cell in cells):
        raise MisuseError("prompts compete without a vector: give prompt edits or rules on logits")
    return cells


def _keep_plan(
    out: Path,
    rule: Rule,
    vector: SteeringVector,
    cells: Sequence[Cell],
    edits: Sequence[Cell],
    budget: Budget,
    items: int,
    seed: int,
) -> None:
    """Write what is asked. Raises MisuseError where the folder holds something else that was asked."""
    ids = [cell.id for cell in (*cells, *edits)]
    plan = {
        "rule": str(rule),
        "vector": vector.digest,
        "candidates": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
        "budget": str(budget),
        "items": items,
        "seed": seed,
    }
    path = out / PLAN_FILE
    if path.is_file():
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is damaged: start again with another folder (out)") from error
        differing = [key for key in plan if not isinstance(earlier, dict) or earlier.get(key) != plan[key]]
        if differing:
            raise MisuseError(
                f"{out} tunes something else ({', '.join(differing)} differ): name another place (out)"
            )
        return
    with replacing(path, "the plan") as scratch:
        scratch.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")


def _confirmed(
    engine: Engine,
    cells: Mapping[str, Cell],
    pick: Row,
    prompt: Row | None,
    rule: Rule,
    measurement: Measurement,
    out: Path,
    seed: int,
    command: str | None,
    progress: Progress | None,
) -> Run:
    """Measure the pick on `report`, once."""
    choice = Choice(rule=str(rule), cell=pick.cell, spec=pick.at.spec)
    earlier = read_choice(out)
    if earlier is not None and earlier != choice:
        raise MisuseError(
            f"{out} has measured {earlier.spec!r} already, and now {choice.spec!r} would have it measure again: "
            "name another place (out)"
        )
    write_choice(out, choice)
    chosen = cells[pick.cell]
    shown = [
        cell
        for cell in companions(chosen, seed)
        if cell.id == chosen.id or cell.role in ("unsteered", "random")
    ]
    shown += [] if prompt is None else [cells[prompt.cell]]
    return sweep(engine, shown, measurement.on("report"), out=out, command=command, progress=progress)


def _recommending(vector: SteeringVector, pick: Cell) -> SteeringVector:
    """The vector with the pick as its recommended use; a probe that gates it travels along."""
    probes = {
        part.digest: part
        for each in pick.interventions
        for part in each.tensors
        if part.digest != vector.digest
    }
    for probe in probes.values():
        vector = vector.with_probe(probe)
    return vector.recommending(*pick.interventions)


def _finished(found: Tuning) -> Tuning:
    """Write the vector, the card and `tune.json`, the last of which says that the tune is done."""
    from steerkit.sweeps.tune_card import tune_card

    found.vector.save(found.file)
    for file, text in (
        (CARD_FILE, tune_card(found)),
        (RESULT_FILE, json.dumps(found.to_json(), indent=2, ensure_ascii=False, default=str) + "\n"),
    ):
        with replacing(found.out / file, "the result") as scratch:
            scratch.write_text(text, encoding="utf-8")
    return found
