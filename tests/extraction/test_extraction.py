"""Extraction: pairs in, a vector out that equals a plain reference and says how far it can be trusted."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.registry import ESTIMATORS
from steerkit.extraction.estimator import Estimator
from steerkit.extraction.extract import extract
from steerkit.extraction.pairs import (
    ContrastPair,
    ContrastPairs,
    LabelledPrompt,
    LabelledPrompts,
    load_pairs,
    save_pairs,
)
from steerkit.interventions.vector import load_vector
from tests.command_line import steerkit

PLACES = ["Rome", "Oslo", "Lima", "Cairo", "Quito", "Delhi", "Paris", "Minsk"]
PAIRS = ContrastPairs(
    "knowing",
    tuple(
        ContrastPair(p, f"Where is {p}?", f"I cannot say where {p} is.", f"{p} is over there!")
        for p in PLACES
    ),
)
ASKED = LabelledPrompts(
    "asked",
    tuple(LabelledPrompt(f"{p}{s}", f"Where is {p}{s}", s == "?", p) for p in PLACES for s in ("?", " now!")),
)


def reference(lm, pairs, side, aggregation):
    """The mean difference with plain transformers: one padded batch a side, read at the completions."""
    hf, tokenizer, means = lm.hf, lm.tokenizer, []
    for texts in ([p.positive for p in pairs], [p.negative for p in pairs]):
        encoded = [lm.renderer.encode_pair(p.prompt, t) for p, t in zip(pairs, texts, strict=True)]
        rows = [list(text.ids) for text in encoded]
        batch = tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")
        mask, last = batch.attention_mask, []
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        handle = hf.model.layers[-1].register_forward_hook(lambda _m, _a, out, last=last: last.append(out))
        inner = hf(**batch, position_ids=positions, output_hidden_states=True).hidden_states[1:-1]
        handle.remove()
        ends = (mask.shape[1] - mask.flip(1).argmax(1)).tolist()
        sizes = [1 if aggregation == "last" else text.completion_length for text in encoded]
        spans = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        read = [torch.stack([h[i, span].mean(0) for i, span in enumerate(spans)]) for h in (*inner, *last)]
        means.append(torch.stack([states.mean(0) for states in read]))
    return means[0] - means[1]


@pytest.mark.parametrize(("padding_side", "aggregation"), [("left", "last"), ("right", "mean")])
def test_the_mean_difference_equals_plain_transformers_at_every_layer(
    bundled, padding_side, aggregation, monkeypatch
):
    pairs = ContrastPairs("some", load_pairs("abstention").pairs[:8])
    monkeypatch.setattr(bundled.tokenizer, "padding_side", padding_side)
    ours = extract(bundled, pairs, aggregation=aggregation).direction
    with torch.no_grad():
        theirs = reference(bundled, pairs, padding_side, aggregation)
    error = (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
    assert error.shape == (bundled.n_layers,)
    assert float(error.max()) < 1e-5


def test_the_vector_says_what_it_was_made_of(tiny):
    vector = extract(tiny, PAIRS, aggregation="mean")
    said = vector.metadata
    assert (said.name, said.positive, said.method, said.aggregation) == (
        "knowing",
        "knowing",
        "mean-difference",
        "mean",
    )
    assert (said.model, said.fingerprint) == (tiny.name, tiny.fingerprint)
    assert (said.pairs_digest, said.pairs_count) == (PAIRS.digest, len(PAIRS))
    assert said.template_digest == tiny.renderer.digest
    assert said.scaling == "gap"
    assert len(said.separability) == len(said.agreement) == tiny.n_layers
    torch.testing.assert_close(vector.direction, vector.mean_positive - vector.mean_negative)
    assert (vector.activation_norm > 0).all()


@pytest.mark.parametrize("method", ["mean-difference", "pca", "logistic", "lda", "random"])
def test_every_method_gives_a_direction_at_every_layer(tiny, method):
    vector = extract(tiny, PAIRS, method)
    assert vector.direction.shape == (tiny.n_layers, tiny.d_model)
    assert vector.metadata.method == method
    assert (vector.direction.norm(dim=1) > 0).all()


@pytest.mark.parametrize("method", ["mean-difference", "pca", "logistic", "lda"])
def test_strength_one_moves_by_the_gap_between_the_sides_along_the_direction(tiny, method):
    vector = extract(tiny, PAIRS, method)
    unit = vector.direction / vector.direction.norm(dim=1, keepdim=True)
    gap = ((vector.mean_positive - vector.mean_negative) * unit).sum(dim=1)
    torch.testing.assert_close(vector.direction.norm(dim=1), gap, rtol=1e-4, atol=1e-6)


def median_difference(positive, negative, *, shrink=1.0):
    return shrink * (positive.median(dim=0).values - negative.median(dim=0).values)


def test_a_plain_function_is_a_method(tiny):
    vector = extract(tiny, PAIRS, median_difference)
    assert vector.metadata.method == "median_difference"
    assert len(vector.metadata.separability) == tiny.n_layers
    by_numpy = extract(tiny, PAIRS, lambda p, n: (p.mean(0) - n.mean(0)).numpy())
    torch.testing.assert_close(by_numpy.direction, extract(tiny, PAIRS).direction)


def test_a_registered_function_is_found_by_its_name_with_its_options(tiny, tiny_folder, tmp_path):
    ESTIMATORS.add("median-difference", Estimator("median-difference", median_difference))
    try:
        by_name = extract(tiny, PAIRS, "median-difference", options={"shrink": -2.0})
        assert by_name.metadata.method == "median-difference"
        # Sign and length are given to it, whatever the function returns.
        torch.testing.assert_close(by_name.direction, extract(tiny, PAIRS, median_difference).direction)
        assert extract(tiny, PAIRS, median_difference).metadata.method == "median-difference"
        pairs, out = save_pairs(PAIRS, tmp_path / "p.jsonl"), tmp_path / "v.safetensors"
        command = ["extract", "--model", tiny_folder, "--pairs", pairs, "--out", out]
        outcome = steerkit(*command, "--method", "median-difference", "--option", "shrink=0.5")
        assert outcome.code == 0, outcome.err
        torch.testing.assert_close(load_vector(out).direction, by_name.direction)
    finally:
        del ESTIMATORS._things["median-difference"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda positive, _: positive, r"returned shape \[8, 32\]"),
        (lambda positive, _: positive[0] * torch.nan, "returned NaN"),
    ],
)
def test_a_function_that_returns_no_direction_is_an_error(tiny, function, said):
    with pytest.raises(InputError, match=said):
        extract(tiny, PAIRS, function)


def test_the_random_control_is_as_long_as_the_mean_difference_and_repeats_by_its_seed(tiny):
    difference = extract(tiny, PAIRS)
    first, again, other = (extract(tiny, PAIRS, "random", seed=seed).direction for seed in (1, 1, 2))
    torch.testing.assert_close(first.norm(dim=1), difference.direction.norm(dim=1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_separability_is_high_where_the_sides_differ_and_by_chance_where_labels_are_drawn(tiny):
    assert min(extract(tiny, PAIRS, aggregation="last").metadata.separability) > 0.9
    shuffled = [
        ContrastPair(p.id, p.prompt, *((p.positive, p.negative) if i % 2 else (p.negative, p.positive)))
        for i, p in enumerate(PAIRS)
    ]
    drawn = extract(tiny, ContrastPairs("drawn", tuple(shuffled)), folds=4)
    assert max(drawn.metadata.separability) < 0.7
    assert drawn.metadata.baseline_separability < 0.7


def test_separability_is_measured_on_pairs_that_took_no_part_in_the_fit(tiny):
    """The probe fits eight arbitrary labels without error; held out, it is no better than chance."""
    arbitrary = [
        dataclasses.replace(p, positive="Yes" if i % 2 else "No", negative="No" if i % 2 else "Yes")
        for i, p in enumerate(PAIRS)
    ]
    vector = extract(tiny, ContrastPairs("arbitrary", tuple(arbitrary)), "logistic")
    assert max(vector.metadata.separability) < 0.8


def test_labelled_prompts_are_read_at_their_last_token(tiny):
    vector = extract(tiny, ASKED)
    assert vector.metadata.aggregation == "prompt"
    states = []
    for text in (example.encoded(tiny.renderer) for example in ASKED.examples):
        with torch.no_grad():
            states.append(
                tiny.hf(torch.tensor([text.ids]), output_hidden_states=True).hidden_states[1][0, -1]
            )
    expected = torch.stack(states[: len(PLACES)]).mean(0) - torch.stack(states[len(PLACES) :]).mean(0)
    torch.testing.assert_close(vector.direction[0], expected, rtol=1e-4, atol=1e-5)
    assert vector.metadata.agreement is None
    assert len(vector.metadata.separability) == tiny.n_layers


def test_one_pair_gives_a_direction_but_nothing_can_be_held_out(tiny):
    vector = extract(tiny, ContrastPairs("one", PAIRS.pairs[:1]))
    said = vector.metadata
    assert (said.separability, said.baseline_separability, said.agreement) == (None, None, None)


def test_progress_counts_texts_and_then_layers(tiny):
    calls = []
    extract(tiny, PAIRS, progress=lambda done, total: calls.append((done, total)))
    total = 2 * len(PAIRS) + tiny.n_layers
    assert calls[-1] == (total, total)
    assert calls == sorted(set(calls))


@pytest.mark.parametrize(
    ("pairs", "options", "said"),
    [
        (PAIRS, {"aggregation": "prompt"}, "share their prompt"),
        (PAIRS, {"aggregation": "first"}, "one of last, mean, prompt"),
        (PAIRS, {"method": "magic"}, "there are mean-difference, pca, logistic, lda, random"),
        (ASKED, {"aggregation": "last"}, "the aggregation is prompt"),
        (ASKED, {"method": "pca"}, "or one of mean-difference, logistic, lda"),
        (PAIRS, {"layers": [1]}, "takes no layers; contrastive-energy does"),
        (PAIRS, {"options": {"colour": 1}}, "mean-difference takes no colour"),
        (PAIRS, {"method": "contrastive-energy"}, "contrastive-energy needs layers"),
        (PAIRS, {"method": "contrastive-energy", "layers": 1, "aggregation": "last"}, "takes no aggregation"),
        (PAIRS, {"method": "contrastive-energy", "layers": 1, "options": {"steps": "few"}}, "is a number"),
    ],
)
def test_what_cannot_be_meant_is_misuse(tiny, pairs, options, said):
    with pytest.raises(MisuseError, match=said):
        extract(tiny, pairs, **options)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"positive": ""}, r"Oslo \(positive\): the completion '' adds no token"),
        ({"negative": "x" * 600}, r"Oslo \(negative\): \d+ tokens, but tiny-0 reads at most 512"),
        ({"prompt": " "}, r"Oslo \(positive\): the prompt is empty"),
    ],
)
def test_a_text_that_the_model_cannot_take_is_named(tiny, changes, said):
    first, second, *rest = PAIRS.pairs
    with pytest.raises(MisuseError, match=said):
        extract(tiny, ContrastPairs("bad", (first, dataclasses.replace(second, **changes), *rest)))


def test_a_steered_model_is_not_extracted_from(tiny):
    with tiny.steered_by_this_thread(), pytest.raises(MisuseError, match="being steered"):
        extract(tiny, PAIRS)


def test_a_missing_side_is_an_error(tiny):
    one_sided = LabelledPrompts("one-sided", tuple(item for item in ASKED if item.label))
    with pytest.raises(InputError, match="both positive and negative"):
        extract(tiny, one_sided)
    with pytest.raises(InputError, match="both positive and negative"):
        extract(tiny, ContrastPairs("empty", ()))


def test_sides_with_the_same_states_are_an_error(tiny):
    same = tuple(dataclasses.replace(pair, negative=pair.positive) for pair in PAIRS)
    with pytest.raises(InputError, match="do not differ"):
        extract(tiny, ContrastPairs("same", same))


def test_activations_that_are_not_finite_are_an_error_that_names_the_layer(tiny):
    handle = tiny.blocks[2].register_forward_hook(lambda _m, _a, out: out * torch.inf)
    try:
        with pytest.raises(InputError, match="first at layer 2"):
            extract(tiny, PAIRS)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "magic"], "there are mean-difference"),
        (["--option", "colour=1"], "mean-difference takes no colour"),
        (["--option", "colour"], "is not KEY=VALUE"),
        (["--method", "contrastive-energy"], "contrastive-energy needs layers"),
        (["--aggregation", "prompt"], "share their prompt"),
        (["--pairs", "suite:abstention", "--method", "pca"], "labelled prompts have none"),
        (["--project-out", "nowhere"], "no vector file 'nowhere'"),
        (["--layers", "one"], "layers"),
        (["--as", "probe"], "holds contrast pairs"),
        (["--as", "probe", "--pairs", "suite:abstention", "--into", "nowhere"], "no vector file 'nowhere'"),
    ],
)
def test_bad_values_are_refused_before_a_model_is_looked_for(tmp_path, options, said):
    outcome = steerkit("extract", "--model", tmp_path / "none", "--out", tmp_path / "v.safetensors", *options)
    assert outcome.code == 2
    assert said in outcome.err
