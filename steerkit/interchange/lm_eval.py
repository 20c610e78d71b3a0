"""The file that lm-eval's `steered` model type reads, so that any of its benchmarks runs on a steered model.

    lm_eval --model steered --model_args pretrained=MODEL,steer_path=abstain.pt,dtype=float32 --tasks …

The file is a dict from the name of a decoder block to what is done to its output at every position. lm-eval
knows `add` (a vector times a coefficient) and `clamp` (the component along a direction set to a value), one of
them a block. Our `ablate` at strength 1 is its clamp to 0.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerkit.core.errors import MisuseError
from steerkit.core.files import replacing
from steerkit.interchange.additive import added, require_every_position
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel

CONSUMER = "lm-eval's steered model"


def export_lm_eval(
    lm: LanguageModel,
    steerings: Sequence[Steering],
    out: str | os.PathLike[str],
    *,
    allow_mismatch: bool = False,
) -> Path:
    """Write `steerings` of `lm` as a `.pt` file for lm-eval, whole or not at all.

    Raises MisuseError, naming the field, for a scope other than `all`, a gate, `rotate`, a `clamp` or `ablate`
    of another strength than 1, or several steerings on one layer unless all of them add.
    """
    if Path(out).suffix not in (".pt", ".pth"):
        raise MisuseError(f"{out}: lm-eval takes a .pt file for a steering; name --out NAME.pt")
    for steering in steerings:
        require_every_position(steering, CONSUMER)
        steering.vector.check(lm, exact=not allow_mismatch)
    acting = [steering for steering in steerings if steering.strength != 0]
    if not acting:
        raise MisuseError("strength=0 or no steering: there is nothing to export")
    entries = {
        _hookpoint(lm, layer): _entry([s for s in acting if layer in s.layers], layer)
        for layer in sorted({layer for steering in acting for layer in steering.layers})
    }
    with replacing(out, "the steering for lm-eval") as scratch:
        buffer = io.BytesIO()  # torch turns a full disk into an error of its own kind
        torch.save(entries, buffer)
        scratch.write_bytes(buffer.getvalue())
    return Path(out)


def _entry(steerings: Sequence[Steering], layer: int) -> dict[str, Any]:
    """What is done at one layer. Raises MisuseError, naming the field, where lm-eval has no word for it."""
    if all(steering.operation == "add" for steering in steerings):
        return _action(
            "add",
            added([s.vector.at(layer, s.strength, scope="all") for s in steerings], CONSUMER)[layer],
            1.0,
        )
    if len(steerings) > 1:
        raise MisuseError(
            f"layer={layer} is steered by {' and '.join(repr(str(s)) for s in steerings)}: {CONSUMER} does one thing "
            "a layer, unless all of them add"
        )
    (steering,) = steerings
    if steering.operation == "rotate":
        raise MisuseError(f"operation=rotate in {str(steering)!r}: {CONSUMER} knows add and clamp only")
    if steering.strength != 1:
        raise MisuseError(
            f"strength={steering.strength:g} in {str(steering)!r}: {CONSUMER} clamps fully; write strength=1"
        )
    direction = steering.vector.direction[layer]
    if not direction.any():
        raise MisuseError(
            f"layer={layer} of {steering.vector.name!r} is zero: it has no direction to clamp along"
        )
    return _action("clamp", direction.clone(), steering.target or 0.0)


def _action(action: str, vector: Tensor, coefficient: float) -> dict[str, Any]:
    return {
        "action": action,
        "steering_vector": vector,
        "steering_coefficient": coefficient,
        "bias": None,
        "head_index": None,
    }


def _hookpoint(lm: LanguageModel, layer: int) -> str:
    """The block's name in the model's base, which is where lm-eval looks for it."""
    return next(name for name, module in lm.hf.base_model.named_modules() if module is lm.blocks[layer])
