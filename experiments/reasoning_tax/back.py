"""Paid back: the reasoning model steered towards what it lost, on the suites where something can be lost.

Actuators act on the answer alone, behind thinking that is closed at once, and on the whole completion; all of them on
the primary suite as it is, in the other places those that may do something there. Each ungated, and under probes of
the prompt: fitted on our suite, and on SelfAware's own `fit`, because gates did not transfer before
(experiments/does_the_gate_transfer).

Cells are chosen on `choose` by the rules below, for each suite and condition apart, and measured once on `report`.
Our suite as it is and UMWP have no recall to give back: the base's is 0.07 at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product

import steerkit as sk
from experiments.reasoning_tax.actuators import (
    ON_ANSWER,
    Way,
    Written,
    acting_on,
    at_random,
    forced_reply,
    in_condition,
    on_answers,
    on_closed_thinking,
    on_completions,
    vectors_of,
    ways_of,
)
from experiments.reasoning_tax.after_chains import TOKENS as ANSWER_TOKENS
from experiments.reasoning_tax.after_chains import answered
from experiments.reasoning_tax.gates import Reading, fitted, reading
from experiments.reasoning_tax.recovery import DROP, ROOM, recovery
from experiments.reasoning_tax.results import compared, number
from experiments.reasoning_tax.setting import (
    CONDITIONS,
    PRIMARY,
    Setting,
    Write,
    by_item,
    plain_cell,
    records_of,
)
from steerkit.analysis.choosing import choose_cell
from steerkit.analysis.summary import Row, summarise
from steerkit.extraction.pairs import labelled_prompts
from steerkit.runs.cells import Cell, RunCell
from steerkit.runs.record import Record
from steerkit.suites.suite import Suite
from steerkit.sweeps.grid import distinct

# Where something was lost.
PLACES = {"selfaware": ("as it is", "told"), "abstention": ("told",)}
# Elsewhere the learned answers, the bias and the forced reply alone: the others cost whole chains, or did nothing here.
WHOLE_GRID = ("selfaware", "as it is")
# What gates are fitted on, by the suite that they gate. On ours SelfAware's probe reads little (AUROC 0.61).
FITTED_ON = {"selfaware": ("abstention", "selfaware"), "abstention": ("abstention",)}

# The target is `recovery`'s; the second rule shows how far an actuator goes, ungated, at any price but fluency.
TARGET, ANY_PRICE = "target", "any price"
SPARING = f"over_abstention s.t. recall>={{recall:.6f}}, accuracy_drop<={DROP}"  # see `again`
BEST = "best steering"
PERFECT = f"{TARGET}: {BEST}, were its gate perfect"

Probes = Mapping[str, Mapping[str, sk.Probe]]  # by model, then by what they were fitted on
Picked = dict[tuple[str, str], Way | None]  # by rule and family


@dataclass(frozen=True)
class Place:
    """A suite in a condition: what was asked, and the base and the tuned model without steering, by split and item.

    `kept_in` is the folder of its runs; in "back" they are of the splits as the setting takes them.
    """

    suite: str
    condition: str
    items: Mapping[str, Suite]
    base: Mapping[str, Mapping[str, Record]]
    plain: Mapping[str, Mapping[str, Record]]
    kept_in: str = "back"

    @property
    def title(self) -> str:
        """Its heading."""
        return f"### {self.suite}{' (primary)' if self.suite == PRIMARY else ''}, {self.condition}"


def paid_back(setting: Setting, write: Write) -> None:
    """Measure, choose and report, suite by suite; the section is written after each condition of each."""
    models = {name: setting.model(name) for name in ("base", setting.tuned)}
    tuned = models[setting.tuned]
    vectors = vectors_of(setting, tuned, models["base"])
    probes = probes_of(setting, models)
    parts = ["## Paid back", rules(), "### What the prompt's state says", readable(probes)]
    write("\n\n".join(parts))
    for suite in probes[setting.tuned]:
        items = {split: setting.items(suite, split) for split in ("choose", "report")}
        runs = {
            who: {split: setting.plain(model, who, suite, split) for split in items}
            for who, model in models.items()
        }
        own = (probe for name, probe in probes[setting.tuned].items() if name in FITTED_ON[suite])
        found = [reading(tuned, probe, *items.values()) for probe in own]
        for condition in PLACES[suite]:
            cell = plain_cell(condition)
            asked = {
                who: {split: by_item(records_of(run, cell)) for split, run in by_split.items()}
                for who, by_split in runs.items()
            }
            place = Place(suite, condition, items, asked["base"], asked[setting.tuned])
            parts += in_place(setting, tuned, place, vectors, found)
            write("\n\n".join(parts))


def probes_of(setting: Setting, models: Mapping[str, sk.LanguageModel]) -> Probes:
    """Each model's probes for what should be abstained from, fitted on the suites that can be asked here."""
    prompts = {}
    for suite in FITTED_ON:
        if suite in setting.suites:  # all of them in a trial, too: to read a prompt costs little
            fit = sk.load_suite(setting.reference(suite)).split("fit").limit(setting.questions[suite].fit)
            prompts[suite] = labelled_prompts(fit)
    return {
        who: {
            name: fitted(lm, setting.out / "back" / "probes" / who / f"{name}.safetensors", data)
            for name, data in prompts.items()
        }
        for who, lm in models.items()
    }


