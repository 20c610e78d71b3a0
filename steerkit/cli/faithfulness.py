"""`steerkit faithfulness`: what a run's chains of thought are worth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerkit.cli import console, options

if TYPE_CHECKING:
    from steerkit.sweeps.sweep import Run


def faithfulness(
    run: Annotated[Path, typer.Argument(help="A run directory, the --out of a sweep.")],
    vector: Annotated[
        list[str] | None,
        typer.Option("--vector", help="Vector file that the sweep was given; repeat for several."),
    ] = None,
    gate: Annotated[
        list[str] | None, typer.Option("--gate", metavar="FILE", help="Gate's file that the sweep was given.")
    ] = None,
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
    """Test the chains of thought in RUN: cut short, replaced, paraphrased and spoilt, under each cell's own steering.

    Findings go to RUN/faithfulness.jsonl, and asking again goes on there; the table also to faithfulness.csv. Where
    the prompts state constraints or come as twins, instruction following and the gap between twins are shown as well.
    """
    from steerkit.chains.examination import Settings
    from steerkit.chains.measurement import measure_faithfulness
    from steerkit.interventions.vector import load_gate, load_vector
    from steerkit.sweeps.sweep import open_run

    opened = open_run(run)
    protocol = opened.directory.protocol
    settings = Settings(points, tuple(tests.split(",")), seed)
    vectors = [*map(load_vector, vector or ()), *map(load_gate, gate or ())]
    lm = console.load(model or protocol.model, device, protocol.dtype)
    with console.plain_warnings(), console.progress("testing chains of thought") as progress:
        path = measure_faithfulness(
            opened.directory,
            lm,
            vectors=vectors,
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
    """Write the summary of what was found and print it, as tables or as JSON."""
    from steerkit.chains.summary import write_faithfulness_summary
    from steerkit.chains.tables import section_tables, sections

    found = list(sections(run.directory))
    path = write_faithfulness_summary(found[0].rows, run.path)
    if as_json:
        tables = {section.name.replace(" ", "_"): list(map(asdict, section.rows)) for section in found}
        console.print_json({"run": str(run.path), "summary": str(path), **tables})
        return
    protocol = run.directory.protocol
    for section in found:
        title = f"{section.name}: {protocol.suite} / {protocol.split}, {protocol.model}, 95% intervals"
        console.wide().print(section_tables(section, title))
    console.say(f"wrote {path}")
