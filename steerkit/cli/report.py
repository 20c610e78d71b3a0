"""`steerkit report`: the trade-off table, summary, plots and page of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerkit.cli import console, options

if TYPE_CHECKING:
    from steerkit.sweeps.run import Run


def report(
    run: Annotated[Path, typer.Argument(help="A run directory, the --out of a sweep.")],
    as_json: options.Json = False,
) -> None:
    """Print the trade-off table of RUN and write its summary.csv, plots and report.html."""
    from steerkit.sweeps.run import open_run

    show(open_run(run), as_json=as_json)


def show(run: Run, *, as_json: bool) -> None:
    """Write the report, then print the rows, as a table or as JSON."""
    from steerkit.report.questions import best_cell, questions
    from steerkit.report.tables import trade_off_table

    page = run.report()
    rows = run.summary()
    if as_json:
        console.print_json({"run": str(run.path), "report": str(page), "rows": [asdict(row) for row in rows]})
        return
    protocol = run.directory.protocol
    title = f"{protocol.suite} / {protocol.split}, {protocol.model}, 95% intervals"
    console.wide().print(trade_off_table(rows, title))
    console.say(f"wrote {page} (open it in a browser), summary.csv and plots beside it")
    if protocol.split == "report":  # nothing is chosen on the split that reports
        return
    for question in questions(rows):
        best = best_cell(rows, question)
        if best is None:
            console.say(
                f"{question.title.lower()}: no cell is clearly better than unsteered by the rule: {question.rule}"
            )
        else:
            console.say(f"{question.title.lower()}: best cell within bounds is {best.steering}")
            if best.layer is not None:
                console.say(
                    f"next, measure it once on unseen items: steerkit sweep --vector … --layers {best.layer} "
                    f"--strengths={best.strength:g} --suite {protocol.suite} --split report --out NEW_FOLDER"
                )
