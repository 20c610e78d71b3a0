"""A tiny model for each module: asking transformers for hidden states leaves hooks on a model for good."""

from __future__ import annotations

import pytest

from steerkit.models import LanguageModel
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    """A random four-layer Llama over bytes that no other module has used."""
    return tiny_model()
