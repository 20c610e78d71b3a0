"""llama.cpp control vectors: a GGUF file that `--control-vector` and repeng read.

llama.cpp adds tensor `direction.N` to the output of decoder block N, counted from 0, at every position: our
layer N. The first block cannot be steered, for the loader refuses `direction.0`. (llama.cpp's own generator
writes what it found after block 0 as `direction.1`, one layer off from where the runtime adds it; what counts
here is the runtime.) Strengths are written into the file, so it is applied with scale 1.

repeng looks up a direction for every layer that it controls, so layers that are not steered hold zeros.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from steerkit.core.errors import MisuseError
from steerkit.core.files import replacing
from steerkit.interchange.additive import constant_shifts, steered_layers
from steerkit.interventions.steering import Steering

ARCHITECTURE = "controlvector"
CONVENTION = "direction.N is added to the output of decoder block N, counted from 0, at every position"


def export_gguf(steerings: Sequence[Steering], out: str | os.PathLike[str]) -> Path:
    """Write `steerings` as a llama.cpp control vector, whole or not at all.

    Raises MisuseError, naming the field, for a scope other than `all`, an operation other than `add`, a gate,
    or layer 0.
    """
    import gguf

    shifts = constant_shifts(steerings, "a llama.cpp control vector")
    if shifts[0].any():
        raise MisuseError(
            "layer=0: llama.cpp cannot steer the first block (its files begin with direction.1); export other layers"
        )
    metadata = steerings[0].vector.metadata
    with replacing(out, "the control vector") as scratch:
        writer = gguf.GGUFWriter(scratch, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", _model_type(metadata.fingerprint))
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(shifts) - 1)
        writer.add_string("steerkit.layer_convention", CONVENTION)
        writer.add_string("steerkit.version", version("steerkit"))
        writer.add_string("steerkit.model", metadata.model)
        writer.add_string("steerkit.fingerprint", metadata.fingerprint)
        writer.add_array("steerkit.steering", [str(steering) for steering in steerings])
        writer.add_array("steerkit.layers", steered_layers(shifts))
        for layer, shift in enumerate(shifts[1:].numpy(), start=1):
            writer.add_tensor(f"direction.{layer}", shift)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return Path(out)


def _model_type(fingerprint: str) -> str:
    """transformers' name of the model family (`llama`), as repeng writes it, from the fingerprint's class."""
    import transformers

    architecture = fingerprint.split("-")[0]
    config = getattr(getattr(transformers, architecture, None), "config_class", None)
    return getattr(config, "model_type", architecture)
