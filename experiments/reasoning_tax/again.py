"""Paid back, asked again: a rule that spares over-abstention, confirmed on items that nothing had been measured on.

The target rule takes the most recall that its bound allows on `choose`, so on other items it lands on either side of
the bound. What was lost may be paid back with less. The rule here, written after the target rule's pick had missed the
bound by a point on SelfAware as it is: of the cells that have the base's recall on `choose`, the one with the least
over-abstention. So that it is not judged by what suggested it, it is measured on items of `report` beyond those that
`back` asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import steerkit as sk
from experiments.reasoning_tax.actuators import (
    Way,
    at_random,
    forced_reply,
    on_answers,
    on_closed_thinking,
    vectors_of,
    ways_of,
)
from experiments.reasoning_tax.back import (
    FITTED_ON,
    PLACES,
    SPARING,
    WHOLE_GRID,
    Place,
    best,
    level,
    perfectly_gated,
    probes_of,
    rows_of,
    written_by,
)
from experiments.reasoning_tax.gates import Reading, reading
from experiments.reasoning_tax.recovery import recovery
from experiments.reasoning_tax.setting import (
    CONDITIONS,
    PRIMARY,
    Setting,
    Write,
    by_item,
    plain_cell,
    records_of,
)
from steerkit.runs.record import Record
from steerkit.suites.suite import Suite
from steerkit.sweeps.grid import distinct

Asked = Mapping[str, dict[str, Record]]  # by condition, then by item


def asked_again(setting: Setting, write: Write) -> None:
    """Choose on the records of `back`, measure on other items; the section is written after each condition."""
    models = {name: setting.model(name) for name in ("base", setting.tuned)}
    tuned = models[setting.tuned]
    vectors = vectors_of(setting, tuned, models["base"])
    probes = probes_of(setting, models)[setting.tuned]
    parts = [
        "## Paid back, asked again",
        f"`{SPARING.format(recall=0).replace('0.000000', 'that of the base')}`, chosen on `choose` among all vectors, "
        "under every gate. On SelfAware it is measured on as many items of `report` again, none of which another part "
        "asks; our suite has no others, so there the items are those above. The target is the one above.",
    ]
    for suite in (name for name in PLACES if name in setting.suites):
        choose, asked = setting.items(suite, "choose"), others(setting, suite)
        kept_in = "again" if suite == PRIMARY else "back"
        found = [reading(tuned, probes[name], choose, asked) for name in FITTED_ON[suite]]
        plain = {name: plain_records(setting, lm, name, suite, asked) for name, lm in models.items()}
        for condition in PLACES[suite]:
            before = {
                name: {"choose": choosing(setting, lm, name, suite, condition)} for name, lm in models.items()
            }
            chosen_in = Place(suite, condition, {"choose": choose}, *before.values())
            way = picked(setting, tuned, chosen_in, vectors, found)
            after = ({"report": plain[name][condition]} for name in models)
            place = Place(suite, condition, {"report": asked}, *after, kept_in=kept_in)
            parts.append(f"{place.title}, {len(asked)} items")
            parts.append(
                measured(setting, tuned, place, way) if way else "No cell has the base's recall on `choose`."
            )
            write("\n\n".join(parts))


def others(setting: Setting, suite: str) -> Suite:
    """As many items of the primary suite's `report` as `back` asks, and none of those; of another suite, the same."""
    items = setting.items(suite, "report")
    if suite != PRIMARY:
        return items
    asked = {item.id for item in items}
    whole = sk.load_suite(setting.reference(suite)).split("report").limit(2 * len(items))
    return Suite(whole.name, [item for item in whole if item.id not in asked], whole.scorers)


def plain_records(setting: Setting, lm: sk.LanguageModel, name: str, suite: str, items: Suite) -> Asked:
    """A model without steering on these items, in both conditions."""
    cells = {condition: plain_cell(condition) for condition in CONDITIONS}
    if suite == PRIMARY:
        out = setting.out / "again" / "plain" / name
        run = setting.measured(lm, list(cells.values()), out, items, "report")
    else:
        run = setting.plain(lm, name, suite, "report")
    return {condition: by_item(records_of(run, cell)) for condition, cell in cells.items()}


def choosing(
    setting: Setting, lm: sk.LanguageModel, name: str, suite: str, condition: str
) -> dict[str, Record]:
    """What a model wrote without steering on `choose`."""
    return by_item(records_of(setting.plain(lm, name, suite, "choose"), plain_cell(condition)))


def picked(
    setting: Setting,
    lm: sk.LanguageModel,
    place: Place,
    vectors: Mapping[str, sk.SteeringVector],
    found: Sequence[Reading],
) -> Way | None:
    """The rule's pick among the cells that `back` measured on `choose`."""
    closed = on_closed_thinking(vectors) if (place.suite, place.condition) == WHOLE_GRID else [forced_reply()]
    cells = [*on_answers(vectors, ()), *closed]
    ways = [way for cell in cells for way in ways_of(cell, found) if way.steers]
    written, _ = written_by(setting, lm, place, cells, "choose")
    rows = rows_of(ways, written, place.plain["choose"])
    recall = level(place.base["choose"].values(), "abstention_recall")
    return best(ways, rows, SPARING.format(recall=recall))


def measured(setting: Setting, lm: sk.LanguageModel, place: Place, way: Way) -> str:
    """The table: the base, the tuned model, the pick, a random direction in its place, and the pick's limit."""
    ways = {"picked": way, "at random": at_random(way)}
    acting = distinct(each.acting for each in ways.values())
    written, _ = written_by(setting, lm, place, acting, "report")
    plain = place.plain["report"]
    chosen = {label: list(each.records(written, plain)) for label, each in ways.items()}
    chosen["picked, were its gate perfect"] = list(perfectly_gated(written[way.acting.id], plain))
    cells = {
        **{label: each.cell for label, each in ways.items()},
        "picked, were its gate perfect": way.acting,
    }
    return recovery(place.base["report"].values(), plain.values(), chosen, cells)
