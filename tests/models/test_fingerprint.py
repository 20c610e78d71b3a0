"""The fingerprint: one checkpoint has one, in every number format; other weights have another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steerkit.models import load_model
from steerkit.models.fingerprint import fingerprint
from tests.tiny import tiny_hf


def of(seed: int = 0, layers: int = 4, width: int = 32) -> str:
    return fingerprint(tiny_hf(seed, layers, width), layers, width)


def test_a_checkpoint_has_one_fingerprint_in_float32_and_bfloat16(tiny_folder: Path) -> None:
    assert load_model(tiny_folder).fingerprint == load_model(tiny_folder, dtype="bfloat16").fingerprint


@pytest.mark.models
def test_the_bundled_model_has_one_fingerprint_in_float32_and_bfloat16() -> None:
    name = "smollm2-135m-instruct"
    assert load_model(name).fingerprint == load_model(name, dtype="bfloat16").fingerprint


def test_it_names_the_architecture_and_its_sizes() -> None:
    assert of().startswith("LlamaForCausalLM-4x32:")


def test_the_same_weights_have_the_same_fingerprint() -> None:
    assert of() == of()


@pytest.mark.parametrize("other", [{"seed": 1}, {"layers": 3}, {"width": 64}])
def test_other_weights_or_sizes_have_another(other: dict[str, int]) -> None:
    assert of() != of(**other)


def test_a_light_fine_tune_has_another() -> None:
    hf = tiny_hf()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.mul_(1.02)
    assert fingerprint(hf, 4, 32) != of()
