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
    from steerkit.calibration.result import Calibration
    from steerkit.calibration.run import calibrate
    from steerkit.decoration import Decoration
    from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
    from steerkit.engines.context import steer
    from steerkit.engines.server import ServerEngine
    from steerkit.engines.transformers import TransformersEngine
    from steerkit.engines.vllm import VllmEngine
    from steerkit.errors import SteerkitError
    from steerkit.export.control_vector import export_gguf
    from steerkit.export.lm_eval import export_lm_eval
    from steerkit.export.merged import export_merged
    from steerkit.extraction import extract
    from steerkit.importers import import_caches, import_vector
    from steerkit.learning import learn
    from steerkit.models.language_model import LanguageModel
    from steerkit.models.load import load_model
    from steerkit.pairs import load_pairs, save_pairs
    from steerkit.probes import Probe, load_probe
    from steerkit.probing import choose_threshold, fit_probe
    from steerkit.projection import project_out
    from steerkit.scoring.judge import Judge
    from steerkit.spec import parse_decoration, parse_range, parse_spec
    from steerkit.steering import Gate, ProbeGate, Steering
    from steerkit.suites.suite import load_suite
    from steerkit.sweeps.confirmation import choose_then_report
    from steerkit.sweeps.run import Run, open_run, sweep
    from steerkit.vector import SteeringVector, load_vector

_HOME = {
    "Calibration": "calibration.result",
    "Completion": "engines.base",
    "Decoding": "engines.base",
    "Decoration": "decoration",
    "Gate": "steering",
    "Judge": "scoring.judge",
    "LanguageModel": "models.language_model",
    "Probe": "probes",
    "ProbeGate": "steering",
    "Request": "engines.base",
    "Run": "sweeps.run",
    "ScoreRequest": "engines.base",
    "ServerEngine": "engines.server",
    "Steering": "steering",
    "SteeringVector": "vector",
    "SteerkitError": "errors",
    "TransformersEngine": "engines.transformers",
    "VllmEngine": "engines.vllm",
    "calibrate": "calibration.run",
    "choose_then_report": "sweeps.confirmation",
    "choose_threshold": "probing",
    "export_gguf": "export.control_vector",
    "export_lm_eval": "export.lm_eval",
    "export_merged": "export.merged",
    "extract": "extraction",
    "fit_probe": "probing",
    "import_caches": "importers",
    "import_vector": "importers",
    "learn": "learning",
    "load_model": "models.load",
    "load_pairs": "pairs",
    "load_probe": "probes",
    "load_suite": "suites.suite",
    "load_vector": "vector",
    "open_run": "sweeps.run",
    "parse_decoration": "spec",
    "parse_range": "spec",
    "parse_spec": "spec",
    "project_out": "projection",
    "save_pairs": "pairs",
    "steer": "engines.context",
    "sweep": "sweeps.run",
}

__all__ = [
    "Calibration",
    "Completion",
    "Decoding",
    "Decoration",
    "Gate",
    "Judge",
    "LanguageModel",
    "Probe",
    "ProbeGate",
    "Request",
    "Run",
    "ScoreRequest",
    "ServerEngine",
    "Steering",
    "SteeringVector",
    "SteerkitError",
    "TransformersEngine",
    "VllmEngine",
    "calibrate",
    "choose_then_report",
    "choose_threshold",
    "export_gguf",
    "export_lm_eval",
    "export_merged",
    "extract",
    "fit_probe",
    "import_caches",
    "import_vector",
    "learn",
    "load_model",
    "load_pairs",
    "load_probe",
    "load_suite",
    "load_vector",
    "open_run",
    "parse_decoration",
    "parse_range",
    "parse_spec",
    "project_out",
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
