"""What an operator sets: environment variables, read once in each process when vLLM loads the plugin.

    STEERKIT_VECTORS         folder whose vectors requests may name; none: only the published vectors
    STEERKIT_CELLS           how many distinct steerings each layer can hold at once (default 256)
    STEERKIT_DEPTH           how many steerings may meet on one layer of one request (default 4)
    STEERKIT_READERS         how many distinct vectors and probes each layer can be read with at once (default 16); in
                             CUDA graphs all places are computed in every step, used or not, and 0 leaves them out
    STEERKIT_LAYERS          the layers that requests may steer and read, as 8:16 or 4,8,12 (default all); in CUDA
                             graphs each of them costs time in every step, whether a request steers it or not
    STEERKIT_ALLOW_MISMATCH  1 accepts vectors that were made from other weights of the same architecture

Each cell costs three vectors of the model's width in its number format on every layer, so that 256 cells on an
8B model in bfloat16 take about 200 MB.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from steerkit.core.errors import MisuseError
from steerkit.interventions.spec import parse_range


@dataclass(frozen=True)
class Settings:
    """The operator's choices; see the module."""

    vectors: Path | None = None
    cells: int = 256
    depth: int = 4
    readers: int = 16
    layers: frozenset[int] | None = None
    allow_mismatch: bool = False

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the environment. Raises MisuseError, which stops the server, where a value cannot be meant."""
        folder, layers = os.environ.get("STEERKIT_VECTORS"), os.environ.get("STEERKIT_LAYERS")
        if folder is not None and not Path(folder).is_dir():
            raise MisuseError(
                f"STEERKIT_VECTORS={folder!r} is not a folder: name the folder that holds the vectors"
            )
        return cls(
            vectors=Path(folder).resolve() if folder is not None else None,
            cells=_count("STEERKIT_CELLS", cls.cells),
            depth=_count("STEERKIT_DEPTH", cls.depth),
            readers=_count("STEERKIT_READERS", cls.readers, 0),
            layers=frozenset(parse_range(layers, int, what="STEERKIT_LAYERS")) if layers else None,
            allow_mismatch=os.environ.get("STEERKIT_ALLOW_MISMATCH", "0") == "1",
        )


def _count(name: str, default: int, least: int = 1) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise MisuseError(f"{name}={text!r} is not a whole number of at least {least}")
    return int(text)
