"""`steerkit export`: a steering for another program, checked in that program if asked."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerkit.cli import console, options

if TYPE_CHECKING:
    from steerkit.interchange.verification import Verification


class Target(StrEnum):
    """What can be written."""

    MERGED = "merged"
    GGUF = "gguf"
    LM_EVAL = "lm-eval"


NEXT = {
    Target.MERGED: "load it like any model: steerkit chat --model {out}",
    Target.GGUF: "use it: llama-cli -m MODEL.gguf --control-vector {out}",
    Target.LM_EVAL: "use it: lm_eval --model steered --model_args pretrained={model},steer_path={out} --tasks TASK",
}


def export(
    specs: Annotated[
        list[str], typer.Argument(metavar="SPEC...", help="VECTOR@layer=14,strength=1.5,scope=all")
    ],
    to: Annotated[
        Target,
        typer.Option("--to", help="A checkpoint folder, a llama.cpp control vector, or a .pt for lm-eval."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; for merged, a new folder.")],
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    dtype: options.Dtype = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run the real consumer on the export and compare it with ours.")
    ] = False,
    consumer_python: Annotated[
        Path | None,
        typer.Option(
            "--consumer-python", help="Python that has llama-cpp-python or lm-eval; default: this one."
        ),
    ] = None,
    gguf_model: Annotated[
        Path | None,
        typer.Option("--gguf-model", help="The model as GGUF, to verify gguf with; not needed if bundled."),
    ] = None,
    allow_mismatch: options.AllowMismatch = False,
    as_json: options.Json = False,
) -> None:
    """Write steerings so that another program applies them; what it cannot express is refused."""
    from steerkit.interchange import consumers, verification
    from steerkit.interchange.gguf import export_gguf
    from steerkit.interchange.gguf_model import gguf_of
    from steerkit.interchange.lm_eval import export_lm_eval
    from steerkit.interchange.merged import export_merged
    from steerkit.interventions.spec import parse_spec

    steerings = [parse_spec(spec) for spec in specs]
    outcome, folder = None, model
    match to:
        case Target.MERGED:
            lm = console.load(model, device, dtype)
            export_merged(lm, steerings, out, allow_mismatch=allow_mismatch)
            if verify:
                outcome = verification.verify_merged(lm, steerings, out, allow_mismatch=allow_mismatch)
        case Target.GGUF:
            if verify:
                consumers.LLAMA_CPP.check(consumer_python)
                runs_on = gguf_of(model, gguf_model, console.say)
            export_gguf(steerings, out)
            if verify:
                lm = console.load(model, device, dtype)
                outcome = verification.verify_gguf(
                    lm, steerings, out, runs_on, consumer_python, allow_mismatch=allow_mismatch
                )
        case Target.LM_EVAL:
            if verify:
                consumers.LM_EVAL.check(consumer_python)
            lm = console.load(model, device, dtype)
            folder = lm.hf.name_or_path  # lm-eval knows no bundled names
            export_lm_eval(lm, steerings, out, allow_mismatch=allow_mismatch)
            if verify:
                outcome = verification.verify_lm_eval(
                    lm, steerings, out, consumer_python, allow_mismatch=allow_mismatch
                )
    if as_json:
        console.print_json({"out": str(out), "verification": None if outcome is None else asdict(outcome)})
    else:
        console.say(f"wrote {out}; {NEXT[to].format(out=out, model=folder)}")
        if outcome is not None:
            _print(outcome)
    if outcome is not None and not outcome.passed:
        raise typer.Exit(1)


def _print(outcome: Verification) -> None:
    from rich.table import Table

    table = Table(*(name.replace("_", " ") for name in outcome.rows[-1]), box=None, pad_edge=False)
    for row in outcome.rows:
        cells = (row.get(name) for name in outcome.rows[-1])
        table.add_row(*("–" if cell is None else f"{cell:.4g}" for cell in cells))
    console.out.print(table)
    console.say(outcome.line())
