"""steerkit: activation steering for open-weight language models, measured.

    import steerkit as sk

    lm = sk.load_model("smollm2-135m-instruct")
    vector = sk.extract(lm, sk.load_pairs("abstention"))
    with sk.steer(lm, vector.at(layer=14, strength=1.5)):
        lm.hf.generate(...)

The public names stand in `__init__.pyi`, once: type checkers read them there, and here each is loaded when it is
first used, so that importing the package costs no time.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    name.name: node.module
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for name in node.names
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
