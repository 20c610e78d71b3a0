"""`steerkit models`: what can be loaded without a hub, and whether a model is steered as it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from steerkit.cli import console, options
from steerkit.cli.console import print_json, print_table, show
from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from steerkit.checks.check import Cell
    from steerkit.core.prompts import TemplateOption
    from steerkit.models import LanguageModel
    from steerkit.models.placement import Placement

FAULTS = ("wrong", "crash")


def models(
    model: Annotated[list[str] | None, Argument(help="Models to describe, or with --check to check.")] = None,
    check: Annotated[
        bool,
        Option("--check", help="Hold every verb against a slow reference: on MODEL…, or on all families."),
    ] = False,
    family: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="With --check: a tiny random model of this family; repeat for several."),
    ] = None,
    record: Annotated[
        Path | None, Option(help="Keep what was found of families here, as JSON; others in it stay.")
    ] = None,
    page: Annotated[Path | None, Option(help="Write the record as a page for readers.")] = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    as_json: options.Json = False,
) -> None:
    """List the bundled models, or describe MODEL…: its size, and the markers between which it thinks.

    Any hub id, folder or .gguf file works too.

    With --check: load, extract, steer, generate and score with your own model, or with tiny random ones of all
    families that the installed transformers has, and compare each with plain hooks, one text at a time. Exit code 1
    where one differs.
    """
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    switches = options.template_options(template_option)
    if switches and not model:
        raise MisuseError("--template-option goes with a model, whose chat template reads it")
    if not check and (family or record or page):
        raise MisuseError("--family, --record and --page go with --check")
    if model and (family or record or page):
        raise MisuseError("--check takes models or families, and keeps a record of families alone")
    if model and not check:
        _describe([console.load(name, placement, dtype, switches) for name in model], as_json=as_json)
        return
    if model:
        sound, found = _check_models(model, placement, dtype, switches, quiet=as_json)
    elif check:
        sound, found = check_families(family or (), record, page, quiet=as_json)
    else:
        _list(as_json)
        return
    if as_json:
        print_json(found)
    if not sound:
        raise Exit(1)


def _describe(models: Sequence[LanguageModel], *, as_json: bool) -> None:
    """Say of each model what steering has to know of it."""
    described = [_description(lm) for lm in models]
    if as_json:
        print_json(described)
        return
    for each in described:
        print_table(
            ("model", each["name"]), ((key, str(value)) for key, value in each.items() if key != "name")
        )


def _description(lm: LanguageModel) -> dict[str, Any]:
    from steerkit.models.pretrained import UNBOUNDED

    found = lm.found_markers
    begun = lm.thinking.is_open(lm.thinking.start(lm.renderer.encode(lm.renderer.generation_prompt)))
    template = "yes" if lm.renderer.has_chat_template else "none: prompts take the plain form"
    return {
        "name": lm.name,
        "layers": lm.n_layers,
        "width": lm.d_model,
        "number format": str(lm.dtype).removeprefix("torch."),
        "reads": f"{lm.context_length} tokens" if lm.context_length < UNBOUNDED else "no limit is known",
        "chat template": template,
        "thinks between": f"{lm.markers.opening} and {lm.markers.closing}",
        "markers from": found.source
        or found.doubt
        or "nowhere: it shows no sign of thinking, these are the default",
        "its turn begins": "with thinking open" if begun else "with thinking closed",
    }


def _check_models(
    names: Sequence[str],
    placement: Placement,
    dtype: str | None,
    switches: Mapping[str, TemplateOption],
    *,
    quiet: bool,
) -> tuple[bool, list[dict[str, Any]]]:
    """Check the user's own models; returns whether all are sound, and what was found of each."""
    from steerkit.checks.check import Report, check_model

    found = []
    for name in names:
        for step in check_model(name, partial(console.load, name, placement, dtype, switches)):
            if isinstance(step, Report):
                found.append(asdict(step))
                _say_end(name, step.packing, step.seconds, quiet=quiet)
            else:
                _say(name, *step, quiet=quiet)
    cells = [cell for report in found for cell in report["cells"].values()]
    loaded = all(report["cells"]["load"]["mark"] == "ok" for report in found)
    return loaded and all(cell["mark"] not in FAULTS for cell in cells), found


def check_families(
    names: Sequence[str], record: Path | None = None, page: Path | None = None, *, quiet: bool = False
) -> tuple[bool, list[dict[str, Any]]]:
    """Check tiny models of families, of all without names, and keep what was found; returns it as `_check_models`."""
    from steerkit.checks import page as pages
    from steerkit.checks import table

    kept = table.read_record(record) if record else {}
    found = []
    for name, family in table.chosen(names).items():
        for step in table.check_family(family):
            if isinstance(step, table.Entry):
                kept[name] = step
                found.append({"name": name} | asdict(step))
                _say_end(name, step.packing or f"{step.kind} {step.reason}", step.seconds, quiet=quiet)
            else:
                _say(name, *step, quiet=quiet)
        if record:
            table.write_record(record, kept)
    if page:
        pages.write_page(page, kept)
    return not any(mark in FAULTS for entry in found for mark in entry["cells"].values()), found


def _say(name: str, column: str, cell: Cell, *, quiet: bool) -> None:
    if not quiet:
        show(f"{name:24} {column:8} {cell}")


def _say_end(name: str, how: str, seconds: float, *, quiet: bool) -> None:
    if not quiet:
        show(f"{name:24} {how}, {seconds:.1f} s")


def _list(as_json: bool) -> None:
    from steerkit.models.adapters import published_adapters, read_adapter
    from steerkit.models.bundled import models_folder
    from steerkit.models.catalogue import BUNDLED

    here = {name: any(models_folder().glob(f"{name}-*/config.json")) for name in BUNDLED}
    listed: list[dict[str, Any]] = [
        {"name": m.name, "summary": m.summary, "licence": m.licence, "hub_id": m.hub_id}
        | {"base": None, "fetched": here[m.name]}
        for m in BUNDLED.values()
    ]
    for adapter in map(read_adapter, published_adapters().values()):
        summary, licence = (adapter.note.summary, adapter.note.licence) if adapter.note else ("", "")
        entry = {"name": adapter.name, "summary": summary, "licence": licence, "hub_id": None}
        listed.append(entry | {"base": adapter.base, "fetched": here.get(adapter.base, False)})
    if as_json:
        print_json(listed)
        return
    fetched = {True: "yes", False: "on first use"}
    rows = ([m["name"], m["summary"], m["licence"], fetched[m["fetched"]]] for m in listed)
    print_table(("model", "what it is", "licence", "fetched"), rows)
    show("Any Hugging Face hub id, model folder, LoRA adapter's folder or .gguf file works as --model too.")
