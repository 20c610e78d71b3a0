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
    from steerkit.calibration.calibrate import calibrate
    from steerkit.calibration.result import Calibration
    from steerkit.core.errors import SteerkitError
    from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
    from steerkit.engines.context import steer
    from steerkit.engines.remote.server import ServerEngine
    from steerkit.engines.remote.vllm import VllmEngine
    from steerkit.engines.transformers.engine import TransformersEngine
    from steerkit.extraction.extract import extract
    from steerkit.extraction.learned import learn
    from steerkit.extraction.pairs import load_pairs, save_pairs
    from steerkit.extraction.probe_fit import choose_threshold, fit_probe
    from steerkit.extraction.projection import project_out
    from steerkit.interchange.gguf import export_gguf
    from steerkit.interchange.importers import import_caches, import_vector
    from steerkit.interchange.lm_eval import export_lm_eval
    from steerkit.interchange.merged import export_merged
    from steerkit.interventions.decoration import Decoration
    from steerkit.interventions.probe import Probe, load_probe
    from steerkit.interventions.spec import parse_decoration, parse_range, parse_spec
    from steerkit.interventions.steering import Gate, ProbeGate, Steering
    from steerkit.interventions.vector import SteeringVector, load_vector
    from steerkit.models.language_model import LanguageModel
    from steerkit.models.load import load_model
    from steerkit.scoring.judge import Judge
    from steerkit.suites.suite import load_suite
    from steerkit.sweeps.confirmation import choose_then_report
    from steerkit.sweeps.sweep import Run, open_run, sweep

_HOME = {
    "Calibration": "calibration.result",
    "Completion": "engines.base",
    "Decoding": "engines.base",
    "Decoration": "interventions.decoration",
    "Gate": "interventions.steering",
    "Judge": "scoring.judge",
    "LanguageModel": "models.language_model",
    "Probe": "interventions.probe",
    "ProbeGate": "interventions.steering",
    "Request": "engines.base",
    "Run": "sweeps.sweep",
    "ScoreRequest": "engines.base",
    "ServerEngine": "engines.remote.server",
    "Steering": "interventions.steering",
    "SteeringVector": "interventions.vector",
    "SteerkitError": "core.errors",
    "TransformersEngine": "engines.transformers.engine",
    "VllmEngine": "engines.remote.vllm",
    "calibrate": "calibration.calibrate",
    "choose_then_report": "sweeps.confirmation",
    "choose_threshold": "extraction.probe_fit",
    "export_gguf": "interchange.gguf",
    "export_lm_eval": "interchange.lm_eval",
    "export_merged": "interchange.merged",
    "extract": "extraction.extract",
    "fit_probe": "extraction.probe_fit",
    "import_caches": "interchange.importers",
    "import_vector": "interchange.importers",
    "learn": "extraction.learned",
    "load_model": "models.load",
    "load_pairs": "extraction.pairs",
    "load_probe": "interventions.probe",
    "load_suite": "suites.suite",
    "load_vector": "interventions.vector",
    "open_run": "sweeps.sweep",
    "parse_decoration": "interventions.spec",
    "parse_range": "interventions.spec",
    "parse_spec": "interventions.spec",
    "project_out": "extraction.projection",
    "save_pairs": "extraction.pairs",
    "steer": "engines.context",
    "sweep": "sweeps.sweep",
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
