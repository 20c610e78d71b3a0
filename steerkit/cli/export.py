"""`steerkit export`: interventions for another program, checked in that program if asked."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from steerkit.cli import console, options

if TYPE_CHECKING:
    from steerkit.interchange.base import Verification


def export(
    specs: Annotated[
        list[str],
        Argument(metavar="SPEC...", help="VECTOR@layer=14,strength=1.5,scope=all, or RUN#CELL of a sweep."),
    ],
    to: Annotated[str, Option(help="{exporters}.")],
    out: Annotated[
        Path, Option("--out", "-o", help="File to write; for merged, a new folder.", callback=options.a_place)
    ],
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    verify: Annotated[
        bool, Option("--verify", help="Run the real consumer on the export and compare it with ours.")
    ] = False,
    consumer_python: Annotated[
        Path | None, Option(help="Python of the consumer's environment; default: this one.")
    ] = None,
    consumer_model: Annotated[
        Path | None,
        Option(help="What it runs the model from: for gguf, a GGUF, unless the model is bundled."),
    ] = None,
    allow_mismatch: options.AllowMismatch = False,
    as_json: options.Json = False,
) -> None:
    """Write steerings so that another program applies them; what it cannot express is refused."""
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    switches = options.template_options(template_option)
    from steerkit.interchange.base import Consumer, Exported, check_export
    from steerkit.interchange.base import export as write
    from steerkit.runs.references import read_interventions

    exporter, interventions, _ = check_export(read_interventions(specs), to, out)
    consumer = Consumer(consumer_python, consumer_model)
    if verify:
        consumer = exporter.prepared(consumer, model, console.say)
    lm = console.load(model, placement, dtype, switches) if verify or exporter.needs_model else None
    write(interventions, exporter, out, lm, allow_mismatch=allow_mismatch)
    outcome = None
    if verify and lm is not None:
        outcome = exporter.verify(Exported(interventions, out, lm, consumer, allow_mismatch))
    if as_json:
        console.print_json({"out": str(out), "verification": None if outcome is None else asdict(outcome)})
    else:
        folder = model if lm is None else lm.hf.name_or_path  # no other program knows our bundled names
        console.say(f"wrote {out}; {exporter.next.format(out=quote(str(out)), model=quote(folder))}")
        if outcome is not None:
            _print(outcome)
    if outcome is not None and not outcome.passed:
        raise Exit(1)


def _print(outcome: Verification) -> None:
    names = list(outcome.rows[-1])
    rows = ([console.number(row.get(name), ".4g") for name in names] for row in outcome.rows)
    console.print_table([name.replace("_", " ") for name in names], rows)
    console.say(str(outcome))
