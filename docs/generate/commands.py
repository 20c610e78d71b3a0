"""The page of the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from steerkit.cli.app import app, fill_help


def page() -> str:
    """Return the page: a heading a command, its help, its arguments and options."""
    lines = ["# Commands", "", "Made from `--help`. Exit codes: 0 done, 1 failed, 2 misuse.", ""]
    for name, command in _commands("steerkit", typer.main.get_command(app)):
        lines += [f"## {name}", "", _plain(command.help or ""), "", *_table(command)]
    return "\n".join(lines) + "\n"


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for verb in command.commands:
            yield from _commands(f"{name} {verb}", command.get_command(None, verb))
    elif not command.hidden:
        fill_help(command)
        yield name, command


def _table(command: Any) -> Iterator[str]:
    rows = []
    for each in command.params:
        if each.hidden or each.name == "help":
            continue
        option = each.param_type_name == "option"
        named = ", ".join(each.opts) if option else (each.metavar or each.name).upper()
        rows.append(f"| `{named}` | {_plain(each.help or '')} |")
    if rows:
        yield from ["| | |", "|---|---|", *rows, ""]


def _plain(text: str) -> str:
    """Return a help text as one paragraph of Markdown."""
    words = " ".join(text.replace("\b", " ").split())
    for sign in "|*_<>":
        words = words.replace(sign, f"\\{sign}")
    return words
