"""SteeringVector: the file, the digest, the algebra, and whom a vector may be applied to."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file

from steerkit.core.errors import InputError, MisuseError, ModelMismatchError, SteerkitError
from steerkit.interventions.layer_tensors import Described
from steerkit.interventions.vector import CalibrationRecord, SteeringVector, VectorMetadata, load_vector

FINGERPRINT = "LlamaForCausalLM-3x8:aa"


def metadata(**changed: Any) -> VectorMetadata:
    fields = {
        "name": "calm",
        "model": "somewhere/a-model",
        "fingerprint": FINGERPRINT,
        "method": "mean-difference",
        "aggregation": "last",
    }
    return VectorMetadata(**(fields | changed))


def a_vector(seed: int = 0, layers: int = 3, width: int = 8, **changed: Any) -> SteeringVector:
    noise = torch.randn(4, layers, width, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(noise[0], metadata(**changed), noise[1], noise[2], noise[3, :, 0].abs())


any_text = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=any_text,
    positive=any_text,
    layers=st.integers(1, 5),
    width=st.integers(1, 9),
    optional=st.sets(st.sampled_from(["mean_positive", "mean_negative", "activation_norm"])),
    separability=st.none() | st.lists(st.floats(0, 1)).map(tuple),
)
def test_a_vector_comes_back_from_its_file_as_it_was(
    tmp_path: Path,
    name: str,
    positive: str,
    layers: int,
    width: int,
    optional: set[str],
    separability: tuple[float, ...] | None,
) -> None:
    full = a_vector(0, layers, width, name=name, positive=positive, separability=separability)
    kept = {field: getattr(full, field) for field in optional}
    vector = SteeringVector(full.direction, full.metadata, **kept)
    back = load_vector(vector.save(tmp_path / "v.safetensors"))
    assert back.metadata == vector.metadata
    assert back.digest == vector.digest
    assert torch.equal(back.direction, vector.direction)
    for field in ("mean_positive", "mean_negative", "activation_norm"):
        before, after = getattr(vector, field), getattr(back, field)
        assert after is None if before is None else torch.equal(before, after)


def test_saving_makes_missing_folders(tmp_path: Path) -> None:
    assert a_vector().save(tmp_path / "a" / "b" / "v.safetensors").is_file()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), SafetensorError("I/O error")])
def test_a_failing_write_leaves_the_old_file_whole_and_no_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    path = a_vector(0).save(tmp_path / "v.safetensors")
    before = path.read_bytes()

    def half_a_file(_tensors: object, target: str, metadata: object) -> None:  # noqa: ARG001
        Path(target).write_bytes(b"half")
        raise failure

    monkeypatch.setattr("safetensors.torch.save_file", half_a_file)
    with pytest.raises(SteerkitError, match="name another place"):
        a_vector(1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_digest_is_that_of_the_direction_and_nothing_else() -> None:
    vector = a_vector()
    assert vector.digest == a_vector(name="other", positive="x").digest
    assert vector.digest == SteeringVector(vector.direction.double(), metadata()).digest
    assert vector.digest != a_vector(1).digest
    assert vector.digest != SteeringVector(vector.direction.reshape(8, 3), metadata()).digest
    assert vector.digest != (-vector).digest


def test_the_digest_is_the_same_on_every_machine() -> None:
    counted = SteeringVector(torch.arange(6.0).reshape(2, 3), metadata())
    assert counted.digest == "5c6e3ffa28d20d387f18e5426ad8ae4ac3aab0b6673fb8f83ac8d7f43bbe1127"


def test_vectors_add_and_scale_as_their_directions_do() -> None:
    a, b = a_vector(0), a_vector(1, name="brief")
    assert torch.equal((a + b).direction, a.direction + b.direction)
    assert torch.equal((a - b).direction, a.direction - b.direction)
    assert torch.equal((2 * a).direction, (a * 2).direction)
    assert torch.equal((-a).direction, -a.direction)
    assert (a + b).metadata.scaling == "combined"
    assert (a + b).metadata.separability is None
    assert (2 * a).name == "2*calm"


def test_only_vectors_of_one_model_add_up() -> None:
    with pytest.raises(ModelMismatchError, match="only vectors of one model"):
        a_vector() + a_vector(fingerprint="LlamaForCausalLM-3x8:bb")
    with pytest.raises(ModelMismatchError):
        a_vector() + a_vector(layers=4)
    with pytest.raises(TypeError):
        a_vector() + 1  # type: ignore[operator]


@pytest.mark.parametrize("seed", [0, 7])
def test_a_random_control_has_the_norm_of_its_vector_and_another_direction(seed: int) -> None:
    vector = a_vector(layers=2, width=4096)
    control = vector.random_control(seed)
    assert torch.allclose(control.direction.norm(dim=1), vector.direction.norm(dim=1), rtol=1e-5)
    assert torch.cosine_similarity(control.direction, vector.direction).abs().max() < 0.1
    assert control.digest == vector.random_control(seed).digest
    assert control.digest != vector.random_control(seed + 1).digest
    assert control.metadata.method == "random"
    assert control.metadata.scaling == "norm"
    assert control.metadata.positive == ""


def test_a_control_of_a_control_is_another_direction_again() -> None:
    once = a_vector(layers=2, width=4096).random_control(seed=0)
    twice = once.random_control(seed=0)
    assert torch.cosine_similarity(once.direction, twice.direction).abs().max() < 0.1


def test_the_relative_dose_is_the_push_over_the_stream() -> None:
    vector = SteeringVector(torch.tensor([[3.0, 4.0]]), metadata(), activation_norm=torch.tensor([20.0]))
    assert vector.relative_dose(0, -2.0) == pytest.approx(0.5)
    assert SteeringVector(vector.direction, metadata()).relative_dose(0, 1.0) is None


@pytest.mark.parametrize(
    ("fingerprint", "layers", "width", "says"),
    [
        ("LlamaForCausalLM-4x8:aa", 4, 8, "3 layers, width 8"),
        ("LlamaForCausalLM-3x9:aa", 3, 9, "with 3 layers, width 9"),
        ("GPT2LMHeadModel-3x8:aa", 3, 8, "GPT2LMHeadModel"),
    ],
)
def test_another_architecture_or_width_is_an_error_that_names_both(
    fingerprint: str, layers: int, width: int, says: str
) -> None:
    for exact in (True, False):
        with pytest.raises(ModelMismatchError, match="somewhere/a-model") as caught:
            a_vector().check(Described("mine", fingerprint, layers, width), exact=exact)
        assert says in str(caught.value)
        assert "mine" in str(caught.value)


def test_other_weights_of_one_architecture_pass_only_on_request() -> None:
    with pytest.raises(ModelMismatchError, match="allow the mismatch"):
        a_vector().check(Described("mine", "LlamaForCausalLM-3x8:bb", 3, 8))
    a_vector().check(Described("mine", "LlamaForCausalLM-3x8:bb", 3, 8), exact=False)
    a_vector().check(Described("mine", FINGERPRINT, 3, 8))


@pytest.mark.parametrize(
    "tensors",
    [
        {"direction": torch.tensor([[1.0, float("nan")]])},
        {"direction": torch.tensor([[1.0, float("-inf")]])},
        {"direction": torch.tensor([[1e39]], dtype=torch.float64)},
        {"direction": torch.ones(2, 3, 4)},
        {"direction": torch.ones(2, 3), "mean_positive": torch.ones(3, 2)},
        {"direction": torch.ones(2, 3), "activation_norm": torch.ones(3)},
        {"direction": torch.ones(2, 3), "mean_negative": torch.full((2, 3), float("nan"))},
    ],
)
def test_tensors_that_could_not_steer_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InputError):
        SteeringVector(metadata=metadata(), **tensors)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(
        st.sampled_from([*VectorMetadata.model_fields, "surprise"]),
        st.none() | st.integers() | st.text() | st.lists(st.floats(allow_nan=False)),
    )
    | st.text(st.characters(exclude_categories=["Cs"]))
)
def test_a_damaged_header_is_an_error_that_names_the_file(tmp_path: Path, header: object) -> None:
    path = tmp_path / "v.safetensors"
    text = header if isinstance(header, str) else json.dumps(header)
    save_file({"direction": torch.ones(2, 3)}, path, metadata={"steerkit": text})
    try:
        VectorMetadata.model_validate_json(text)
    except ValidationError:
        with pytest.raises(InputError, match=re.escape(str(path))):
            load_vector(path)
    else:
        load_vector(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_cut_or_overwritten_anywhere_is_an_error_or_harmless(
    tmp_path: Path, data: st.DataObject
) -> None:
    whole = a_vector().save(tmp_path / "whole.safetensors").read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    noise = data.draw(st.binary(max_size=20))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole[:place] + noise)
    with suppress(SteerkitError):
        load_vector(damaged)


def test_a_vector_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="not a regular file"):
        a_vector().save(tmp_path)


def calibrated(layer: int = 1, strength: float = 0.75) -> CalibrationRecord:
    return CalibrationRecord(
        layer=layer,
        strength=strength,
        statistic="mean",
        target_kl=0.1,
        measured_kl=0.1,
        interval=None,
        rollout_kl=None,
        tokens=9,
        prompts=2,
        prompts_digest="d",
    )


def test_a_calibrated_strength_is_used_by_its_kl() -> None:
    vector = a_vector().with_calibration([calibrated()])
    assert vector.at(1, kl=0.1) == vector.at(1, 0.75)
    for wrong in ({"layer": 0, "kl": 0.1}, {"layer": 1, "kl": 0.2}, {"layer": 1, "kl": 0.1, "scope": "all"}):
        with pytest.raises(MisuseError, match=r"layer 1 at 0\.1"):
            vector.at(**wrong)


@pytest.mark.parametrize(
    "change", [lambda v: -v, lambda v: v + v, lambda v: 2 * v, lambda v: v.random_control()]
)
def test_another_direction_keeps_nothing_that_was_measured_on_this_one(change: Any) -> None:
    vector = a_vector(
        separability=(0.5,) * 3, baseline_separability=0.5, agreement=(0.1,) * 3, alignment=(1.0,) * 3
    ).with_calibration([calibrated()])
    metadata = change(vector.recommending(vector.at(1))).metadata
    assert {
        getattr(metadata, name) for name in ("separability", "agreement", "alignment", "calibration")
    } == {None}
    assert metadata.baseline_separability is None
    assert metadata.recommended == ()


def test_of_two_calibrated_directions_the_positive_one_is_meant() -> None:
    vector = a_vector().with_calibration([calibrated(strength=-0.5), calibrated(strength=0.75)])
    assert vector.at(1, kl=0.1) == vector.at(1, 0.75)
