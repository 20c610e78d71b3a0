"""Calibration: the strength that it names has the divergence that was asked for, on texts that it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import steerkit as sk
from steerkit.calibration.calibrate import calibrate, default_prompts
from steerkit.calibration.result import Calibration
from steerkit.core.errors import MisuseError, ModelMismatchError
from steerkit.core.prompts import EncodedText
from steerkit.engines.transformers.divergence import divergences
from steerkit.engines.transformers.table import Program
from steerkit.interventions.store import from_json
from steerkit.interventions.vector import CalibrationRecord, load_vector
from steerkit.models import LanguageModel
from steerkit.suites.splits import split_of
from steerkit.suites.suite import load_suite
from tests.command_line import steerkit
from tests.engines.test_gates import splitting_gate
from tests.tiny import random_vector, tiny_model

PROMPTS = ["Why?", "Where is the sea?", "Who are you, and who am I?"]


@pytest.fixture(scope="module")
def calibrated(tiny: LanguageModel) -> Calibration:
    """Two layers of the tiny model at a mean KL of 0.05."""
    return calibrate(tiny, random_vector(tiny).at((1, 2)), kl=0.05, prompts=PROMPTS, tokens=8)


def rollouts(lm: LanguageModel, tokens: int) -> list[EncodedText]:
    """Greedy roll-outs by transformers' own generate, the end-of-sequence token kept."""
    texts = []
    for prompt in PROMPTS:
        ids = lm.renderer.encode_prompt(prompt)
        out = lm.hf.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            max_new_tokens=tokens,
            do_sample=False,
        )
        texts.append(EncodedText(tuple(out[0].tolist()), len(ids)))
    return texts


def test_the_strength_has_the_divergence_that_was_asked_for(
    tiny: LanguageModel, calibrated: Calibration
) -> None:
    texts = rollouts(tiny, 8)
    for layer, strength in calibrated.strengths.items():
        program = Program.of((random_vector(tiny).at(layer, strength),))
        kl = torch.cat([table[0] for table in divergences(tiny, texts, [program])])
        assert float(kl.mean()) == pytest.approx(0.05, rel=0.051)
    assert set(calibrated.strengths) == {1, 2}
    assert calibrated.completion_tokens == sum(text.completion_length for text in texts)


def test_every_strength_that_was_measured_is_on_the_curve(calibrated: Calibration) -> None:
    for found in calibrated:
        assert found.at_strength in found.curve
        assert [point.strength for point in found.curve] == sorted(point.strength for point in found.curve)
        assert found.rollout is not None
        assert found.rollout.kl.mean > 0
    assert calibrated.notes() == []


@pytest.mark.parametrize("statistic", ["mean", "p95"])
@pytest.mark.parametrize(
    ("operation", "scope"), [("add", "all"), ("add", "prompt"), ("rotate", "completion")]
)
def test_every_way_to_steer_is_met_within_tolerance(
    tiny: LanguageModel, statistic: str, operation: str, scope: str
) -> None:
    steering = random_vector(tiny).at(1, operation=operation, scope=scope)
    (found,) = calibrate(tiny, steering, kl=0.02, statistic=statistic, prompts=PROMPTS, tokens=6)
    assert found.at_strength is not None, found.reason
    assert found.at_strength.kl.value(statistic) == pytest.approx(0.02, rel=0.05)


