"""`steerkit models`: what can be loaded without a hub."""

from __future__ import annotations

from typing import Any

from steerkit.cli.console import out, print_json, print_table
from steerkit.cli.options import Json


def models(as_json: Json = False) -> None:
    """List the bundled models; any hub id, folder or .gguf file works too."""
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
    out.print(
        "Any Hugging Face hub id, model folder, LoRA adapter's folder or .gguf file works as --model too."
    )
