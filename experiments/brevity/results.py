"""results.md, from the run directories: the tables, and each target beside what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.brevity.choice import Choice, Picks
from experiments.brevity.grid import Grid
from experiments.brevity.strengths import PUBLISHED_KL, Strengths
from experiments.brevity.timing import Timing
from experiments.reasoning_tax.results import compared, labelled, table
from steerkit.analysis.frontier import pareto_frontier
from steerkit.analysis.outcomes import collect
from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import INTERVAL, RESAMPLES, Estimate, resampling_weights
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record

METRICS = ("accuracy", "thinking_tokens", "tokens", "truncated", "over_abstention", "degenerate")
# What the study was to show.
LEAST_SAVING = 0.67
MOST_DROP = 0.01
LEAST_TIME_SHARE = 0.85
LEAST_ITEMS = 1000


@dataclass(frozen=True)
class Findings:
    """All that the run directories of one study say.

    `records` are those on `report` by label, the unsteered model's first, `shown` the headline's label and `short`
    that of the short-chain model, if there is one. `tokens` is the metric that was to fall, `limits` what there is to
    say of what bounds that, if anything; `twin_parts` and `answers` are the tables on twins and what they answer.
    """

    heading: str
    levels: str
    qualified: bool
    tokens: str
    grid: Grid
    choice: Choice
    records: Mapping[str, Sequence[Record]]
    shown: str
    short: str | None
    timing: Timing
    limits: str | None
    twin_parts: Sequence[str]
    answers: Sequence[str]
    strengths: Strengths

    def document(self) -> str:
        """results.md: the targets first, then what they were read off."""
        parts = [
            self.heading,
            "## Targets",
            described(self.choice, self.grid),
            targets(self.records, self.shown, self.tokens, self.timing, self.qualified, self.short),
            "Does brevity steering raise or lower abstention on twins, at matched KL?",
            "\n".join(self.answers),
            "## On `report`, once",
            report_table(self.records, self.tokens),
            *(["## What limits it", self.limits] if self.limits else []),
            "## Wall-clock",
            timing_table(self.timing),
            "## Twins at matched KL",
            *self.twin_parts,
            "## Levels",
            self.levels,
            "## Chosen on `choose`",
            "\n".join(f"- **{name}**: `{rule}`" for name, rule in self.choice.rules.items()),
            picks_table(self.choice.picked),
            "The second round, over all vectors:",
            frontier_table(self.grid, self.choice.final_rows, self.tokens),
            "## The frontier on `choose`: tokens against accuracy",
            "The fewest tokens first; a star where no other cell has fewer tokens and as much accuracy.",
            frontier_table(self.grid, self.choice.rows, self.tokens),
            "## Strengths",
            strengths_table(self.strengths),
        ]
        return "\n\n".join(parts) + "\n"


def levels_table(accuracies: Mapping[int, tuple[float, int]], levels: Sequence[int], least: float) -> str:
    """Accuracy by level, and which levels take part."""
    lines = ["| level | items of `choose` | accuracy | takes part |", "|---|---|---|---|"]
    for level, (accuracy, n) in accuracies.items():
        lines.append(f"| {level} | {n} | {accuracy:.2f} | {'yes' if level in levels else 'no'} |")
    text = f"Levels whose unsteered accuracy on `choose` is at least {least:.0%} take part.\n\n" + "\n".join(
        lines
    )
    if not any(accuracy >= least for accuracy, _ in accuracies.values()):
        text += "\n\n**No level qualifies.** The easiest is measured all the same, and no target can be met on it."
    return text


def strengths_table(strengths: Strengths) -> str:
    """Every calibrated strength with the KL that was measured there, and the formulas beside it."""
    lines = [
        f"| vector | layer | scope | KL asked | strength | KL there | closed form at {PUBLISHED_KL:g} | Fisher form |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for known in strengths.known:
        record = known.record
        forms = [f"{form:.4g}" if form is not None else "–" for form in (known.published, known.fisher)]
        lines.append(
            f"| {known.vector} | {record.layer} | {record.scope} | {record.target_kl:g} | {record.strength:+.3f} | "
            f"{record.measured_kl:.3f} | {' | '.join(forms)} |"
        )
    return "\n".join(lines)


def spec(cell: Cell) -> str:
    """The cell's canonical spec, as code in a table."""
    return f"`{' + '.join(map(str, cell.interventions)) or 'unsteered'}`"


def frontier_table(grid: Grid, rows: Sequence[Row], tokens: str) -> str:
    """Every cell, the fewest tokens first; a star where no other cell has fewer tokens and as much accuracy."""
    best = {row.cell for row in pareto_frontier(rows, "accuracy", tokens)}
    ordered = sorted(rows, key=lambda row: row.levels[tokens].value)
    shown = {
        f"{'★ ' if row.cell in best else ''}{grid.actuators.get(row.cell, '')} {spec(grid.cell(row.cell))}": row
        for row in ordered
    }
    return table(shown, METRICS)


def picks_table(picked: Mapping[str, Picks]) -> str:
    """For each actuator the cell that each rule picks."""
    lines = [f"| actuator | {' | '.join(picked)} |", "|---" * (len(picked) + 1) + "|"]
    for actuator in next(iter(picked.values())):
        cells = (by_actuator[actuator] for by_actuator in picked.values())
        shown = (spec(cell) if cell else "no cell meets the bounds" for cell in cells)
        lines.append(f"| {actuator} | {' | '.join(shown)} |")
    return "\n".join(lines)