def test_a_steering_that_fades_needs_more_strength_for_the_same_divergence(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    steady, fading = (
        calibrate(tiny, vector.at(2, half_life=half_life), kl=0.05, prompts=PROMPTS, tokens=12)
        for half_life in (None, 2.0)
    )
    assert fading.strengths[2] > 1.1 * steady.strengths[2]
    assert fading.vector.at(2, kl=0.05, half_life=2.0) == fading.at(2)
    with pytest.raises(MisuseError, match="no strength on record"):
        fading.vector.at(2, kl=0.05)


def test_a_row_gate_is_taken_to_be_open_and_kept(tiny: LanguageModel) -> None:
    gate, vector = splitting_gate(tiny, 1), random_vector(tiny)
    gated, plain = (
        calibrate(tiny, vector.at(2, gate=gate), kl=0.05, prompts=PROMPTS, tokens=6) for gate in (gate, None)
    )
    assert gated.strengths == plain.strengths
    assert gated.at(2).gate == gate


def test_a_negative_sign_calibrates_negative_strengths(tiny: LanguageModel) -> None:
    found = calibrate(tiny, random_vector(tiny).at(2, -1), kl=0.05, prompts=PROMPTS, tokens=6)
    mirrored = calibrate(tiny, (-random_vector(tiny)).at(2), kl=0.05, prompts=PROMPTS, tokens=6)
    assert found.strengths[2] == pytest.approx(-mirrored.strengths[2], rel=1e-3)
    assert found.at(2).strength < 0


def test_a_target_out_of_reach_has_a_reason_and_no_strength(tiny: LanguageModel) -> None:
    result = calibrate(tiny, random_vector(tiny).at(1), kl=0.5, prompts=PROMPTS, tokens=4, largest=1e-3)
    assert result.strengths == {}
    assert result.records() == []
    assert any("largest strength, 0.001" in note for note in result.notes())
    with pytest.raises(MisuseError, match="no calibrated strength"):
        result.at(1)


def test_a_scope_that_steers_nothing_is_out_of_reach(tiny: LanguageModel) -> None:
    steering = random_vector(tiny).at(1, scope="thinking")
    result = calibrate(tiny, steering, kl=0.5, prompts=PROMPTS, tokens=4)
    assert result.strengths == {}


def test_records_and_json_read_back(calibrated: Calibration) -> None:
    records = calibrated.records()
    assert [CalibrationRecord.model_validate_json(record.model_dump_json()) for record in records] == records
    plain = json.loads(json.dumps(calibrated.to_json(), allow_nan=False))
    assert [layer["strength"] for layer in plain["layers"]] == list(calibrated.strengths.values())
    assert from_json(plain["steering"], [random_vector(tiny_model())]) == calibrated.steering


def test_the_vector_keeps_its_strengths_and_is_steered_by_its_divergence(
    tiny: LanguageModel, calibrated: Calibration, tmp_path: Path
) -> None:
    vector = load_vector(calibrated.vector.save(tmp_path / "v.safetensors"))
    assert vector.at(2, kl=0.05) == vector.at(2, calibrated.strengths[2])
    again = calibrate(tiny, vector.at(2), kl=0.05, prompts=PROMPTS[:2], tokens=8).vector
    other = calibrate(tiny, again.at(2, -1), kl=0.05, prompts=PROMPTS[:2], tokens=8).vector
    assert [(r.layer, r.prompts) for r in again.metadata.calibration or ()] == [(1, 3), (2, 2)]
    assert len(other.metadata.calibration or ()) == 3
    assert other.digest == calibrated.steering.vector.digest


def test_default_prompts_take_no_part_in_choosing_or_reporting() -> None:
    fit = {item.prompt for item in load_suite("abstention") if split_of(item) == "fit"}
    assert set(default_prompts()) <= fit
    assert len(default_prompts()) in (15, 16)


BAD = [
    ({"kl": -0.1}, "positive number of nats"),
    ({"kl": float("nan")}, "positive number of nats"),
    ({"prompts": []}, "at least one prompt"),
    ({"prompts": ["  "]}, "prompt is empty"),
    ({"statistic": "max"}, "mean or p95"),
    ({"tolerance": 0.0}, "between 0 and 1"),
    ({"largest": -2.0}, "positive number"),
    ({"tokens": 0}, "at least 1"),
    ({"tokens": 10_000}, "reads 512"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_what_cannot_be_meant_is_said(tiny: LanguageModel, options: dict, message: str) -> None:
    asked = {"kl": 0.1, "prompts": PROMPTS, "tokens": 4} | options
    with pytest.raises(MisuseError, match=message):
        calibrate(tiny, random_vector(tiny).at(1), **asked)


def test_a_strength_of_zero_says_no_sign(tiny: LanguageModel) -> None:
    with pytest.raises(MisuseError, match="which sign"):
        calibrate(tiny, random_vector(tiny).at(1, 0.0), kl=0.1, prompts=PROMPTS)


def test_a_vector_of_another_model_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(ModelMismatchError):
        calibrate(tiny, random_vector(tiny_model(seed=1)).at(1), kl=0.1, prompts=PROMPTS)
    with pytest.raises(ModelMismatchError):
        calibrate(tiny, random_vector(tiny_model(layers=5)).at(1), kl=0.1, prompts=PROMPTS)


def test_a_vector_that_is_zero_at_a_layer_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(MisuseError, match="zero at layer 1"):
        calibrate(tiny, (random_vector(tiny) * 0.0).at(1), kl=0.1, prompts=PROMPTS)


def test_the_bundled_model_meets_its_target(smollm: LanguageModel) -> None:
    vector = random_vector(smollm, size=0.5)
    (found,) = sk.calibrate(smollm, vector.at(16), kl=0.1, prompts=default_prompts(limit=2), tokens=6)
    assert found.at_strength is not None, found.reason
    assert found.at_strength.kl.mean == pytest.approx(0.1, rel=0.05)


def test_the_command_prints_a_row_a_layer_and_writes_the_calibrated_vector(
    tiny_folder: Path, tiny_vector: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibrated.safetensors"
    common = (
        "calibrate",
        "--model",
        tiny_folder,
        "--vector",
        tiny_vector,
        "--layers",
        "1:2",
        "--target-kl",
        "0.05",
    )
    done = steerkit(*common, "--limit", 4, "--max-new-tokens", 6, "--out", out)
    assert done.code == 0, done.err
    assert "2 calibrated strengths" in done.err
    again = steerkit(*common, "--limit", 4, "--max-new-tokens", 6, "--json")
    plain, vector = json.loads(again.out), load_vector(out)
    for layer in plain["layers"]:
        assert vector.at(layer["layer"], kl=0.05).strength == layer["strength"]


def test_the_command_says_what_is_wrong_before_it_loads_a_model(tiny_vector: Path) -> None:
    done = steerkit("calibrate", "--vector", tiny_vector, "--layers", "x", "--target-kl", "0.05")
    assert done.code == 2
    assert "--layers" in done.err
