"""How far a steering that somebody else asks for may push a model: not so far that it overflows."""

from __future__ import annotations

import torch

from steerkit.core.errors import MisuseError
from steerkit.engines.transformers.stages import Acting, Stage

# Beyond this a state's squares overflow in the norm that follows, and the row's keys and values with it.
LARGEST_SHIFT = {torch.float32: 1e8, torch.bfloat16: 1e8, torch.float16: 1e3}
LARGEST_GAIN = 1e4


def check_size(constants: Acting, layer: int, dtype: torch.dtype) -> None:
    """Raise MisuseError for a steering at a layer that would overflow a model of this number format."""
    Stage.stack([constants], torch.empty(0, dtype=dtype))  # raises where the format cannot hold a constant
    factor = max(abs(constants.gain), abs(constants.amount))
    if float(constants.shift.norm()) > LARGEST_SHIFT.get(dtype, 1e3) or factor > LARGEST_GAIN:
        raise MisuseError(f"'strength' at layer {layer} is absurdly large: it would overflow the model")
