"""Projection: what is taken out is gone, what stays keeps its scale, and the vector says what was done to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.core.errors import InputError, MisuseError
from steerkit.extraction.extract import extract
from steerkit.extraction.pairs import ContrastPair, ContrastPairs, save_pairs
from steerkit.extraction.projection import content, mean_state, project_out, shared_directions
from steerkit.interventions.vector import MEASURED, CalibrationRecord, load_vector
from tests.command_line import steerkit
from tests.tiny import random_vector, tiny_model

PLACES = ["Rome", "Oslo", "Lima", "Cairo", "Quito", "Delhi"]
PAIRS = ContrastPairs(
    "knowing",
    tuple(
        ContrastPair(p, f"Where is {p}?", f"I cannot say where {p} is.", f"{p} is over there!")
        for p in PLACES
    ),
)


def cosines(direction: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """`[n_layers, k]`, in float64."""
    return torch.cosine_similarity(direction.double()[:, None], shared.double(), dim=-1)


@given(seed=st.integers(0, 2**31), k=st.integers(1, 5), size=st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=25, deadline=None)
def test_what_is_left_is_orthogonal_to_every_shared_direction_and_no_longer(tiny, seed, k, size):
    vector = random_vector(tiny, seed, size)
    shared = torch.randn(tiny.n_layers, k, tiny.d_model, generator=torch.Generator().manual_seed(seed + 1))
    left = project_out(vector, shared, "noise")
    assert float(cosines(left.direction, shared).abs().max()) < 1e-6
    assert (left.direction.norm(dim=1) <= vector.direction.norm(dim=1) * (1 + 1e-6)).all()
    again = project_out(left, shared, "noise")
    torch.testing.assert_close(again.direction, left.direction, rtol=1e-5, atol=1e-6 * size)


def test_dependent_and_zero_directions_take_out_no_more_than_they_span(tiny):
    vector, one = random_vector(tiny, 1), random_vector(tiny, 2).direction[:, None]
    dependent = torch.cat([one, -2 * one, torch.zeros_like(one)], dim=1)
    expected = project_out(vector, one, "one").direction
    torch.testing.assert_close(project_out(vector, dependent, "three").direction, expected)
    nothing = project_out(vector, torch.zeros_like(one), "nothing")
    torch.testing.assert_close(nothing.direction, vector.direction)


@pytest.mark.parametrize("method", ["mean-difference", "logistic"])
def test_a_fitted_vector_still_moves_by_the_gap_along_itself(tiny, method):
    vector = extract(tiny, PAIRS, method)
    left = project_out(vector, mean_state(vector), "the mean state")
    gap = vector.mean_positive - vector.mean_negative
    along = (gap * left.direction).sum(dim=1) / left.direction.norm(dim=1)
    torch.testing.assert_close(along, left.direction.norm(dim=1), rtol=1e-4, atol=1e-6)
    assert float(cosines(left.direction, mean_state(vector)).abs().max()) < 1e-6
    if method == "mean-difference":  # the mean difference is the gap: a plain projection keeps the convention
        mean = torch.nn.functional.normalize(mean_state(vector)[:, 0], dim=1)
        plain = vector.direction - (vector.direction * mean).sum(dim=1, keepdim=True) * mean
        torch.testing.assert_close(left.direction, plain, rtol=1e-4, atol=1e-6)


def test_the_metadata_says_what_was_taken_out_and_drops_what_no_longer_holds(tiny):
    record = CalibrationRecord(
        layer=1,
        strength=2.0,
        statistic="mean",
        target_kl=0.1,
        measured_kl=0.1,
        interval=None,
        rollout_kl=None,
        tokens=64,
        prompts=8,
        prompts_digest="0",
    )
    vector = extract(tiny, PAIRS).with_calibration([record])
    vector = vector.recommending(vector.at(1, 2.0))
    said = project_out(vector, mean_state(vector), "the mean state").metadata
    assert said.method == "mean-difference without the mean state"
    assert (said.scaling, said.pairs_digest) == ("gap", vector.metadata.pairs_digest)
    for name in MEASURED:
        assert getattr(vector.metadata, name), name
        assert not getattr(said, name), name


def test_content_components_are_the_leading_directions_of_the_prompts_states(tiny):
    components = content(tiny, PAIRS, 2)
    states = []
    for pair in PAIRS:
        ids = torch.tensor([tiny.renderer.encode_prompt(pair.prompt)])
        with torch.no_grad():
            states.append(tiny.hf(ids, output_hidden_states=True).hidden_states[1:-1])
    for layer in range(tiny.n_layers - 1):
        layer_states = torch.stack([state[layer][0, -1] for state in states]).double()
        covariance = torch.cov(layer_states.T)
        leading = torch.linalg.eigh(covariance).eigenvectors[:, -2:].flip(1).T
        assert (cosines(components[layer], leading[:, None])[:, 0].abs() > 0.999).all()


def test_the_command_lines_names_give_directions_of_the_right_kind(tiny, tmp_path):
    vector = extract(tiny, PAIRS)
    file = random_vector(tiny, name="style").save(tmp_path / "style.safetensors")
    for what, rows, called in [
        ("mean", 1, "the mean state"),
        ("content", 4, "4 content components"),
        (str(file), 1, "style"),
        (load_vector(file), 1, "style"),
    ]:
        shared, name = shared_directions(what, vector, tiny, PAIRS)
        assert (shared.shape, name) == ((tiny.n_layers, rows, tiny.d_model), called)


def test_what_cannot_be_projected_is_named(tiny, tmp_path):
    vector = random_vector(tiny)
    with pytest.raises(MisuseError, match=r"has shape \[4, 32\]"):
        project_out(vector, vector.direction, "it")
    with pytest.raises(InputError, match="NaN"):
        project_out(vector, vector.direction[:, None] * torch.nan, "it")
    with pytest.raises(InputError, match="nothing of 'random' is left at layer 0 without itself"):
        project_out(vector, vector.direction[:, None], "itself")
    with pytest.raises(MisuseError, match="extract it again"):
        mean_state(vector)
    with pytest.raises(MisuseError, match="6 different prompts"):
        content(tiny, PAIRS, 6)
    with pytest.raises(MisuseError, match="no vector file 'median'"):
        shared_directions("median", vector, tiny, PAIRS)
    other = random_vector(tiny_model(layers=3)).save(tmp_path / "other.safetensors")
    with pytest.raises(MisuseError, match="3 layers"):
        shared_directions(str(other), vector, tiny, PAIRS)


def test_the_command_line_takes_a_component_out(tiny_folder, tmp_path):
    pairs, out = save_pairs(PAIRS, tmp_path / "pairs.jsonl"), tmp_path / "v.safetensors"
    outcome = steerkit(
        "extract", "--model", tiny_folder, "--pairs", pairs, "--project-out", "content", "--out", out
    )
    assert outcome.code == 0, outcome.err
    assert load_vector(out).metadata.method == "mean-difference without 4 content components"
