"""`steerkit list`: what there is to name, built in or from a package beside steerkit."""

from __future__ import annotations

from typing import Annotated

import typer

from steerkit.cli.console import out, print_json
from steerkit.cli.options import Json
from steerkit.core.errors import MisuseError


def list_registered(
    kind: Annotated[
        str | None, typer.Argument(help="One kind alone, such as suites.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List estimators, operations, rules, gates, scorers, suites, exporters and engines by name."""
    from rich.table import Table

    from steerkit.core.registry import REGISTRIES, origin, summary_of

    kinds = {registry.plural: registry for registry in REGISTRIES}
    if kind is not None and kind not in kinds:
        raise MisuseError(f"no kind {kind!r}; there are {', '.join(kinds)}")
    listed = [
        {"kind": plural, "name": name, "summary": summary_of(thing), "from": origin(thing)}
        for plural, registry in kinds.items()
        if kind in (None, plural)
        for name, thing in registry.items()
    ]
    if as_json:
        print_json(listed)
        return
    table = Table("kind", "name", "what it is", "from", box=None, pad_edge=False)
    for entry in listed:
        table.add_row(*entry.values())
    out.print(table)
