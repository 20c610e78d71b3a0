"""The page of the study: a table line for each way, and a figure with a panel for each model and suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib

from experiments.while_it_writes.ways import DETECTORS, GATE, PROMPTS, UNSTEERED, WRITTEN, Way
from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import Estimate

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # a backend without a window is chosen before

METRICS = ("abstention_recall", "over_abstention", "accuracy", "tokens")
COLOURS = {"": "#777777", GATE: "#0072b2", PROMPTS: "#d55e00", WRITTEN: "#009e73"}
MARKS = {"unsteered": "x", "system prompt": "*", "steer": "o", "stop": "s", "reply": "^", "reply, steer": "D"}


@dataclass(frozen=True)
class Picked:
    """A way on `report`: its row at the threshold that stands for `share`; neither where none keeps to the rule."""

    row: Row | None
    share: float | None = None


Rows = Mapping[Way, Picked]


def table(rows: Rows) -> Iterator[str]:
    """A line for each way: levels, and behind them the paired change from the unsteered model."""
    for way, picked in rows.items():
        said, row = " | ".join(way), picked.row
        if row is None:
            yield f"| {said} | none keeps to the rule | |" + " |" * len(METRICS)
            continue
        share = "" if picked.share is None else f"{picked.share:g}"
        cells = [shown(row.levels.get(m), None if way == UNSTEERED else row.changes.get(m)) for m in METRICS]
        yield f"| {said} | {share} | {row.n_items} | {' | '.join(cells)} |"


def shown(level: Estimate | None, change: Estimate | None) -> str:
    """`0.73 (+0.30 [+0.21, +0.39])`, or the level with its interval where there is no change."""
    if level is None:
        return "–"
    digits = 1 if level.high > 1.5 else 2
    if change is None:
        return f"{level.value:.{digits}f} [{level.low:.{digits}f}, {level.high:.{digits}f}]"
    moved = f"{change.value:+.{digits}f} [{change.low:+.{digits}f}, {change.high:+.{digits}f}]"
    return f"{level.value:.{digits}f} ({moved})"


def draw(found: Mapping[tuple[str, str], Rows], path: Path) -> None:
    """Recall against the rise of over-abstention, a panel a suite and model.

    The colour says what decides, the mark what is done.
    """
    names, suites = (list(dict.fromkeys(key[place] for key in found)) for place in (0, 1))
    size = (max(7.5, 3.4 * len(suites)), 3.0 * len(names) + 0.9)
    figure, panels = plt.subplots(
        len(names), len(suites), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for (name, suite), rows in found.items():
        panel = panels[names.index(name)][suites.index(suite)]
        panel.set_title(f"{name}, {suite}", fontsize=9)
        panel.axvline(0.05, color="#cccccc", linestyle="--", linewidth=1)
        for (act, detector), picked in rows.items():
            if (row := picked.row) is None:
                continue
            recall = row.levels["abstention_recall"]
            rise = row.changes.get("over_abstention", Estimate(0.0, 0.0, 0.0, row.n_items))
            bars = [[[e.value - e.low], [e.high - e.value]] for e in (rise, recall)]
            style = {"color": COLOURS[detector], "marker": MARKS[act], "markersize": 6, "elinewidth": 0.7}
            panel.errorbar(
                rise.value, recall.value, xerr=bars[0], yerr=bars[1], linestyle="", alpha=0.85, **style
            )
    used = {way for rows in found.values() for way in rows}
    legend = [plt.Line2D([], [], color="k", marker=mark, linestyle="", label=act) for act, mark in MARKS.items()
              if act in {way[0] for way in used}]  # fmt: skip
    legend += [plt.Line2D([], [], color=COLOURS[d], linewidth=4, label=d) for d in DETECTORS]
    figure.legend(handles=legend, loc="upper center", ncols=5, fontsize=8, frameon=False)
    figure.supxlabel("rise of over-abstention (dashed: what the rule allows on the split choose)", fontsize=9)
    figure.supylabel("recall of unanswerable questions", fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.6 / size[1]))
    figure.savefig(path, dpi=90)
    plt.close(figure)
