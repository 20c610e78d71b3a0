"""Vectors of Contrastive Activation Addition (Rimsky et al. 2024): `vec_layer_N….pt`, the output of block N.

One file is one direction; a folder of them, a layer each, is one vector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.core.errors import MisuseError
from steerkit.interchange.base import FOLDER, importer, read_pickled

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models import LanguageModel

NAME = re.compile(r"vec_layer_(\d+)(?:_|$)")


@importer("caa", ".pt", ".pth", FOLDER)
def read(path: Path, lm: LanguageModel, layer: int | None) -> Mapping[int, Tensor] | None:
    """Return the directions by layer; None for another kind of `.pt`.

    Raises MisuseError where neither the name nor `layer` says which layer it is, or where two files say the same.
    """
    del lm
    if path.is_dir():
        held = [file for file in path.iterdir() if file.suffix.lower() == ".pt"]
        files = [(int(match[1]), file) for file in held if (match := NAME.match(file.stem))]
        if len(files) != len({number for number, _ in files}):
            raise MisuseError(f"{path} has several files for one layer: leave those of one model in it")
        return {number: read_pickled(file) for number, file in files}
    content = read_pickled(path)
    if getattr(content, "ndim", None) != 1:
        return None
    match = NAME.match(path.stem)
    if layer is None and match is None:
        raise MisuseError(
            f"{path} is one direction, and its name does not say for which layer: give the layer"
        )
    return {int(match[1]) if layer is None and match else layer or 0: content}
