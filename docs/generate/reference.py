"""A page for every public noun of `steerkit/__init__.pyi`, and an index of them by what they are for."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from docs.generate.shared import ROOT

FOLDER = "reference"
# Rooms in the order in which a reader meets them; a noun belongs to the first whose modules hold it.
GROUPS = {
    "Models": ("steerkit.models",),
    "Pairs and extraction": ("steerkit.extraction.",),
    "Vectors and steerings": (
        "steerkit.interventions.vector",
        "steerkit.interventions.steering",
        "steerkit.interventions.operations",
        "steerkit.interventions.base",
        "steerkit.interventions.store",
        "steerkit.interventions.spec",
        "steerkit.interventions.hub",
    ),
    "Prompt edits, rules and policies": (
        "steerkit.interventions.prompt_edit",
        "steerkit.interventions.logit_rules",
        "steerkit.interventions.policies",
    ),
    "Gates and probes": (
        "steerkit.interventions.gate",
        "steerkit.interventions.detectors",
        "steerkit.interventions.probe",
    ),
    "Reading": (
        "steerkit.interventions.readers",
        "steerkit.interventions.following",
        "steerkit.reading",
        "steerkit.report.reading_map",
    ),
    "Engines": ("steerkit.engines",),
    "Suites and scoring": ("steerkit.suites", "steerkit.scoring"),
    "Sweeps and runs": ("steerkit.sweeps", "steerkit.runs", "steerkit.analysis"),
    "Calibration": ("steerkit.calibration",),
    "Interchange": ("steerkit.interchange",),
    "Everything else": ("steerkit",),
}


@dataclass(frozen=True)
class Noun:
    """A public name: where it is defined, and what its docstring begins with."""

    name: str
    module: str
    summary: str

    @property
    def group(self) -> str:
        """Under which heading it stands."""
        return next(group for group, begins in GROUPS.items() if self.module.startswith(begins))


@functools.cache
def nouns() -> list[Noun]:
    """Return the public nouns, in the order of the stub."""
    stub = ast.parse((ROOT / "steerkit" / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [
        (alias.asname or alias.name, each.module, alias.name)
        for each in stub.body
        if isinstance(each, ast.ImportFrom) and each.module
        for alias in each.names
    ]
    return [Noun(name, module, _summary(module, source)) for name, module, source in imports]


@functools.cache
def page_names() -> dict[str, str]:
    """Return each noun's page. `gate` and `Gate` would be one file on some disks, so a decorator's page says so."""
    names = [noun.name for noun in nouns()]
    classes = {name.lower() for name in names if name[0].isupper()}
    return {
        name: f"{FOLDER}/{name}-decorator.md" if name in classes else f"{FOLDER}/{name}.md" for name in names
    }


def pages() -> Iterator[tuple[str, str]]:
    """Yield the reference's pages: their paths within the site's sources, and their texts."""
    files = page_names()
    lines = [
        "# Reference",
        "",
        "Every public noun of `import steerkit as sk`. The command line has",
        "[a page of its own](commands.md).",
    ]
    found = nouns()
    for group in GROUPS:
        if members := [noun for noun in found if noun.group == group]:
            lines += ["", f"## {group}", "", "| | |", "|---|---|"]
            for noun in sorted(members, key=lambda noun: noun.name.lower()):
                file = files[noun.name].removeprefix(f"{FOLDER}/")
                lines.append(f"| [`{noun.name}`]({file}) | {noun.summary} |")
    yield f"{FOLDER}/README.md", "\n".join(lines) + "\n"
    for noun in found:
        yield files[noun.name], f"::: {noun.module}.{noun.name}\n"


def nav() -> list[dict[str, object]]:
    """Return the reference's part of the site's navigation."""
    files, found = page_names(), nouns()
    groups: list[dict[str, object]] = []
    for group in GROUPS:
        members = sorted((noun for noun in found if noun.group == group), key=lambda noun: noun.name.lower())
        if members:
            groups.append({group: [{noun.name: files[noun.name]} for noun in members]})
    return groups


def _summary(module: str, name: str) -> str:
    """Return the first sentence of what `name` says of itself."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").split("\n")[0].replace("|", "\\|")
    return ""
