"""SelfAware and UMWP again with longer completions: at 32 tokens nearly all of them there are cut off.

    python -m experiments.abstention_tradeoff.longer --data FOLDER [--runs FOLDER] [--threads 2] [--dtype bfloat16]

Needs the runs that `run.py` made. The same items, and of the cells that the rules picked on `choose` the response
contrast's, the instruction and the bias; beside them what they give at 32 tokens. Writes results-longer.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import steerkit as sk
from experiments.abstention_tradeoff.cells import Picked, choices, grid
from experiments.abstention_tradeoff.limits import frontier_ratios, limits
from experiments.abstention_tradeoff.run import (
    HERE,
    LAYERS,
    MODEL,
    PUBLIC,
    PUBLIC_ITEMS,
    TOKENS,
    fitted,
    measured,
    of_response,
)
from experiments.abstention_tradeoff.tables import METRICS, change, spec_of, table
from steerkit.analysis.summary import Row, summarise
from steerkit.runs.cells import Cell
from steerkit.sweeps.grid import distinct

LONGER = 160
# (rule, actuator, gated); the open rule's ungated cell is what a perfect gate is measured with.
MEASURED = (
    ("bounded", "response", False),
    ("open", "response", False),
    ("strict", "response", True),
    ("bounded", "response", True),
    ("strict", "dont-know-instruction", True),
    ("bounded", "refusal-bias", False),
    ("strict", "refusal-bias", True),
)


def main() -> None:
    """Measure what is not there yet and write results-longer.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with selfaware/ and umwp/")
    parser.add_argument("--runs", type=Path, default=HERE / "runs" / MODEL)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int, default=PUBLIC_ITEMS, help="items of each set, balanced")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lm = sk.load_model(MODEL, dtype=asked.dtype)
    vectors, probe = fitted(lm, LAYERS[MODEL], asked.runs)
    cells, _ = grid(vectors, LAYERS[MODEL], probe)
    picked = choices(sk.open_run(asked.runs / "choose").summary(), cells)
    few = distinct([Cell(), *chosen(picked)])
    parts = [
        f"# SelfAware and UMWP with completions of up to {LONGER} tokens",
        f"Written by `longer.py`. {MODEL}, {asked.dtype}, greedy, {asked.limit} items of each set; cells that the rules"
        " picked on `choose`. Changes are against the unsteered model at the same length, both on the same items.",
    ]
    for name, file in PUBLIC.items():
        run = measured(
            lm,
            few,
            asked.runs / f"{name}-{LONGER}",
            sk.Measurement(f"{name}:{asked.data / file}", "report", asked.limit),
            LONGER,
        )
        records = list(run.records())
        items = {record.item for record in records}
        before = sk.open_run(asked.runs / name)
        shorter = summarise((r for r in before.records() if r.item in items), before.cells)
        response = of_response(few)
        parts += [
            f"## {name}",
            side_by_side({TOKENS: shorter, LONGER: run.summary()}, few),
            f"At {LONGER} tokens:",
            frontier_ratios(records, response),
            limits(records, response),
        ]
    text = "\n\n".join(parts) + "\n"
    (HERE / "results-longer.md").write_text(text, encoding="utf-8")
    print(text)


def chosen(picked: Picked) -> list[Cell]:
    """The cells of `MEASURED`, without those for which no cell met the rule."""
    return [cell for key in MEASURED if (cell := picked[key]) is not None]


def side_by_side(rows: Mapping[int, Sequence[Row]], cells: Sequence[Cell]) -> str:
    """Each cell at each length."""
    lines = []
    for cell in cells:
        for tokens, own in rows.items():
            row = next((row for row in own if row.cell == cell.id), None)
            if row is not None:
                values = " | ".join(change(row, metric) for metric in METRICS)
                lines.append(f"| `{spec_of(row)}` | {tokens} | {values} |")
    return table(["cell", "at most", *METRICS], lines)


if __name__ == "__main__":
    main()
