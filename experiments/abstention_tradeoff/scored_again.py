"""What a run's rules pick, and what its ungated cells have, before and after it was scored again.

    python -m experiments.abstention_tradeoff.scored_again BEFORE AFTER

Both are folders of one grid: AFTER is a copy of BEFORE that `steerkit report AFTER --score-again` has read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import steerkit as sk
from experiments.abstention_tradeoff.cells import RULES

METRICS = ("abstention_recall", "over_abstention", "accuracy", "degenerate")


def main() -> None:
    """Print both, metric by metric and rule by rule."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    asked = parser.parse_args()
    for folder in (asked.before, asked.after):
        run = sk.open_run(folder)
        ungated = [row for row in run.summary() if row.role != "unsteered" and "gate" not in row.at.spec]
        means = {metric: f"{mean(row.levels[metric].value for row in ungated):.3f}" for metric in METRICS}
        print(f"{folder}: mean of the {len(ungated)} ungated cells: {means}")
        for name, rule in RULES.items():
            row = run.choose(rule)
            had = row and {metric: round(row.levels[metric].value, 3) for metric in METRICS}
            print(f"  {name}: {row and row.at.spec}: {had}")


if __name__ == "__main__":
    main()
