"""Every actuator, gated and ungated: what abstention recall costs in over-abstention and accuracy.

    python -m experiments.abstention_tradeoff.run [--data FOLDER] [--threads 2] [--dtype bfloat16] [--out runs]
    python -m experiments.abstention_tradeoff.run --model gemma3-270m --limit 72

1. Vectors: response contrast (built-in pairs), question contrast (the suite's `fit` questions by whether they
   should be abstained from), the response contrast without the mean state, and a learned one (contrastive energy).
   The probe is fitted on `fit`.
2. `choose`: the whole grid, ungated and under the probe at five thresholds; the prompts and the bias besides.
   The rules below pick a cell for each actuator, ungated and gated.
3. `report`, once: the cells that were picked, their random controls, and for the response contrast the whole
   frontier, chosen or not. The same cells on SelfAware and UMWP, which took no part in anything.
4. What limits it: the detector, the gate's threshold and the actuator, each beside a perfect other.

Resumable; results.md (another model's: results-MODEL.md) is written from the run directories.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import Progress

import steerkit as sk
from experiments.abstention_tradeoff.limits import frontier_ratios, limits
from steerkit.errors import MisuseError
from steerkit.sweeps.choosing import choose_cell, parse_rule
from steerkit.sweeps.confirmation import relative_doses
from steerkit.sweeps.grid import Cell, build_grid, distinct
from steerkit.sweeps.run import measure_cells
from steerkit.sweeps.summary import Row

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
# Two layers around the middle of each model. Those of the first were known to act from choose_then_report, which had
# chosen them on `choose` and measured three of their cells on `report`.
LAYERS = {MODEL: (12, 14), "gemma3-270m": (8, 10)}
STRENGTHS = (0.5, 0.75, 1.0, 1.25)
BUDGETS = (0.05, 0.1, 0.2, 0.35, 0.5)
DECORATIONS = ("dont-know-system", "dont-know-instruction", "refusal-bias@bias=2", "refusal-bias@bias=4")
KL_BUDGET = 0.3
RULES = {
    "strict": "recall s.t. over_abstention_rise<=0.05, accuracy_drop<=0.02",
    "bounded": "recall s.t. over_abstention_rise<=0.15",
    "open": "recall s.t. degenerate_rise<=0.1",
}
PUBLIC = {"selfaware": "selfaware/SelfAware.json", "umwp": "umwp/StandardDataset.jsonl"}
PUBLIC_ITEMS = 300
TOKENS = 32
METRICS = ("abstention_recall", "over_abstention", "accuracy", "tokens", "truncated", "degenerate")


def main() -> None:
    """Run what is not there yet and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="folder with selfaware/ and umwp/; without it they are left out"
    )
    parser.add_argument("--model", choices=LAYERS, default=MODEL)
    parser.add_argument("--limit", type=int, help="items of each split, balanced (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, help="where runs are kept (default: runs/MODEL)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lm = sk.load_model(asked.model, dtype=asked.dtype)
    out = asked.out or HERE / "runs" / asked.model
    layers = LAYERS[asked.model]
    vectors, probe = fitted(lm, layers, out)
    gates = [sk.ProbeGate(probe, t.layer, t.threshold) for t in probe.metadata.thresholds]

    cells = build_grid(
        vectors,
        layers,
        STRENGTHS,
        control_strengths=(),
        gates=[None, *gates],
        decorations=[sk.parse_decoration(name) for name in DECORATIONS],
    )
    wide = measured(lm, cells, out / "choose", suite="abstention", split="choose", limit=asked.limit)
    picked = choices(wide.summary(), cells)

    frontier = [c for c in cells if any(s.vector.name == "response" for s in c.steerings)]
    chosen = [cell for cell in picked.values() if cell is not None]
    cells_to_report = distinct([Cell(), *chosen, *controls(chosen), *frontier])
    narrow = measured(
        lm, cells_to_report, out / "report", suite="abstention", split="report", limit=asked.limit
    )
    parts = [
        "# What abstention recall costs, actuator by actuator",
        f"Written by `run.py`. {asked.model}, {asked.dtype}, greedy, at most {TOKENS} tokens, "
        f"{'every item' if asked.limit is None else f'{asked.limit} items'} of a split; changes are against the "
        "unsteered model; 95% intervals, paired bootstrap over twin groups.",
        f"Probe: {described(probe)}",
        "## Chosen on `choose`, measured once on `report`",
        "\n".join(f"- **{name}**: `{rule}`" for name, rule in RULES.items()),
        chosen_table(picked, narrow.summary()),
        "## The response contrast, gated against ungated, on `report`",
        frontier_ratios(narrow.directory.records(), {c.id: c for c in frontier}),
        "## What limits it, on `report`",
        limits(narrow.directory.records(), {c.id: c for c in frontier}),
    ]
    if asked.data is not None:
        for name, file in PUBLIC.items():
            suite = f"{name}:{asked.data / file}"
            run = measured(
                lm,
                distinct([Cell(), *chosen]),
                out / name,
                suite=suite,
                split="report",
                limit=PUBLIC_ITEMS,
            )
            measured_there = list(run.directory.records())
            parts += [
                f"## {name}, never seen in fitting or choosing",
                chosen_table(picked, run.summary()),
                frontier_ratios(measured_there, {c.id: c for c in frontier}),
                limits(measured_there, {c.id: c for c in frontier}),
            ]
    parts += ["## The grid on `choose`", grid_table(wide.summary())]
    text = "\n\n".join(parts) + "\n"
    name = "results.md" if asked.model == MODEL else f"results-{asked.model}.md"
    (HERE / name).write_text(text, encoding="utf-8")
    print(text)


def fitted(
    lm: sk.LanguageModel, layers: Sequence[int], out: Path
) -> tuple[list[sk.SteeringVector], sk.Probe]:
    """The vectors and the probe, made once and kept in `out`."""
    out.mkdir(parents=True, exist_ok=True)

    def kept(name: str, make: object) -> sk.SteeringVector:
        path = out / f"{name}.safetensors"
        if not path.is_file():
            make().renamed(name).save(path)  # type: ignore[operator]
        return sk.load_vector(path)

    pairs = sk.load_pairs("abstention")
    response = kept("response", lambda: sk.extract(lm, pairs))
    vectors = [
        response,
        kept("question", lambda: sk.extract(lm, sk.load_pairs("suite:abstention"), aggregation="prompt")),
        kept("projected", lambda: without_mean(response)),
        kept("learned", lambda: sk.learn(lm, pairs, layers, kl_budget=KL_BUDGET)),
    ]
    return vectors, fitted_probe(lm, out / "probe.safetensors", BUDGETS)


def fitted_probe(lm: sk.LanguageModel, path: Path, budgets: Sequence[float]) -> sk.Probe:
    """The model's own probe for what should be abstained from, thresholds from `choose`; kept in a file."""
    if not path.is_file():
        probe = sk.fit_probe(lm, sk.load_pairs("suite:abstention"), name="should-abstain")
        choose = sk.load_suite("abstention").split("choose")
        for budget in reversed(budgets):  # the last one added is the default
            probe = probe.with_threshold(sk.choose_threshold(probe, lm, choose, budget))
        probe.save(path)
    return sk.load_probe(path)


def without_mean(vector: sk.SteeringVector) -> sk.SteeringVector:
    """The vector without the mean state of its pairs."""
    from steerkit.projection import mean_state

    return sk.project_out(vector, mean_state(vector), "the mean state")


def measured(lm: sk.LanguageModel, cells: Sequence[Cell], out: Path, **options: object) -> sk.Run:
    """The cells on a suite, with a progress bar."""
    with Progress() as bar:
        task = bar.add_task(out.name)
        return measure_cells(
            lm,
            cells,
            out=out,
            max_new_tokens=TOKENS,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            **options,  # type: ignore[arg-type]
        )


def actuator(cell: Cell) -> tuple[str, bool]:
    """What acts, and whether a gate decides when."""
    if cell.decoration is not None:
        return cell.decoration.name, cell.decoration.gate is not None
    return cell.steerings[0].vector.name, cell.steerings[0].gate is not None


def choices(rows: Sequence[Row], cells: Sequence[Cell]) -> Mapping[tuple[str, str, bool], Cell | None]:
    """For each rule, actuator, and gated or not: the cell that the rule picks, None where none meets its bounds."""
    acting = [cell for cell in cells if cell.steerings or cell.decoration]
    by_id = {cell.id: cell for cell in acting}
    picked: dict[tuple[str, str, bool], Cell | None] = {}
    for rule, (name, gated) in itertools.product(RULES, dict.fromkeys(map(actuator, acting))):
        own = {cell.id for cell in acting if actuator(cell) == (name, gated)}
        row = choose_cell([r for r in rows if r.cell in own], parse_rule(RULES[rule]), doses=_doses(acting))
        picked[rule, name, gated] = by_id[row.cell] if row else None
    return picked


def _doses(cells: Sequence[Cell]) -> Mapping[str, float] | None:
    try:
        return relative_doses(cells)
    except MisuseError:
        return None


def controls(cells: Sequence[Cell]) -> list[Cell]:
    """A random direction of the same norm in the place of each chosen vector, under the same gate."""
    return [
        replace(
            cell,
            steerings=tuple(replace(s, vector=s.vector.random_control()) for s in cell.steerings),
            controls=cell.steerings[0].vector.name,
        )
        for cell in cells
        if cell.steerings
    ]


def described(probe: sk.Probe) -> str:
    """The probe's own numbers in a sentence."""
    data = probe.metadata
    assert data.auroc is not None
    thresholds = "; ".join(
        f"budget {t.budget:g}: layer {t.layer}, fires for {t.choose_true_positive_rate:.2f} / "
        f"{t.choose_false_positive_rate:.2f}"
        for t in data.thresholds
    )
    return (
        f"cross-fitted AUROC {data.auroc[data.layer]:.3f} at layer {data.layer} (words alone "
        f"{data.baseline_auroc:.3f}); on `choose`, for questions that should be abstained from / others: {thresholds}."
    )


def chosen_table(picked: Mapping[tuple[str, str, bool], Cell | None], rows: Sequence[Row]) -> str:
    """One line a choice, with its random control behind it where that was measured."""
    by_id = {row.cell: row for row in rows}
    lines = [
        "| rule | actuator | cell | " + " | ".join(METRICS) + " |",
        "|---|---|---|" + "---|" * len(METRICS),
    ]
    plain = next(row for row in rows if row.role == "unsteered")
    lines.append(f"| | unsteered | | {' | '.join(level(plain, m) for m in METRICS)} |")
    for (rule, name, gated), cell in picked.items():
        label = f"{name}, {'gated' if gated else 'ungated'}"
        if cell is None:
            lines.append(
                f"| {rule} | {label} | no cell meets the bounds | {' | '.join([''] * len(METRICS))} |"
            )
            continue
        row = by_id[cell.id]
        spec = (row.steering or row.decoration or "").replace("|", "/")
        lines.append(f"| {rule} | {label} | `{spec}` | {' | '.join(change(row, m) for m in METRICS)} |")
        for control in controls([cell]):
            if control.id in by_id:
                values = " | ".join(change(by_id[control.id], m) for m in METRICS)
                lines.append(f"| | its random control | | {values} |")
    return "\n".join(dict.fromkeys(lines))


def grid_table(rows: Sequence[Row]) -> str:
    """Every cell."""
    lines = ["| cell | " + " | ".join(METRICS) + " |", "|---|" + "---|" * len(METRICS)]
    for row in rows:
        spec = row.steering or row.decoration or "unsteered"
        values = " | ".join(f"{row.levels[m].value:.2f}" if m in row.levels else "–" for m in METRICS)
        lines.append(f"| `{spec}` | {values} |")
    return "\n".join(lines)


def level(row: Row, metric: str) -> str:
    """A metric with its interval."""
    if metric not in row.levels:
        return "–"
    e = row.levels[metric]
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"


def change(row: Row, metric: str) -> str:
    """A metric and its change from the unsteered model, with the change's interval."""
    if metric not in row.levels:
        return "–"
    e = row.changes[metric]
    return f"{row.levels[metric].value:.2f} ({e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}])"


if __name__ == "__main__":
    main()
