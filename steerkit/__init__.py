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

import functools
import importlib
from typing import Any

__version__ = "0.1.0"


@functools.cache
def _homes() -> dict[str, str]:
    """Public name -> the module that has it."""
    import ast

    with open(f"{__file__}i", encoding="utf-8") as stub:
        imports = [node for node in ast.parse(stub.read()).body if isinstance(node, ast.ImportFrom)]
    return {name.name: str(node.module) for node in imports for name in node.names}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_homes())
    if name.startswith("__") or name not in _homes():
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_homes()[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_homes())
