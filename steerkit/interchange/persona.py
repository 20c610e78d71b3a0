"""Persona vectors (Chen et al. 2025): a `.pt` whose row N is hidden_states[N], row 0 being the embeddings.

So row N is our layer N - 1. Hugging Face's last hidden state has passed the final norm, so the last row is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.core.errors import ModelMismatchError
from steerkit.interchange.base import importer, read_pickled

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models import LanguageModel


@importer("persona", ".pt", ".pth")
def read(path: Path, lm: LanguageModel, layer: int | None) -> Mapping[int, Tensor] | None:
    """Return the directions by layer; None for another kind of `.pt`. Raises ModelMismatchError for other sizes."""
    del layer
    content = read_pickled(path)
    if getattr(content, "ndim", None) != 2:
        return None
    if len(content) != lm.n_layers + 1:
        raise ModelMismatchError(
            f"{path} has {len(content)} rows; a persona vector for {lm.name} has {lm.n_layers + 1}, the "
            "embeddings' first: name the model that it was made on"
        )
    return dict(enumerate(content[1:-1]))
