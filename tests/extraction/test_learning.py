"""Learning: what is minimised is what the engine measures, the budget holds, and the model stays the user's own."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from steerkit.core.errors import InputError, MisuseError
from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.forward import differentiable
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.extraction.extract import extract
from steerkit.extraction.learned import TrainingStep, _Objective, learn, ordinary_prompts
from steerkit.extraction.pairs import (
    ContrastPair,
    ContrastPairs,
    LabelledPrompt,
    LabelledPrompts,
    load_pairs,
    save_pairs,
)
from steerkit.interventions.vector import load_vector
from steerkit.models.sites import hidden_of, with_hidden
from steerkit.suites.suite import load_suite
from tests.command_line import steerkit
from tests.tiny import tiny_model

PLACES = ["Rome", "Oslo", "Lima", "Cairo", "Quito"]
PAIRS = ContrastPairs(
    "knowing",
    tuple(
        ContrastPair(p, f"Where is {p}?", f"I cannot say where {p} is.", f"{p} is over there!")
        for p in PLACES
    ),
)
QUESTIONS = ["What is two plus two?", "Name a colour of the sky.", "Who?"]
FREE = 1e6  # a budget that binds nothing


def learned(lm, layers=1, **options):
    """A vector from few steps, with what its training said."""
    seen: list[TrainingStep] = []
    options = {"pairs": PAIRS, "steps": 4, "ordinary": QUESTIONS} | options
    vector = learn(lm, layers=layers, observe=seen.append, **options)
    return vector, seen


def energies_by_engine(lm, pairs, steerings):
    """Positive and negative energies `[pairs]` twice, as the engine scores the steered continuations."""
    engine, sides = TransformersEngine(lm), []
    for side in ("positive", "negative"):
        requests = [ScoreRequest(p.prompt, getattr(p, side), steerings, p.system) for p in pairs]
        scores = [score.log_probabilities for score in engine.score(requests)]
        sides.append(torch.tensor([-sum(tokens) / len(tokens) for tokens in scores]))
    return sides


def contrast_by_engine(lm, pairs, steerings):
    positive, negative = energies_by_engine(lm, pairs, steerings)
    return float(torch.nn.functional.softplus(positive - negative).mean())


def kl_by_plain_passes(lm, prompts, layer, v, tokens=32):
    """KL(base || steered) per token with one whole, uncached forward pass a text and a hook of our own."""
    total = count = 0.0
    for done in TransformersEngine(lm).generate([Request(p, decoding=Decoding(tokens)) for p in prompts]):
        head = lm.renderer.encode_prompt(done.request.prompt)
        stop = lm.stop_ids[:1] if done.finish == "stop" else ()
        ids = torch.tensor([[*head, *done.token_ids, *stop]])
        first = len(head) - 1

        def add(_block, _args, output, first=first):
            hidden = hidden_of(output).clone()
            hidden[:, first:] += v
            return with_hidden(output, hidden)

        with torch.no_grad():
            base = lm.hf(ids).logits[0, first:-1].double().log_softmax(-1)
            handle = lm.blocks[layer].register_forward_hook(add)
            try:
                steered = lm.hf(ids).logits[0, first:-1].double().log_softmax(-1)
            finally:
                handle.remove()
        total += float((base.exp() * (base - steered)).sum())
        count += len(done.token_ids) + len(stop)
    return total / count


def check_against_the_engine(lm, pairs, layer, **options):
    vector, seen = learned(lm, layer, pairs=pairs, **options)
    said = seen[-1]
    assert said.contrast == pytest.approx(contrast_by_engine(lm, pairs, (vector.at(layer),)), abs=1e-4)
    assert said.kl == pytest.approx(
        kl_by_plain_passes(lm, QUESTIONS, layer, vector.direction[layer]), rel=1e-3, abs=1e-5
    )


@pytest.mark.parametrize("layer", [0, 3])
def test_energy_and_kl_are_what_the_engine_and_plain_passes_measure(tiny, layer):
    check_against_the_engine(tiny, PAIRS, layer, kl_budget=FREE, learning_rate=0.3)


def test_energy_and_kl_are_exact_on_a_real_model(smollm):
    check_against_the_engine(smollm, ContrastPairs("some", load_pairs("abstention").pairs[:4]), 14, steps=1)


def test_energy_and_kl_are_exact_without_a_chat_template(gemma):
    check_against_the_engine(gemma, ContrastPairs("some", load_pairs("abstention").pairs[:4]), 8, steps=1)


def test_the_gradient_is_the_slope_of_what_the_engine_measures(tiny):
    start, layer, step = extract(tiny, PAIRS), 2, 0.05
    texts = [example.encoded(tiny.renderer) for example in PAIRS.examples]
    with differentiable(tiny):
        _, gradient = _Objective(tiny, texts, texts[:1]).contrast(
            layer, start.direction[layer], range(len(PAIRS))
        )
    unit = gradient / gradient.norm()

    def measured(shift: float) -> float:
        moved = start.direction.clone()
        moved[layer] += shift * unit
        return contrast_by_engine(tiny, PAIRS, (dataclasses.replace(start, direction=moved).at(layer),))

    slope = (measured(step) - measured(-step)) / (2 * step)
    assert slope == pytest.approx(float(gradient.norm()), rel=0.02)


def test_training_lowers_the_contrast_below_that_of_the_mean_difference(tiny):
    start = contrast_by_engine(tiny, PAIRS, (extract(tiny, PAIRS).at(1),))
    _, seen = learned(tiny, steps=20, kl_budget=FREE, learning_rate=0.1)
    assert seen[-1].contrast < start - 0.05
    assert [step.step for step in seen] == list(range(21))


def test_the_budget_holds_even_where_the_penalty_does_not_hold_it(tiny):
    budget = 0.01
    loose, _ = learned(tiny, kl_budget=FREE)
    vector, seen = learned(tiny, kl_budget=budget, penalty=1e-9)
    assert kl_by_plain_passes(tiny, QUESTIONS, 1, loose.direction[1]) > 2 * budget
    assert 0.5 * budget < kl_by_plain_passes(tiny, QUESTIONS, 1, vector.direction[1]) <= budget * 1.001
    assert seen[-1].kl <= budget


def test_each_layer_is_trained_by_itself_and_the_others_stay_zero(tiny):
    both, seen = learned(tiny, [2, 1])
    for layer in (1, 2):
        torch.testing.assert_close(both.direction[layer], learned(tiny, layer)[0].direction[layer])
    assert not both.direction[[0, 3]].any()
    assert [step.layer for step in seen] == [1] * 5 + [2] * 5


def test_the_vector_says_how_it_was_made(tiny):
    vector, _ = learned(tiny)
    said, start = vector.metadata, extract(tiny, PAIRS)
    assert (said.method, said.scaling, said.name) == ("contrastive-energy", "trained", "knowing")
    assert (said.pairs_digest, said.pairs_count) == (PAIRS.digest, len(PAIRS))
    assert (said.separability, said.agreement) == (None, None)
    torch.testing.assert_close(vector.activation_norm, start.activation_norm)


def test_the_same_seed_gives_the_same_vector(tiny):
    # More pairs than a step sees, so that the draw matters.
    many = ContrastPairs("many", load_pairs("abstention").pairs[:20])
    first, again, other = (learned(tiny, pairs=many, seed=seed)[0].direction for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_the_model_is_left_as_it_was(ends):
    lm = tiny_model(seed=5)
    lm.hf.model.embed_tokens.weight.requires_grad_(False)
    parameters = dict(lm.hf.named_parameters())
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in parameters.items()}
    attributes = set(vars(lm.hf))
    if ends == "well":
        learned(lm)
    else:
        with pytest.raises(RuntimeError, match="from the observer"):
            learn(lm, PAIRS, 1, steps=3, ordinary=QUESTIONS, observe=_fail)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad is before[name][1]
        assert parameter.grad is None
    assert set(vars(lm.hf)) == attributes
    assert not lm.is_steered
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.hf.modules())


def _fail(_step: TrainingStep) -> None:
    raise RuntimeError("from the observer")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_works_where_gradients_were_switched_off(tiny, mode):
    with mode():
        vector, _ = learned(tiny)
    torch.testing.assert_close(vector.direction, learned(tiny)[0].direction)


def test_progress_counts_every_step_of_every_layer(tiny):
    calls = []
    learned(tiny, [0, 2], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 8) for done in range(1, 9)]


def test_ordinary_questions_are_answerable_ones_of_the_split_fit():
    fit = {item.prompt: item for item in load_suite("abstention").split("fit")}
    chosen = ordinary_prompts(16)
    assert 14 <= len(set(chosen)) <= 16
    assert all(fit[prompt].should_abstain is False for prompt in chosen)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": 4}, "layer 4 is out of range: tiny-0 has layers 0 to 3"),
        ({"layers": [-1]}, "layer -1 is out of range"),
        ({"layers": []}, "at least one layer"),
        ({"kl_budget": 0.0}, "kl budget is a positive number, got 0"),
        ({"kl_budget": math.nan}, "kl budget is a positive number, got nan"),
        ({"steps": 0}, "steps is a positive number"),
        ({"learning_rate": -1.0}, "learning rate is a positive number"),
        ({"penalty": math.inf}, "penalty is a positive number"),
    ],
)
def test_settings_out_of_range_are_misuse(tiny, options, said):
    with pytest.raises(MisuseError, match=said):
        learned(tiny, **options)


def test_labelled_prompts_have_nothing_to_learn_from(tiny):
    labelled = LabelledPrompts("asked", (LabelledPrompt("a", "Where?", True, "a"),))
    with pytest.raises(MisuseError, match="no completions to learn from"):
        learned(tiny, pairs=labelled)


def test_training_that_diverges_is_said_to(tiny, monkeypatch):
    monkeypatch.setattr(_Objective, "contrast", lambda _self, _layer, v, _pairs: (math.nan, v))
    with pytest.raises(InputError, match="diverged at layer 1, step 0"):
        learned(tiny, kl_budget=FREE)


def test_a_steered_model_is_not_trained_on(tiny):
    with tiny.steered_by_this_thread(), pytest.raises(MisuseError, match="being steered"):
        learned(tiny)


def test_extract_trains_by_the_methods_name(tiny):
    options = {"kl_budget": 0.2, "steps": 2}
    by_name = extract(tiny, PAIRS, "contrastive-energy", layers=1, options=options, seed=3)
    torch.testing.assert_close(by_name.direction, learn(tiny, PAIRS, 1, **options, seed=3).direction)


def test_the_command_line_trains_at_the_layers_that_it_is_given(tiny_folder, tmp_path):
    pairs, out = save_pairs(PAIRS, tmp_path / "pairs.jsonl"), tmp_path / "v.safetensors"
    command = ["extract", "--model", tiny_folder, "--pairs", pairs, "--out", out]
    outcome = steerkit(
        *command, "--method", "contrastive-energy", "--layers", "1,3", "--option", "kl_budget=0.1"
    )
    assert outcome.code == 0, outcome.err
    assert f"--steer {out}@layer=1,strength=1" in outcome.err
    vector = load_vector(out)
    assert vector.metadata.method == "contrastive-energy"
    assert vector.direction.any(dim=1).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    "options",
    [
        ["--method", "contrastive-energy"],
        ["--layers", "1"],
        ["--option", "kl_budget=0.1"],
        ["--method", "contrastive-energy", "--layers", "1", "--aggregation", "last"],
    ],
)
def test_options_of_training_go_with_its_method_and_others_do_not(tmp_path, options):
    outcome = steerkit("extract", *options, "--out", tmp_path / "v.safetensors")
    assert outcome.code == 2
    assert "contrastive-energy" in outcome.err
