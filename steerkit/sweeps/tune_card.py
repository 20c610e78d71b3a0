"""The card of a tune: what was asked, what it found on `report`, what that costs, and its limits, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from steerkit.core.bootstrap import Estimate
from steerkit.runs.references import cell_reference

if TYPE_CHECKING:
    from steerkit.sweeps.tune import Tuning


def tune_card(found: Tuning) -> str:
    """Return the card of what a tune found, as Markdown."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Tuning) -> Iterator[str]:
    protocol, heats = found.choose.protocol, found.raced.heats
    yield f"# {found.vector.name}"
    yield ""
    yield headline(found)
    yield ""
    yield "| | |\n|---|---|"
    yield f"| model | {protocol.model}, fingerprint `{protocol.fingerprint}`, {protocol.dtype} |"
    yield f"| rule | `{found.rule}` |"
    if found.pick is not None:
        yield f"| pick | `{found.pick.at.spec}` |"
    yield f"| candidates | {len(heats[0].cells)}, of which {len(found.raced.finalists)} met the last items |"
    yield f"| race | {heats[-1].spent:.0f} {found.budget.unit} of {found.budget}; items and candidates {_race(found)} |"
    yield f"| suite | {protocol.suite}, chosen on `choose`, measured once on `report` |"
    if found.verdict is not None:
        verdict = found.verdict
        yield "\n## On `report`\n"
        yield f"{verdict.metric} of the pick: {shown(verdict.level)}. Positive is better:\n"
        yield "| against | difference |\n|---|---|"
        yield f"| unsteered | {shown(verdict.against_unsteered, signed=True)} |"
        yield f"| random direction, same norm | {shown(verdict.against_random, signed=True)} |"
        if verdict.against_prompt is not None:
            yield f"| best prompt | {shown(verdict.against_prompt, signed=True)} |"
        for each in verdict.bounds:
            yield f"| bound `{each.bound}` | {shown(each.estimate)}: {each.held} |"
    if found.price:
        yield "\n## What it costs\n"
        yield (
            "The pick minus the unsteered model on items of `report`, positive where better. Kept: the whole interval "
            "lies above minus the margin; lost: below; not shown: more items would tell.\n"
        )
        yield "| | unsteered | pick | difference | margin | verdict |\n|---|---|---|---|---|---|"
        for line in found.price:
            yield (
                "| "
                + " | ".join(
                    [
                        f"{line.name} ({line.quantity})",
                        number(line.unsteered),
                        number(line.picked),
                        shown(line.change, signed=True),
                        f"{line.margin:.3g}",
                        f"**{line.verdict}**",
                    ]
                )
                + " |"
            )
    yield "\n## Limits\n"
    yield "- Intervals are 95%, paired bootstrap over groups of items; they hold for questions like those of the suite."
    yield (
        "- The race drops candidates by a heuristic: a better use may be among those dropped. `tune.json` has every "
        "decision."
    )


def headline(found: Tuning) -> str:
    """Return what came of it, in a sentence or two."""
    if found.pick is None:
        nearest = "" if found.nearest is None else f" The nearest is `{found.nearest.at.spec}`."
        return (
            f"Nothing was found: no candidate meets the bounds of the rule.{nearest} No use is recommended."
        )
    assert found.verdict is not None
    gain = shown(found.verdict.against_unsteered, signed=True)
    if not found.is_better:
        why = "; ".join(found.verdict.reasons())
        return (
            f"Nothing is clearly better than the unsteered model: the pick changes {found.verdict.metric} by {gain} "
            f"(positive is better), but {why}. No use is recommended."
        )
    prompt = "" if found.verdict.beats_prompt else " A prompt may do as well."
    return (
        f"`{found.pick.at.spec}` improves {found.verdict.metric} by {gain}.{prompt} The vector recommends it."
    )


def use(found: Tuning) -> str:
    """Return what to give `--steer` for the pick."""
    if found.is_better or found.pick is None:
        return str(found.file)
    return cell_reference(found.choose.path, found.pick.cell)


def shown(estimate: Estimate, *, signed: bool = False) -> str:
    """Return an estimate with its interval; a dash where nothing was measured."""
    if not estimate.n:
        return "–"
    digits = 1 if max(abs(estimate.value), abs(estimate.low), abs(estimate.high)) > 1.5 else 2
    sign = "+" if signed else ""
    low, high = (f"{end:{sign}.{digits}f}" for end in (estimate.low, estimate.high))
    return f"{estimate.value:{sign}.{digits}f} [{low}, {high}]"


def number(value: float) -> str:
    """Return a level with few digits; a dash where it was not measured."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def _race(found: Tuning) -> str:
    return ", ".join(f"{heat.items} × {len(heat.cells)}" for heat in found.raced.heats)
