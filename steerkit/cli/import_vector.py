"""`steerkit import`: another tool's vector as a steerkit vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from steerkit.cli import console, given, options


def import_vector(
    file: Annotated[Path, Argument(help="A file, or a folder, of {importers}.")],
    out: options.OutFile,
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    name: Annotated[str | None, Option(help="The vector's name; default: that of --out.")] = None,
    layer: Annotated[int | None, Option(min=0, help="Layer of a .pt that holds one direction.")] = None,
    as_json: options.Json = False,
) -> None:
    """Turn another tool's vector into one for --model, the model that it was made on."""
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    from steerkit.interchange.base import check_import
    from steerkit.interchange.base import import_vector as read

    name = given.name(name, out)
    check_import(file)
    lm = console.load(model, placement, dtype)
    vector = read(file, lm, name, layer=layer)
    vector.save(out)
    layers = vector.direction.any(dim=1).nonzero().flatten().tolist()
    if as_json:
        console.print_json({"out": str(out), "format": vector.metadata.method, "layers": layers})
        return
    console.say(
        f"wrote {out}: {vector.metadata.method}, with a direction at {len(layers)} of {lm.n_layers} layers"
    )
    example = layers[len(layers) // 2]
    console.say(f"next: {console.generate_with(model, out, example)}")
