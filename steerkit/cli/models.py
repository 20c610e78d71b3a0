"""`steerkit models`: what can be loaded without a hub."""

from __future__ import annotations

from steerkit.cli.console import out, print_json
from steerkit.cli.options import Json


def models(as_json: Json = False) -> None:
    """List the bundled models; any hub id, folder or .gguf file works too."""
    from rich.table import Table

    from steerkit.models.bundled import models_folder
    from steerkit.models.catalogue import BUNDLED

    here = {name: any(models_folder().glob(f"{name}-*/config.json")) for name in BUNDLED}
    if as_json:
        print_json(
            [
                {
                    "name": m.name,
                    "summary": m.summary,
                    "licence": m.licence,
                    "hub_id": m.hub_id,
                    "fetched": here[m.name],
                }
                for m in BUNDLED.values()
            ]
        )
        return
    table = Table("model", "what it is", "licence", "fetched", box=None, pad_edge=False)
    for m in BUNDLED.values():
        table.add_row(m.name, m.summary, m.licence, "yes" if here[m.name] else "on first use")
    out.print(table)
    out.print("Any Hugging Face hub id, model folder or .gguf file works as --model too.")
