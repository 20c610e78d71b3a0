"""`steerkit import`: another tool's vector as a steerkit vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steerkit.cli import console, options


def import_vector(
    file: Annotated[
        Path,
        typer.Argument(
            help="A repeng or llama.cpp .gguf, an .svec, a .pt of CAA (or a folder of them) or persona vectors, or a "
            "TransformerLens cache."
        ),
    ],
    out: options.OutFile,
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    dtype: options.Dtype = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The vector's name; default: that of --out.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="Layer of a .pt that holds one direction.")
    ] = None,
    negative: Annotated[
        Path | None, typer.Option("--negative", help="The other side, where FILE is a TransformerLens cache.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Turn another tool's vector into one for --model, the model that it was made on."""
    from steerkit.interchange import importers

    lm = console.load(model, device, dtype)
    if negative is None:
        vector = importers.import_vector(file, lm, name or out.stem, layer=layer)
    else:
        vector = importers.import_caches(file, negative, lm, name or out.stem)
    vector.save(out)
    layers = vector.direction.any(dim=1).nonzero().flatten().tolist()
    if as_json:
        console.print_json({"out": str(out), "format": vector.metadata.method, "layers": layers})
        return
    console.say(
        f"wrote {out}: {vector.metadata.method}, with a direction at {len(layers)} of {lm.n_layers} layers"
    )
    example = layers[len(layers) // 2]
    console.say(
        f'next: steerkit generate --model {model} --steer {out}@layer={example},strength=1 "your question"'
    )