def readable(probes: Probes) -> str:
    """How well each model's prompt state tells what should be abstained from."""
    lines = [
        "Cross-fitted on `fit`, at the best of all layers:\n",
        "| model | fitted on | prompts | AUROC | at layer | words alone |",
        "|---|---|---|---|---|---|",
    ]
    for model, by_data in probes.items():
        for name, probe in by_data.items():
            data = probe.metadata
            words = "–" if data.baseline_auroc is None else f"{data.baseline_auroc:.3f}"
            best = max(data.auroc or (float("nan"),))
            lines.append(f"| {model} | {name} | {data.data_count} | {best:.3f} | {data.layer} | {words} |")
    return "\n".join(lines)


def rules() -> str:
    """The rules in words."""
    return (
        f"Chosen on `choose`, reported on `report`. **{TARGET}**: the most recall at no more over-abstention than "
        f"the base's on `choose` plus {ROOM:.2f}, and at most {DROP:.2f} less accuracy than the tuned model's. "
        f"**{ANY_PRICE}**: the most recall at 0.1 more degenerate completions at most, ungated. *{BEST}* is the target "
        "rule's pick among all vectors, and *were its gate perfect* what that would give if it acted on the "
        "unanswerable items alone: the limit of what acts. The forced reply says how far a gate goes, whatever acts "
        "behind it. Recall "
        "and over-abstention are shown against the base, accuracy and tokens against the tuned model. A line meets "
        f"the target if by point estimates it has the base's recall, at most its over-abstention plus {ROOM:.2f}, "
        f"and at least the tuned model's accuracy less {DROP:.2f}. Answers behind a given chain are decoded for "
        f"{ANSWER_TOKENS} tokens; a longer one counts as neither an abstention nor correct."
    )


def in_place(
    setting: Setting,
    lm: sk.LanguageModel,
    place: Place,
    vectors: Mapping[str, sk.SteeringVector],
    found: Sequence[Reading],
) -> list[str]:
    """Choose and report in one suite and condition; the parts of its section."""
    if (place.suite, place.condition) == WHOLE_GRID:
        # Means gave the first reasoner nothing back anywhere, so a later one is asked for what may do something.
        means, whole = (ON_ANSWER, on_completions(vectors)) if setting.adapters is not None else ((), [])
        cells = [*on_answers(vectors, means), *on_closed_thinking(vectors), *whole]
    else:
        cells = [*on_answers(vectors, means=()), forced_reply()]
    ways = [way for cell in cells for way in ways_of(cell, found)]
    written, _ = written_by(setting, lm, place, cells, "choose")
    picked = choices(ways, written, place)
    shown = {f"{rule}: {family}": way for (rule, family), way in picked.items() if way is not None}
    first = picked[TARGET, BEST]
    if first is not None and first.steers:
        shown[f"{TARGET}: {BEST}, at random"] = at_random(first)
    acting = distinct(way.acting for way in shown.values())
    written, agreeing = written_by(setting, lm, place, acting, "report")
    plain = place.plain["report"]
    chosen = {label: way.records(written, plain) for label, way in shown.items()}
    cells = {label: way.cell for label, way in shown.items()}
    if first is not None and first.steers:
        chosen[PERFECT] = perfectly_gated(written[first.acting.id], plain)
        cells[PERFECT] = first.acting
    parts = [place.title, recovery(place.base["report"].values(), plain.values(), chosen, cells)]
    nothing = [f"{rule}: {family}" for (rule, family), way in picked.items() if way is None]
    if nothing:
        parts.append(f"No cell meets the bounds on `choose`: {'; '.join(nothing)}.")
    parts.append(
        f"Of the unsteered answers {number(agreeing)} are the same words when decoded behind the given chain."
    )
    return parts  # fmt: skip


