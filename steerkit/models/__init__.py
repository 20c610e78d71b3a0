"""From a model reference to a loaded model whose residual-stream sites are known and checked."""

from steerkit.models.catalogue import BUNDLED
from steerkit.models.language_model import LanguageModel
from steerkit.models.load import load_model

__all__ = ["BUNDLED", "LanguageModel", "load_model"]
