"""`steerkit models`: what can be loaded without a hub."""

from __future__ import annotations

from steerkit.cli.console import out, print_json
from steerkit.cli.options import Json


def models(as_json: Json = False) -> None:
    """List the bundled models; any hub id, folder or .gguf file works too."""
    from rich.table import Table

    from steerkit.models.adapters import published_adapters, read_adapter
    from steerkit.models.bundled import models_folder
    from steerkit.models.catalogue import BUNDLED

    here = {name: any(models_folder().glob(f"{name}-*/config.json")) for name in BUNDLED}
    listed: list[dict[str, object]] = [
        {
            "name": m.name,
            "summary": m.summary,
            "licence": m.licence,
            "hub_id": m.hub_id,
            "base": None,
            "fetched": here[m.name],
        }
        for m in BUNDLED.values()
    ]
    listed += [
        {
            "name": adapter.name,
            "summary": adapter.note.summary if adapter.note else "",
            "licence": adapter.note.licence if adapter.note else "",
            "hub_id": None,
            "base": adapter.base,
            "fetched": here.get(adapter.base, False),
        }
        for adapter in map(read_adapter, published_adapters().values())
    ]
    if as_json:
        print_json(listed)
        return
    table = Table("model", "what it is", "licence", "fetched", box=None, pad_edge=False)
    for entry in listed:
        fetched = "yes" if entry["fetched"] else "on first use"
        table.add_row(str(entry["name"]), str(entry["summary"]), str(entry["licence"]), fetched)
    out.print(table)
    out.print(
        "Any Hugging Face hub id, model folder, LoRA adapter's folder or .gguf file works as --model too."
    )
