"""From a model reference to a loaded model whose residual-stream sites are known and checked.

Names are loaded when they are first used: thinking markers and bundled names are wanted where torch is not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerkit.models.catalogue import BUNDLED
    from steerkit.models.language_model import LanguageModel
    from steerkit.models.load import load_model

_HOME = {"BUNDLED": "catalogue", "LanguageModel": "language_model", "load_model": "load"}

__all__ = ["BUNDLED", "LanguageModel", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