def report_table(records: Mapping[str, Sequence[Record]], tokens: str) -> str:
    """The unsteered model first; then each cell with its changes and its savings, on the items that both have.

    Of `tokens`, and of all tokens: a model whose thinking is forced shut may go on behind the marker.
    """
    rows = compared(records)
    plain, *others = records
    lines = table(rows, METRICS).splitlines()
    for metric in dict.fromkeys((tokens, "tokens")):
        lines[0] += f" fewer {metric} |"
        lines[1] += "---|"
        lines[2] += " |"
        for place, label in enumerate(others, start=3):
            found = saving(records[plain], records[label], metric)
            lines[place] += f" {share(found)} |"
    return "\n".join(lines)


def saving(plain: Iterable[Record], other: Iterable[Record], metric: str) -> Estimate | None:
    """The share of `metric`'s total that is saved against `plain`, paired: items are drawn together.

    None where no item has both, or where the plain model has none of it.
    """
    outcomes = collect(labelled({"plain": plain, "other": other}))
    if len(outcomes.cells) < 2:
        return None
    base, cell = outcomes.values[metric]
    both = ~np.isnan(base) & ~np.isnan(cell)
    if not both.any() or not base[both].sum():
        return None
    groups = outcomes.groups[both]
    n_groups = int(groups.max()) + 1
    sums = np.stack([np.bincount(groups, values[both], minlength=n_groups) for values in (base, cell)])
    present = np.unique(groups)
    drawn = resampling_weights(len(present), RESAMPLES, seed=0) @ sums[:, present].T  # [resamples, 2]
    drawn = drawn[drawn[:, 0] > 0]
    low, high = np.percentile(1 - drawn[:, 1] / drawn[:, 0], INTERVAL)
    whole = sums.sum(axis=1)
    return Estimate(float(1 - whole[1] / whole[0]), float(low), float(high), int(both.sum()))


def share(estimate: Estimate | None) -> str:
    """Such as `71% [69%, 73%]`."""
    if estimate is None:
        return "–"
    return f"{estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"


def verdict(
    value: float, low: float, high: float, *, at_least: float | None = None, at_most: float | None = None
) -> str:
    """`met` where the whole interval is on the right side of the limit, `missed` where the estimate is not."""
    if at_least is not None:
        good, sure = value >= at_least, low >= at_least
    else:
        assert at_most is not None
        good, sure = value <= at_most, high <= at_most
    if not good:
        return "**missed**"
    return "**met**" if sure else "**met by the estimate**; the interval reaches beyond the limit"


def targets(
    records: Mapping[str, Sequence[Record]],
    shown: str,
    tokens: str,
    timing: Timing,
    qualified: bool,
    short: str | None,
) -> str:
    """Each target of the study beside what was measured for the cell labelled `shown`; the first label is plain."""
    plain = next(iter(records))
    rows = compared({label: records[label] for label in (plain, shown)})
    fewer = saving(records[plain], records[shown], tokens)
    change = rows[shown].changes["accuracy"]
    cut = max(rows[label].levels["truncated"].value for label in (plain, shown))
    assert fewer is not None
    drop = 0.0 - change.value, 0.0 - change.high, 0.0 - change.low  # no minus before a zero
    lines = [
        "| target | measured | |",
        "|---|---|---|",
        f"| levels of at least 30% unsteered accuracy | | {'**met**' if qualified else '**missed**'} |",
        f"| n ≥ {LEAST_ITEMS} on `report` | {fewer.n} | {'**met**' if fewer.n >= LEAST_ITEMS else '**missed**'} |",
        f"| nothing truncated | share cut off, the larger of both: {cut:.4f} | "
        f"{'**met**' if cut == 0 else '**missed**'} |",
        f"| ≥ {LEAST_SAVING:.0%} fewer {tokens.replace('_', ' ')} | {share(fewer)} | "
        f"{verdict(fewer.value, fewer.low, fewer.high, at_least=LEAST_SAVING)} |",
        f"| accuracy drop ≤ {MOST_DROP * 100:g} point | {100 * drop[0]:.1f} points [{100 * drop[1]:.1f}, "
        f"{100 * drop[2]:.1f}] | {verdict(*drop, at_most=MOST_DROP)} |",
        f"| time saved ≥ {LEAST_TIME_SHARE:g} × tokens saved | {timing.gain:.2f} times as fast at "
        f"{timing.token_ratio:.2f} times fewer tokens: {timing.share:.2f} (turns "
        f"{', '.join(f'{turn.gain / turn.token_ratio:.2f}' for turn in timing.turns)}) | "
        f"{'**met**' if timing.share >= LEAST_TIME_SHARE else '**missed**'} |",
    ]
    if short is not None:
        trained = compared({label: records[label] for label in (plain, short)})[short]
        less = saving(records[plain], records[short], tokens)
        moved = trained.changes["accuracy"]
        lines.append(
            f"| the reference: the model trained on short chains | {share(less)} fewer, accuracy "
            f"{100 * moved.value:+.1f} points [{100 * moved.low:+.1f}, {100 * moved.high:+.1f}] | |"
        )
    return "\n".join(lines)


def timing_table(timing: Timing) -> str:
    """Each turn."""
    lines = [
        f"{timing.problems} problems, batch size {timing.batch_size}, {timing.threads} threads; the turns alternate.",
        "",
        "| turn | unsteered, s | steered, s | gain | tokens | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for number, turn in enumerate(timing.turns, start=1):
        plain, steered = turn.seconds.values()
        tokens = " / ".join(map(str, turn.tokens.values()))
        lines.append(
            f"| {number} | {plain:.1f} | {steered:.1f} | {turn.gain:.2f} | {tokens} | {turn.token_ratio:.2f} |"
        )
    return "\n".join(lines)


def described(choice: Choice, grid: Grid) -> str:
    """The chosen cell in a sentence."""
    actuator = grid.actuators[choice.headline.id]
    return f"Shown and published: {spec(choice.headline)} ({actuator}), by the rule: {choice.rule}."
