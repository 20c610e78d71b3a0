"""Choose a cell on one split, measure it once on another: both behaviours on the bundled model.

    python experiments/choose_then_report/run.py [--threads 2]

The rule for choosing is fixed here, before anything is measured. The chosen cell, its negative, and random
directions of equal norm are then measured once on `report`, beside the unsteered model. Runs are resumable;
results.md is written from the run directories.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress

import steerkit as sk
from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import Estimate
from steerkit.extraction.make import brevity, make_pairs

HERE = Path(__file__).parent
RUNS = HERE / "runs"
MODEL = "smollm2-135m-instruct"
PROMPTS = 80  # problems that the model is asked to solve both ways; not every one gives a pair


@dataclass(frozen=True)
class Study:
    """One behaviour: where to look for a cell, and the rules that choose one.

    The vector comes from the built-in pairs and, with `made_from`, a second one from pairs that the model wrote
    itself for that suite's split `fit`.
    """

    name: str
    suite: str
    made_from: str | None
    layers: str
    strengths: str
    max_new_tokens: int
    objective: str
    rules: dict[str, dict[str, float]]  # name -> bounds, within which the best cell by `objective` is chosen
    metrics: tuple[str, ...]


STUDIES = (
    Study(
        name="abstention",
        suite="abstention",
        made_from=None,
        layers="12,13,14",
        strengths="0.75:1.25:0.25",
        max_new_tokens=40,
        objective="abstention_recall",
        rules={
            "at any price but fluency": {"degenerate_increase": 0.1},
            "over-abstention bounded": {"over_abstention_increase": 0.25, "degenerate_increase": 0.1},
        },
        metrics=("abstention_recall", "over_abstention", "accuracy", "tokens", "truncated", "degenerate"),
    ),
    Study(
        name="brevity",
        suite="brevity:1",
        made_from="brevity:1+2+3",
        layers="8,12",
        strengths="1:2:0.5",
        max_new_tokens=160,
        objective="tokens",
        rules={
            "at any price but fluency": {"degenerate_increase": 0.1},
            "accuracy bounded": {"accuracy_decrease": 0.05, "degenerate_increase": 0.1},
        },
        metrics=("accuracy", "tokens", "truncated", "degenerate", "over_abstention"),
    ),
)


def main() -> None:
    """Run both studies and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    lm = sk.load_model(MODEL)
    text = "\n\n".join(carry_out(study, lm) for study in STUDIES)
    (HERE / "results.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def carry_out(study: Study, lm: sk.LanguageModel) -> str:
    """Extract, sweep on `choose`, pick by the rule, measure on `report`; the result as Markdown."""
    vectors = {vector.name: vector for vector in extracted(study, lm)}
    on_choose = sk.Measurement(study.suite, decoding=sk.Decoding(study.max_new_tokens))
    with Progress() as bar:
        task = bar.add_task(f"{study.name}, choose")

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        grid = sk.Grid(vectors.values(), study.layers, study.strengths, control_strengths=())
        wide = sk.sweep(lm, grid, on_choose, out=RUNS / f"{study.name}-choose", progress=show)
        bar.update(task, description=f"{study.name}, report")
        narrow, choices = None, []
        for name, bounds in study.rules.items():
            chosen = wide.choose(study.objective, bounds)
            said = (
                f"- {name} (best {study.objective}, {', '.join(f'{k} <= {v:g}' for k, v in bounds.items())})"
            )
            if chosen is None:
                choices.append(f"{said}: no cell meets the bounds")
                continue
            choices.append(
                f"{said}: {chosen.at.vector}, layer {chosen.at.layer}, strength {chosen.at.strength:g}"
            )
            both = [-chosen.at.strength, chosen.at.strength]
            pair = sk.Grid(vectors[chosen.at.vector], chosen.at.layer, both)
            out = RUNS / f"{study.name}-report"
            narrow = sk.sweep(lm, pair, on_choose.on("report"), out=out, progress=show)
    parts = [f"## {study.name}", "Chosen on `choose`:\n\n" + "\n".join(choices)]
    if narrow is not None:
        parts.append(f"### On `report`, measured once\n\n{table(narrow, study)}")
    parts.append(f"### The grid on `choose`\n\n{table(wide, study)}")
    return "\n\n".join(parts)


def extracted(study: Study, lm: sk.LanguageModel) -> list[sk.SteeringVector]:
    """The study's vectors, from the built-in pairs and from pairs of the model's own."""
    vectors = [sk.extract(lm, sk.load_pairs(study.name)).renamed("built-in pairs")]
    if study.made_from:
        items = [item for item in sk.load_suite(study.made_from).split("fit") if not item.should_abstain]
        made = make_pairs(
            sk.TransformersEngine(lm), [i.prompt for i in items[:PROMPTS]], brevity(), sk.Decoding(200)
        )
        vectors.append(sk.extract(lm, made.pairs).renamed("own pairs"))
    return vectors


def table(run: sk.Run, study: Study) -> str:
    """Rows of a run as a Markdown table: level with 95% interval, then change from unsteered."""
    rows = run.summary()
    metrics = [m for m in study.metrics if any(m in row.levels for row in rows)]
    lines = [f"| cell | items | {' | '.join(metrics)} |", "|---" * (len(metrics) + 2) + "|"]
    for row in rows:
        cells = [
            shown(row.levels.get(m), row.changes.get(m) if row.role != "unsteered" else None) for m in metrics
        ]
        lines.append(f"| {label(row)} | {row.n_items} | {' | '.join(cells)} |")
    return "\n".join(lines)


def label(row: Row) -> str:
    """What the row is."""
    if row.role == "unsteered":
        return "unsteered"
    kind = "random, same norm" if row.role == "random" else row.at.vector
    return f"{kind}, layer {row.at.layer}, strength {row.at.strength:g}"


def shown(level: Estimate | None, change: Estimate | None) -> str:
    """`0.73 (+0.30 [+0.21, +0.39])`."""
    if level is None:
        return "–"
    digits = 1 if level.value > 1.5 or level.high > 1.5 else 2
    interval = f"[{level.low:.{digits}f}, {level.high:.{digits}f}]"
    if change is None:
        return f"{level.value:.{digits}f} {interval}"
    moved = f"{change.value:+.{digits}f} [{change.low:+.{digits}f}, {change.high:+.{digits}f}]"
    return f"{level.value:.{digits}f} ({moved})"


if __name__ == "__main__":
    main()
