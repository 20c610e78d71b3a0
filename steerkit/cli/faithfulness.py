"""`steerkit faithfulness`: what a run's chains of thought are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from steerkit.cli import console, options
from steerkit.core.errors import MisuseError


def faithfulness(
    run: Annotated[Path, Argument(help="A run directory, the --out of a sweep.")],
    tests: Annotated[
        str, Option(help="Some of early, filler, paraphrase, mistakes, logprob; comma between.")
    ] = "early,filler,paraphrase,mistakes,logprob",
    points: Annotated[int, Option(min=1, help="Truncations of a chain, evenly spaced.")] = 4,
    cell: Annotated[
        list[str] | None,
        Option(metavar="ID", help="Only this cell, as summary.csv names it; repeat for several."),
    ] = None,
    limit: Annotated[
        int | None, Option(min=1, help="At most this many items, the same for all cells.")
    ] = None,
    model: Annotated[
        str | None, Option("--model", "-m", help="The run's model, where its recorded name does not load.")
    ] = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    allow_mismatch: options.AllowMismatch = False,
    as_json: options.Json = False,
) -> None:
    """Test the chains of thought in RUN: cut short, replaced, paraphrased and spoilt, each under its own cell.

    What comes of it are scores of the run, in RUN/scores/chains.jsonl: asking again goes on there, and summary.csv,
    report and --choose have them from then on.
    """
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    from steerkit.analysis.run import open_run
    from steerkit.analysis.summary import write_summary
    from steerkit.chains.examination import Settings
    from steerkit.chains.measurement import measure_faithfulness
    from steerkit.chains.measures import CHAINS
    from steerkit.cli.report import print_rows
    from steerkit.scoring.metrics import metrics

    opened = open_run(run)
    protocol = opened.protocol
    settings = Settings(points, tuple(tests.split(",")), seed)
    try:
        lm = console.load(model or protocol.model, placement, protocol.dtype, protocol.template_options)
    except MisuseError as error:
        if model is not None:
            raise
        raise MisuseError(
            f"the run's model is called {protocol.model!r}, which does not load by that name: give its folder or "
            "hub id with --model"
        ) from error
    with console.progress("testing chains of thought") as progress:
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
    path = write_summary(opened.summary(), opened.path / "summary.csv")
    rows = [row.only(metrics([CHAINS])) for row in opened.summary()]
    rows = [row for row in rows if row.levels]
    if as_json:
        shown = [row.to_json() for row in rows]
        console.print_json({"run": str(opened.path), "summary": str(path), "rows": shown})
        return
    print_rows(opened, rows, "chains of thought: ")
    console.say(f"wrote {path}")