def perfectly_gated(acting: Mapping[str, Record], plain: Mapping[str, Record]) -> Iterator[Record]:
    """What the cell would have recorded under a gate that opens for all unanswerable items and for no other."""
    for item, record in plain.items():
        yield replace(acting[item] if record.should_abstain else record, cell=record.cell)


def written_by(
    setting: Setting, lm: sk.LanguageModel, place: Place, cells: Sequence[Cell], split: str
) -> tuple[Written, float]:
    """What each ungated cell wrote on a split, and how well decoding behind given chains agrees."""
    folder = setting.out / place.kept_in / place.suite / place.condition.replace(" ", "-") / split
    told = CONDITIONS[place.condition]
    after = [cell for cell in cells if acting_on(cell) == "answer"]
    items, plain = place.items[split], place.plain[split]
    written, agreeing = answered(setting, lm, after, items, plain, told, split, folder / "answers")
    for where in ("completion", "closed thinking"):
        whole = {cell.id: in_condition(cell, told) for cell in cells if acting_on(cell) == where}
        if whole:
            as_set = place.kept_in == "back"
            asked = setting.reference(place.suite) if as_set else items
            size = setting.size(place.suite, split) if as_set else None
            run = setting.measured(
                lm, list(whole.values()), folder / where.replace(" ", "-"), asked, split, size
            )
            written |= {name: by_item(records_of(run, cell)) for name, cell in whole.items()}
    return written, agreeing


def choices(ways: Sequence[Way], written: Written, place: Place) -> Picked:
    """For each rule and family the way that it picks on `choose`, None where none meets its bounds."""
    rows = rows_of(ways, written, place.plain["choose"])
    limit = level(place.base["choose"].values(), "over_abstention") + ROOM
    bounds = {
        TARGET: f"recall s.t. over_abstention<={limit:.6f}, accuracy_drop<={DROP}",
        ANY_PRICE: "recall s.t. degenerate_rise<=0.1",
    }
    picked: Picked = {(TARGET, BEST): best([w for w in ways if w.steers], rows, bounds[TARGET])}
    for rule, family in product(bounds, dict.fromkeys(way.family for way in ways)):
        own = [way for way in ways if way.family == family]
        if rule == TARGET or own[0].gate is None:
            picked[rule, family] = best(own, rows, bounds[rule])
    return picked


def rows_of(ways: Sequence[Way], written: Written, plain: Mapping[str, Record]) -> dict[str, Row]:
    """The summary of each way by the id of its cell, changes against the unsteered model in whichever condition."""
    unsteered = (replace(record, cell=Cell().id) for record in plain.values())
    records = chain(unsteered, *(way.records(written, plain) for way in ways))
    cells = {cell.id: RunCell.of(cell) for cell in (Cell(), *(way.cell for way in ways))}
    return {row.cell: row for row in summarise(records, cells)}


def best(ways: Sequence[Way], rows: Mapping[str, Row], rule: str) -> Way | None:
    """The way that the rule picks."""
    row = choose_cell([rows[way.cell.id] for way in ways], rule)
    return next(way for way in ways if way.cell.id == row.cell) if row else None


def level(records: Iterable[Record], metric: str) -> float:
    """A metric of one model's records."""
    return compared({"": records})[""].levels[metric].value
