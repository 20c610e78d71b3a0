"""`steerkit faithfulness`: what a run's chains of thought are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerkit.cli import console, options

if TYPE_CHECKING:
    from steerkit.analysis.run import Run


def faithfulness(
    run: Annotated[Path, typer.Argument(help="A run directory, the --out of a sweep.")],
    tests: Annotated[
        str,
        typer.Option("--tests", help="Some of early, filler, paraphrase, mistakes, logprob; comma between."),
    ] = "early,filler,paraphrase,mistakes,logprob",
    points: Annotated[
        int, typer.Option("--points", min=1, help="Truncations of a chain, evenly spaced.")
    ] = 4,
    cell: Annotated[
        list[str] | None,
        typer.Option(
            "--cell", metavar="ID", help="Only this cell, as summary.csv names it; repeat for several."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most this many items, the same for all cells.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The run's model, where its recorded name does not load."),
    ] = None,
    device: options.Device = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    allow_mismatch: options.AllowMismatch = False,
    as_json: options.Json = False,
) -> None:
    """Test the chains of thought in RUN: cut short, replaced, paraphrased and spoilt, each under its own cell.

    What comes of it are scores of the run, in RUN/scores/chains.jsonl: asking again goes on there, and summary.csv,
    report and --choose have them from then on.
    """
    from steerkit.analysis.run import open_run
    from steerkit.chains.examination import Settings
    from steerkit.chains.measurement import measure_faithfulness

    opened = open_run(run)
    protocol = opened.protocol
    settings = Settings(points, tuple(tests.split(",")), seed)
    lm = console.load(model or protocol.model, device, protocol.dtype)
    with console.plain_warnings(), console.progress("testing chains of thought") as progress:
        path = measure_faithfulness(
            opened.directory,
            lm,
            settings=settings,
            cells=cell or (),
            limit=limit,
            batch_size=batch_size,
            allow_mismatch=allow_mismatch,
            progress=progress,
        )
    console.say(f"wrote {path}: what was asked and answered")
    show(opened, as_json=as_json)


def show(run: Run, *, as_json: bool) -> None:
    """Write the summary of the run and print what was found of its chains, as a table or as JSON."""
    from steerkit.analysis.summary import write_summary
    from steerkit.chains.measures import CHAINS
    from steerkit.report.tables import trade_off_table
    from steerkit.scoring.metrics import metrics

    path = write_summary(run.summary(), run.path / "summary.csv")
    rows = [row.only(metrics([CHAINS])) for row in run.summary()]
    rows = [row for row in rows if row.levels]
    if as_json:
        summary = {"run": str(run.path), "summary": str(path), "rows": [row.to_json() for row in rows]}
        console.print_json(summary)
        return
    protocol, terminal = run.protocol, console.wide()
    title = f"chains of thought: {protocol.suite} / {protocol.split}, {protocol.model}, 95% intervals"
    terminal.print(trade_off_table(rows, title, terminal.width))
    console.say(f"wrote {path}")
