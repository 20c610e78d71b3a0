"""The Typer application: its verbs, each imported when it is asked for.

A verb is one file here and one line in `VERBS`. Help texts may name registries in braces, `{suites}`, `{operations}`,
as `steerkit list` does: the names in them are filled in where help is asked for, plugins' included.
"""

from __future__ import annotations

import importlib
import re
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import steerkit

VERBS = {  # verb -> where its function, or its application of several verbs, is
    "models": "models.models",
    "list": "list.list_registered",
    "pairs": "pairs.app",
    "extract": "extract.extract",
    "gate": "gate.app",
    "vectors": "vectors.app",
    "features": "features.app",
    "generate": "generate.generate",
    "chat": "chat.chat",
    "sweep": "sweep.sweep",
    "tune": "tune.tune",
    "calibrate": "calibrate.calibrate",
    "report": "report.report",
    "faithfulness": "faithfulness.faithfulness",
    "export": "export.export",
    "import": "import_vector.import_vector",
    "serve": "serve.serve",
    "doctor": "doctor.doctor",
}
SETTINGS = {"help_option_names": ["-h", "--help"]}


class Verbs(TyperGroup):
    """The group of all verbs, loaded one by one."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: dict[str, Any] = dict.fromkeys(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb of this name, imported now; None where there is none."""
        if cmd_name in self.commands and self.commands[cmd_name] is None:
            self.commands[cmd_name] = _load(cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """(name, verb, its arguments), the names of registries filled into its help if that is asked for."""
        name, command, rest = super().resolve_command(ctx, args)
        if not set(rest).isdisjoint(ctx.help_option_names):
            fill_help(command)
        return name, command, rest


def _load(verb: str) -> Any:
    """The command of a verb, or its group of commands."""
    module, _, attribute = VERBS[verb].partition(".")
    found = getattr(importlib.import_module(f"steerkit.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        only = typer.Typer(add_completion=False, context_settings=SETTINGS)
        only.command(verb)(found)
        found = only
    command = typer.main.get_command(found)
    command.name = verb  # which a group of commands does not know
    return command


def fill_help(command: Any) -> None:
    """Put the names of a registry in the place of `{suites}` and the like, in the help of every option."""
    from steerkit.core.registry import REGISTRIES

    registries = {registry.plural: registry for registry in REGISTRIES}
    for one in (command, *getattr(command, "commands", {}).values()):
        for option in one.params:
            if option.help:
                option.help = re.sub(r"\{(\w+)\}", lambda found: ", ".join(registries[found[1]]), option.help)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(steerkit.__version__)
        raise typer.Exit


app = typer.Typer(
    name="steerkit",
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Activation steering for open-weight language models, measured."""
