"""steerkit: activation steering for open-weight language models, measured.

    import steerkit as sk

    lm = sk.load_model("smollm2-135m-instruct")
    vector = sk.extract(lm, sk.load_pairs("abstention"))
    with sk.steer(lm, vector.at(layer=14, strength=1.5)):
        lm.hf.generate(...)

Names are loaded when they are first used, so that importing the package costs no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
    from steerkit.engines.context import steer
    from steerkit.engines.transformers import TransformersEngine
    from steerkit.errors import SteerkitError
    from steerkit.extraction import extract
    from steerkit.models.language_model import LanguageModel
    from steerkit.models.load import load_model
    from steerkit.pairs import load_pairs, save_pairs
    from steerkit.spec import parse_range, parse_spec
    from steerkit.steering import Gate, Steering
    from steerkit.suites.suite import load_suite
    from steerkit.sweeps.run import Run, open_run, sweep
    from steerkit.vector import SteeringVector, load_vector

_HOME = {
    "Completion": "engines.base",
    "Decoding": "engines.base",
    "Gate": "steering",
    "LanguageModel": "models.language_model",
    "Request": "engines.base",
    "Run": "sweeps.run",
    "ScoreRequest": "engines.base",
    "Steering": "steering",
    "SteeringVector": "vector",
    "SteerkitError": "errors",
    "TransformersEngine": "engines.transformers",
    "extract": "extraction",
    "load_model": "models.load",
    "load_pairs": "pairs",
    "load_suite": "suites.suite",
    "load_vector": "vector",
    "open_run": "sweeps.run",
    "parse_range": "spec",
    "parse_spec": "spec",
    "save_pairs": "pairs",
    "steer": "engines.context",
    "sweep": "sweeps.run",
}

__all__ = [
    "Completion",
    "Decoding",
    "Gate",
    "LanguageModel",
    "Request",
    "Run",
    "ScoreRequest",
    "Steering",
    "SteeringVector",
    "SteerkitError",
    "TransformersEngine",
    "extract",
    "load_model",
    "load_pairs",
    "load_suite",
    "load_vector",
    "open_run",
    "parse_range",
    "parse_spec",
    "save_pairs",
    "steer",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"steerkit.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
