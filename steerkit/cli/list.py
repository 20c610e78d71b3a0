"""`steerkit list`: what there is to name, built in or from a package beside steerkit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from typer import Argument

from steerkit.cli.console import print_json, print_table
from steerkit.cli.options import Json
from steerkit.core.errors import MisuseError


def list_registered(
    kind: Annotated[str | None, Argument(help="One kind alone, such as suites.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List estimators, operations, rules, edits, gates, readers, scorers, suites, exporters and engines by name."""
    from steerkit.core.registry import REGISTRIES, origin
    from steerkit.interventions.presets import presets

    kinds: dict[str, Mapping[str, object]] = {each.plural: dict(each.items()) for each in REGISTRIES}
    kinds["edits"] = presets()
    if kind is not None and kind not in kinds:
        raise MisuseError(f"no kind {kind!r}; there are {', '.join(kinds)}")
    listed = [
        {"kind": plural, "name": name, "summary": _summary(thing), "from": origin(thing)}
        for plural, things in kinds.items()
        if kind in (None, plural)
        for name, thing in things.items()
    ]
    if as_json:
        print_json(listed)
        return
    print_table(("kind", "name", "what it is", "from"), (entry.values() for entry in listed))


def _summary(thing: object) -> str:
    """The first line of what a thing says of itself; of a named edit, its texts."""
    from steerkit.core.registry import summary_of
    from steerkit.interventions.base import Intervention

    if not isinstance(thing, Intervention):
        return summary_of(thing)
    form = thing.to_json()
    first = next(form[part] for part in ("system", "instruction", "begin", "openers") if form.get(part))
    return first if isinstance(first, str) else ", ".join(first)
