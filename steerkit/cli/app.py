"""The Typer application and its verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from steerkit.cli import (
    calibrate,
    chat,
    doctor,
    export,
    extract,
    faithfulness,
    generate,
    import_vector,
    models,
    pairs,
    report,
    sweep,
)

app = typer.Typer(
    name="steerkit",
    help="Activation steering for open-weight language models, measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("steerkit"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Activation steering for open-weight language models, measured."""


app.command("models")(models.models)
app.add_typer(pairs.app, name="pairs")
app.command("extract")(extract.extract)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("sweep")(sweep.sweep)
app.command("calibrate")(calibrate.calibrate)
app.command("report")(report.report)
app.command("faithfulness")(faithfulness.faithfulness)
app.command("export")(export.export)
app.command("import")(import_vector.import_vector)
app.command("doctor")(doctor.doctor)
