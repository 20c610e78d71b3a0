"""The probe as data and as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from steerkit.core.errors import InputError, MisuseError, ModelMismatchError, SteerkitError
from steerkit.interventions.layer_tensors import Described
from steerkit.interventions.probe import (
    Probe,
    ProbeMetadata,
    ProbeThreshold,
    load_probe,
    log_odds_of,
    probe_from,
)
from steerkit.models import LanguageModel
from tests.tiny import random_vector

LAYERS, WIDTH = 4, 32


def a_probe(seed: int = 0, **metadata: Any) -> Probe:
    generator = torch.Generator().manual_seed(seed)
    given_or_not = {"name": "gate", "model": "tiny", "fingerprint": "llama:abc", "layer": 2} | metadata
    return Probe(
        torch.randn(LAYERS, WIDTH, generator=generator),
        torch.randn(LAYERS, generator=generator),
        ProbeMetadata(**given_or_not),
    )


def a_threshold(**changed: Any) -> ProbeThreshold:
    rates = {"choose_false_positive_rate": 0.04, "choose_true_positive_rate": 0.6}
    return ProbeThreshold(**({"budget": 0.05, "threshold": 0.7, "layer": 1} | rates | changed))


def test_the_log_odds_are_an_affine_reading_of_the_state() -> None:
    probe = a_probe()
    states = torch.randn(3, 5, WIDTH, dtype=torch.bfloat16)
    expected = states.double().numpy() @ probe.weight[1].double().numpy() + float(probe.bias[1])
    assert np.allclose(probe.logit(1, states).numpy(), expected, atol=1e-4)
    assert np.allclose(probe.probability(1, states).numpy(), 1 / (1 + np.exp(-expected)), atol=1e-5)


@given(
    st.floats(-60, 60),
    st.floats(1e-12, 1 - 1e-12).filter(lambda p: 0 < p < 1),
)
def test_it_fires_from_the_threshold_on_even_where_probabilities_saturate(
    value: float, threshold: float
) -> None:
    probe = Probe(torch.ones(1, 1), torch.zeros(1), a_probe(layer=0).metadata)
    state = torch.tensor([[value]])
    expected = float(state) >= log_odds_of(threshold)
    assert bool(probe.fires(0, state, threshold)) is expected


def test_without_a_choice_the_threshold_is_even_odds_and_the_last_choice_is_the_default() -> None:
    probe = a_probe()
    assert probe.metadata.threshold == 0.5
    chosen = probe.with_threshold(a_threshold(threshold=0.7)).with_threshold(a_threshold(threshold=0.9))
    assert chosen.metadata.threshold == 0.9
    assert [t.threshold for t in chosen.metadata.thresholds] == [0.9, 0.7]
    assert chosen.digest == probe.digest
    states = torch.randn(50, WIDTH)
    assert torch.equal(chosen.fires(2, states), probe.logit(2, states) >= log_odds_of(0.9))


@pytest.mark.parametrize("layer", [-1, LAYERS])
def test_a_layer_that_the_model_does_not_have_is_refused(layer: int) -> None:
    with pytest.raises(MisuseError, match=f"layer {layer} is out of range.*layers 0 to {LAYERS - 1}"):
        a_probe().logit(layer, torch.zeros(WIDTH))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(MisuseError, match="between 0 and 1"):
        a_probe().fires(0, torch.zeros(WIDTH), threshold)


@pytest.mark.parametrize(
    ("weight", "bias", "complaint"),
    [
        (torch.zeros(4), torch.zeros(4), "a probe is"),
        (torch.zeros(4, 8), torch.zeros(3), "bias has shape"),
        (torch.full((4, 8), torch.nan), torch.zeros(4), "weight .* NaN or Inf"),
        (torch.zeros(4, 8), torch.full((4,), torch.inf), "bias .* NaN or Inf"),
        (torch.zeros(2, 8), torch.zeros(2), "names layer 2 but has 2 layers"),
    ],
)
def test_tensors_that_make_no_probe_are_refused(
    weight: torch.Tensor, bias: torch.Tensor, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        Probe(weight, bias, a_probe().metadata)


def test_a_probe_survives_its_file(tmp_path: Path) -> None:
    probe = a_probe(auroc=(0.5, 0.6, 0.9, 0.7), data=("ours",)).with_threshold(a_threshold())
    again = load_probe(probe.save(tmp_path / "sub" / "gate.safetensors"))
    assert again.metadata == probe.metadata
    assert again.digest == probe.digest
    assert torch.equal(again.weight, probe.weight)
    assert torch.equal(again.bias, probe.bias)


def test_a_vectors_file_may_hold_a_probe_beside_the_vector(tmp_path: Path, tiny: LanguageModel) -> None:
    path = random_vector(tiny).save(tmp_path / "vector.safetensors")
    with path.open("rb") as file:  # the header of a safetensors file: its length, then JSON
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    probe = a_probe()
    save_file(load_file(path) | probe.tensors(), path, metadata=header | probe.header())
    assert load_probe(path).digest == probe.digest


def test_a_vector_without_a_probe_is_told_apart_from_a_damaged_one(
    tmp_path: Path, tiny: LanguageModel
) -> None:
    path = random_vector(tiny).save(tmp_path / "vector.safetensors")
    with pytest.raises(MisuseError, match="holds no probe"):
        load_probe(path)
    probe = a_probe()
    assert probe_from({}, {}, "here") is None
    for tensors, header in [
        ({}, probe.header()),
        (probe.tensors(), {}),
        ({"gate_weight": probe.weight}, probe.header()),
    ]:
        with pytest.raises(InputError, match="here holds only part of a probe"):
            probe_from(tensors, header, "here")


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("{", "damaged"),
        ("{}", "damaged at 'name'"),
        (a_probe(format_version=99).metadata.model_dump_json(), "has probe format 99"),
        (a_probe().metadata.model_dump_json()[:-1] + ', "more": 1}', "damaged at 'more'"),
    ],
)
def test_damaged_metadata_is_named(tmp_path: Path, header: str, complaint: str) -> None:
    path = tmp_path / "gate.safetensors"
    save_file(a_probe().tensors(), path, metadata={"steerkit.probe": header})
    with pytest.raises(InputError, match=complaint) as caught:
        load_probe(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file_or_no_safetensors_is_said(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="no probe file"):
        load_probe(tmp_path / "none.safetensors")
    with pytest.raises(MisuseError, match="no probe file"):
        load_probe(tmp_path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a tensor in sight")
    with pytest.raises(InputError, match="no safetensors file"):
        load_probe(broken)
    with pytest.raises(SteerkitError, match="not a regular file"):
        a_probe().save(tmp_path)


def test_another_model_is_refused_and_other_weights_only_when_exact() -> None:
    probe = a_probe()
    probe.check(Described("tiny", "llama:abc", LAYERS, WIDTH))
    with pytest.raises(ModelMismatchError, match="is gemma"):
        probe.check(Described("other", "gemma:abc", LAYERS, WIDTH))
    with pytest.raises(ModelMismatchError, match="width 64"):
        probe.check(Described("other", "llama:abc", LAYERS, 64))
    with pytest.raises(ModelMismatchError, match="other weights"):
        probe.check(Described("other", "llama:def", LAYERS, WIDTH))
    probe.check(Described("other", "llama:def", LAYERS, WIDTH), exact=False)
