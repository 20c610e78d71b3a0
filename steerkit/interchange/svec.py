"""`.svec`, the JSON of IBM's activation steering and AISteer360: directions[N] is hidden_states[N + 1], our layer N.

Their last layer comes from the last hidden state, which has passed the final norm; they steer there all the same,
and so it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.core.characters import one_line
from steerkit.core.contents import contents_of, refusal
from steerkit.core.errors import InputError
from steerkit.interchange.base import importer

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models import LanguageModel


@importer("svec", ".svec")
def read(path: Path, lm: LanguageModel, layer: int | None) -> Mapping[int, Tensor]:
    """Return the directions by layer. Raises InputError for a damaged file, or one with several a layer."""
    import torch

    del lm, layer
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        directions = {int(key): torch.tensor(values) for key, values in content["directions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = contents_of(path)
        if found is not None and found.kind != "JSON":
            raise refusal(InputError, path, ".svec file", "give the file that its tool wrote") from error
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is no readable .svec file ({one_line(reason)})") from error
    for number, values in directions.items():
        if values.ndim == 2 and len(values) > 1:  # per position, per head, or the two axes of a plane
            raise InputError(
                f"{path}: layer {number} holds {len(values)} directions; a steering vector has one a layer"
            )
    return {number: values.flatten() for number, values in directions.items()}
