"""Fitting probes: exact against scikit-learn, honest about what it has not seen, within its budget."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import steerkit as sk
from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.extraction.capture import capture
from steerkit.extraction.pairs import Example, LabelledPrompt, LabelledPrompts, labelled_prompts
from steerkit.extraction.probe_fit import (
    choose_threshold,
    cut_within,
    expected_calibration_error,
    fit_layers,
    fit_logistic,
    fit_probe,
    platt,
    prompt_states,
)
from steerkit.interventions.probe import load_probe
from steerkit.models import LanguageModel
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import Suite
from tests.tiny import random_vector, tiny_model


def examples_of(labels: np.ndarray, groups: list[str] | None = None) -> list[Example]:
    return [
        Example(str(row), f"prompt {row}", None, bool(label), groups[row] if groups else str(row), None)
        for row, label in enumerate(labels)
    ]


def two_clouds(n: int, width: int, layers: int = 1, gap: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """States `[n, layers, width]` whose classes differ by `gap` along one coordinate, with labels."""
    random = np.random.default_rng(0)
    labels = random.random(n) < 0.4
    states = random.normal(size=(n, layers, width)).astype(np.float32)
    states[..., 0] += gap * labels[:, None]
    return states, labels


def questions(n: int) -> LabelledPrompts:
    """Prompts that a model over bytes can tell apart at the last token; half of them call for abstention."""
    return LabelledPrompts(
        "questions",
        tuple(
            LabelledPrompt(f"q{i}", f"What is {i * i} {'zzz' if i % 2 else 'plus one'}", bool(i % 2), f"q{i}")
            for i in range(n)
        ),
    )


@pytest.mark.parametrize(("n", "width"), [(40, 60), (300, 20)])
@pytest.mark.parametrize("c", [1e-3, 1e-1])
def test_a_fit_is_that_of_scikit_learn_on_standardised_states(n: int, width: int, c: float) -> None:
    states, labels = two_clouds(n, width)
    states = states[:, 0] * np.linspace(0.1, 300, width, dtype=np.float32) + 7  # as uneven as a real stream
    weight, bias = fit_logistic(states, labels, c)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-10, max_iter=10_000))
    oracle.fit(states.astype(np.float64), labels)
    assert np.allclose(states @ weight + bias, oracle.decision_function(states.astype(np.float64)), atol=2e-3)


def test_a_coordinate_that_only_carries_rounding_gets_no_say() -> None:
    states, labels = two_clouds(200, 10)
    states = states[:, 0] + 100
    states[:, 3] = 1000 + 1e-4 * labels  # would separate the classes perfectly
    weight, _ = fit_logistic(states, labels, 0.1)
    assert abs(weight[3]) * 1e-4 < 1e-3
    assert abs(weight[0]) > 0.1


def test_what_is_reported_was_not_seen_twins_included() -> None:
    random = np.random.default_rng(1)
    # Twins have one state and one label, both drawn at random: only a probe that saw the twin can tell.
    labels = np.repeat(random.random(60) < 0.5, 2)
    states = np.repeat(random.normal(size=(60, 8, 128)), 2, axis=0).astype(np.float32)
    alone = fit_layers(states, examples_of(labels))
    together = fit_layers(states, examples_of(labels, [f"g{row // 2}" for row in range(120)]))
    assert np.mean(alone.auroc) > 0.75
    assert np.mean(together.auroc) < 0.6


def test_the_layers_probability_is_calibrated_and_the_best_layer_is_found() -> None:
    states, labels = two_clouds(1200, 16, layers=3, gap=0.0)
    states[:, 1, 0] += 2 * labels
    fitted = fit_layers(states, examples_of(labels))
    assert fitted.best_layer == 1
    assert fitted.auroc[1] == pytest.approx(0.92, abs=0.03)  # Φ(2/√2)
    assert fitted.ece[1] < 0.05
    assert fitted.brier[1] < 0.6 * fitted.brier[0]
    log_odds = states[:, 1] @ fitted.weight[1].numpy() + fitted.bias[1].numpy()
    # Bayes' log-odds of two unit Gaussians 2 apart, 40% positive: 2x - 2 + log(0.4 / 0.6).
    truth = 2 * states[:, 1, 0] - 2 + math.log(labels.mean() / (1 - labels.mean()))
    assert np.corrcoef(log_odds, truth)[0, 1] > 0.97
    assert np.polyfit(truth, log_odds, 1)[0] == pytest.approx(1, abs=0.2)


def test_platt_finds_the_scale_of_scores_and_stays_finite_where_they_separate() -> None:
    random = np.random.default_rng(2)
    scores = random.normal(size=20_000)
    labels = random.random(20_000) < 1 / (1 + np.exp(-(3 * scores - 1)))
    assert platt(scores, labels) == pytest.approx((3, -1), abs=0.1)
    slope, intercept = platt(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([False, False, True, True]))
    assert 0 < slope < 10
    assert intercept == pytest.approx(0, abs=1e-6)


def test_scores_that_are_all_the_same_calibrate_to_the_base_rate() -> None:
    labels = np.array([True, False, False, False])
    slope, intercept = platt(1e-12 * np.arange(4.0), labels)
    assert slope == 0
    assert 1 / (1 + math.exp(-intercept)) == pytest.approx((2 / 3 + 3 * 1 / 5) / 4)


def test_calibration_error_by_hand() -> None:
    probability = np.array([0.05, 0.05, 0.95, 1.0])
    labels = np.array([False, True, True, True])
    # The first bin says 0.05 where half are positive, the last 0.975 where all are; both hold half the items.
    assert expected_calibration_error(probability, labels) == pytest.approx(0.5 * 0.45 + 0.5 * 0.025)


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40),
    st.floats(0, 1),
)
def test_a_cut_keeps_to_the_budget_and_no_lower_one_does(
    scored: list[tuple[int, bool]], budget: float
) -> None:
    scores = np.array([score for score, _ in scored], dtype=float)
    labels = np.array([label for _, label in scored])
    if labels.all() or not labels.any():
        labels[0] = not labels[0]
    cut = cut_within(scores, labels, budget)

    def rates(at: float) -> tuple[float, float]:
        return float(np.mean(scores[~labels] >= at)), float(np.mean(scores[labels] >= at))

    allowed = [rates(at) for at in {*scores, scores.max() + 1} if rates(at)[0] <= budget + 1e-9]
    assert rates(cut)[0] <= budget + 1e-9
    assert rates(cut)[1] == max(true for _, true in allowed)
    assert cut not in scores


def test_a_probe_of_a_model_reads_what_was_fitted(tiny: LanguageModel) -> None:
    data, seen = questions(40), []
    probe = fit_probe(tiny, data, name="gate", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40 + tiny.n_layers, 40 + tiny.n_layers)
    assert (probe.name, probe.metadata.data_count, probe.metadata.data) == ("gate", 40, ("questions",))
    assert probe.metadata.auroc is not None
    assert probe.metadata.layer == int(np.argmax(probe.metadata.auroc))
    assert probe.metadata.baseline_auroc == 1.0  # the words give these questions away
    assert fit_probe(tiny, data).digest == fit_probe(tiny, data).digest
    layer = probe.metadata.layer
    examples = data.examples
    states = capture(tiny, [example.encoded(tiny.renderer) for example in examples], "prompt").states
    probability = probe.probability(layer, states[:, layer]).numpy()
    labels = np.array([example.positive for example in examples])
    assert probability[labels].mean() > probability[~labels].mean() + 0.5


def test_a_threshold_says_what_it_does_on_the_items_that_chose_it(tiny: LanguageModel) -> None:
    probe, others = fit_probe(tiny, questions(40)), questions(60)
    chosen = choose_threshold(probe, tiny, others, 0.1, layer=0)
    labels = np.array([example.positive for example in others.examples])
    states = capture(tiny, [e.encoded(tiny.renderer) for e in others.examples], "prompt").states[:, 0]
    fired = probe.fires(0, states, chosen.threshold).numpy()
    assert chosen.choose_false_positive_rate == pytest.approx(fired[~labels].mean())
    assert chosen.choose_false_positive_rate <= 0.1
    assert chosen.choose_true_positive_rate == pytest.approx(fired[labels].mean())
    assert (chosen.layer, chosen.count, chosen.data_digest) == (0, 60, others.digest)
    assert choose_threshold(probe, tiny, others, 0).choose_false_positive_rate == 0
    assert choose_threshold(probe, tiny, others, 1).choose_true_positive_rate == 1


def test_a_probe_finds_unanswerable_questions_in_the_real_model(
    smollm: LanguageModel, tmp_path: Path
) -> None:
    places = [
        "Rome",
        "Lima",
        "Oslo",
        "Cairo",
        "Kyoto",
        "Perth",
        "Quito",
        "Delhi",
        "Paris",
        "Dakar",
        "Lagos",
        "Minsk",
    ]
    ask = {True: "How many birds sit on the roofs of {} right now?", False: "Which country is {} a city of?"}
    data = LabelledPrompts(
        "cities",
        tuple(
            LabelledPrompt(f"{place}-{label}", text.format(place), label, place)
            for place in places
            for label, text in ask.items()
        ),
    )
    probe = load_probe(fit_probe(smollm, data).save(tmp_path / "gate.safetensors"))
    assert probe.metadata.auroc is not None
    assert probe.metadata.auroc[probe.metadata.layer] == 1
    probe.check(smollm)
    new = LabelledPrompts(
        "new", tuple(replace(p, id=p.id + "!", prompt=p.prompt.replace(p.group, "Turin")) for p in data)[:2]
    )
    states = torch.from_numpy(prompt_states(smollm, new))[:, probe.metadata.layer]
    assert probe.fires(probe.metadata.layer, states).tolist() == [True, False]


def test_a_suite_gives_its_labelled_items_and_keeps_twins_together() -> None:
    items = (
        SuiteItem("a", "Why?", True, twin="b"),
        SuiteItem("b", "What?", False, ("x",), twin="a"),
        SuiteItem("c", "Where?"),
    )
    data = labelled_prompts(Suite("small", items))
    assert [(p.id, p.label, p.group) for p in data] == [("a", True, "a"), ("b", False, "a")]


def test_what_no_probe_can_be_fitted_on_is_said(tiny: LanguageModel) -> None:
    one_sided = LabelledPrompts("one", tuple(p for p in questions(10) if p.label))
    with pytest.raises(InputError, match="one: there must be both"):
        fit_probe(tiny, one_sided)
    with pytest.raises(InputError, match="too few examples"):
        fit_probe(tiny, questions(2))
    long = LabelledPrompts("long", (*questions(4), LabelledPrompt("huge", "x" * 600, True, "huge")))
    with pytest.raises(MisuseError, match=r"huge: .* tokens"):
        fit_probe(tiny, long)
    with sk.steer(tiny, random_vector(tiny).at(layer=1)), pytest.raises(MisuseError, match="being steered"):
        fit_probe(tiny, questions(10))


def test_a_threshold_is_not_chosen_for_another_model_or_without_a_meaning(tiny: LanguageModel) -> None:
    probe = fit_probe(tiny, questions(20))
    with pytest.raises(MisuseError, match="budget"):
        choose_threshold(probe, tiny, questions(10), 1.5)
    with pytest.raises(MisuseError, match="layers 0 to"):
        choose_threshold(probe, tiny, questions(10), 0.1, layer=99)
    with pytest.raises(ModelMismatchError, match="other weights"):
        choose_threshold(probe, tiny_model(seed=5), questions(10), 0.1)


def test_states_that_are_not_finite_are_refused() -> None:
    broken = tiny_model(seed=3)
    broken.blocks[2].mlp.register_forward_hook(lambda _module, _given, output: output * torch.inf)
    with pytest.raises(InputError, match="NaN or Inf"):
        fit_probe(broken, questions(10))
