"""A gate from labelled questions: what is said of it, where it stays shut, and what it may be bound to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from steerkit.core.bootstrap import resampling_weights
from steerkit.core.errors import InputError, MisuseError
from steerkit.core.registry import GATES
from steerkit.engines.base import Decoding, Request
from steerkit.engines.forward import last_states
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.extraction.answer_detectors import disagreement, same_words
from steerkit.extraction.detection import Draws
from steerkit.extraction.gate_card import gate_card
from steerkit.extraction.gate_compare import at_most, compare_gates
from steerkit.extraction.gate_drift import check_drift
from steerkit.extraction.gate_fit import GateBound, check_gate, fit_gate, fit_on_states
from steerkit.extraction.gate_kinds import MISTAKEN, fit_shut
from steerkit.extraction.learning_curve import forecast
from steerkit.extraction.pairs import Example, LabelledPrompt, LabelledPrompts, load_labelled
from steerkit.interventions.gate import DetectorGate, ProbeGate
from steerkit.interventions.probe import load_probe
from steerkit.models import LanguageModel
from tests.tiny import random_vector


def examples_of(labels: np.ndarray, kinds: np.ndarray | None = None) -> list[Example]:
    return [
        Example(
            str(row),
            f"question {row}",
            None,
            bool(label),
            str(row),
            None,
            "" if kinds is None else kinds[row],
        )
        for row, label in enumerate(labels)
    ]


def clouds(n: int, gap: float, seed: int = 0) -> tuple[np.ndarray, list[Example]]:
    """States `[n, 2, 8]`: of the kind `read` the labels differ along one coordinate, of the kind `coin` they do not."""
    random = np.random.default_rng(seed)
    labels, coin = random.random(n) < 0.5, random.random(n) < 0.4
    states = random.normal(size=(n, 2, 8)).astype(np.float32)
    states[..., 0] += gap * (labels & ~coin)[:, None]
    states[..., 1] += 6 * coin[:, None]
    return states, examples_of(labels, np.where(coin, "coin", "read"))


def questions(n: int, *, kinds: bool = False) -> LabelledPrompts:
    """Prompts whose last words say the label, but for the kind `sums`, whose label nothing says."""

    def one(i: int) -> LabelledPrompt:
        label, sums = bool(i % 2), kinds and i % 4 > 1
        text = f"Add {i * i % 97} up, please" if sums else f"What is {i * i} {'zzz' if label else 'plus one'}"
        return LabelledPrompt(f"q{i}", text, label, kind="sums" if sums else "words" if kinds else "")

    return LabelledPrompts("questions", tuple(map(one, range(n))))


def test_auroc_is_that_of_scikit_learn_and_only_questions_of_one_stratum_are_compared() -> None:
    random = np.random.default_rng(0)
    labels = random.random(80) < 0.5
    scores = (4 * random.normal(size=80)).round() / 4 + labels
    draws = Draws.of(examples_of(labels))
    assert draws.auroc(scores)[0] == pytest.approx(roc_auc_score(labels, scores))
    strata = np.arange(80) % 2
    shifted = scores + 100 * strata  # no comparison crosses the shift
    pairs = [(labels[s] * 1).sum() * (1 - labels[s]).sum() for s in (strata == 0, strata == 1)]
    expected = np.average(
        [roc_auc_score(labels[s], scores[s]) for s in (strata == 0, strata == 1)], weights=pairs
    )
    assert draws.auroc(shifted, strata)[0] == pytest.approx(expected)


def test_a_resample_is_what_it_would_be_if_its_questions_were_written_out() -> None:
    random = np.random.default_rng(1)
    labels = random.random(30) < 0.5
    scores = random.normal(size=30)
    draws = Draws.of(examples_of(labels), resamples=5, seed=3)
    names = sorted(map(str, range(30)))
    for weights, found in zip(resampling_weights(30, 5, 3), draws.auroc(scores)[1], strict=True):
        rows = np.repeat([int(name) for name in names], weights.astype(int))
        assert found == pytest.approx(roc_auc_score(labels[rows], scores[rows]))


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.5])
def test_recall_within_a_budget_is_the_best_that_a_cut_reaches(budget: float) -> None:
    random = np.random.default_rng(2)
    labels = random.random(60) < 0.5
    scores = (random.normal(size=60) + labels).round(1)
    best = max(
        [0.0]
        + [
            float((scores >= cut)[labels].mean())
            for cut in scores
            if (scores >= cut)[~labels].mean() <= budget
        ]
    )
    assert Draws.of(examples_of(labels)).recall_within(scores, budget).value == pytest.approx(best)


def test_the_gate_is_kept_shut_where_it_is_a_coin_and_opens_elsewhere() -> None:
    states, examples = clouds(400, gap=3)
    fitted = fit_on_states(states, examples)
    assert fitted.shut is not None
    assert fitted.shut.kinds == ("coin",)
    by_kind = {each.kind: each for each in fitted.report.kinds}
    assert by_kind["coin"].shut
    assert by_kind["read"].auroc is not None
    assert by_kind["read"].auroc.low > 0.9
    new_states, new = clouds(4000, gap=3, seed=1)
    at = fitted.layers.best_layer
    shut = fitted.shut.reading.of(torch.from_numpy(new_states[:, at])).numpy()
    coin = np.array([each.kind == "coin" for each in new])
    assert (~shut)[coin].mean() < 2 * MISTAKEN
    assert shut[~coin].mean() < 0.1


def test_a_gate_that_would_never_open_is_refused_with_what_each_kind_reads() -> None:
    states, examples = clouds(200, gap=0)
    with pytest.raises(InputError, match=r"on no kind of question \(coin 0\.\d+ .*read 0\.\d+"):
        fit_on_states(states, examples)


def test_all_that_is_said_is_of_questions_that_did_not_fit() -> None:
    random = np.random.default_rng(3)
    labels = random.random(120) < 0.5
    states = random.normal(size=(120, 6, 200)).astype(np.float32)  # noise, in which any fit finds something
    report = fit_on_states(states, examples_of(labels)).report
    assert report.auroc.low < 0.5 < report.auroc.high
    assert all(point.auroc.low < 0.5 < point.auroc.high for point in report.curve)
    assert report.recall.value < 0.2


def test_the_learning_curve_rises_where_more_questions_help() -> None:
    random = np.random.default_rng(4)
    labels = random.random(300) < 0.5
    states = random.normal(size=(300, 1, 60)).astype(np.float32)
    states[:, 0] += 0.25 * np.where(labels, 1, -1)[:, None]
    report = fit_on_states(states, examples_of(labels)).report
    sizes = [point.questions for point in report.curve]
    assert sizes == [60, 96, 151, 240]
    assert report.curve[-1].auroc.value > report.curve[0].auroc.value
    assert [point.questions for point in report.expected] == [300, 450, 600]
    assert report.gain is not None
    assert report.gain.value > 0


def test_a_forecast_of_a_curve_of_its_own_shape_is_exact() -> None:
    sizes = np.array([50, 100, 200])
    drawn = np.repeat((0.9 - 1.0 / np.sqrt(sizes))[:, None], 5, axis=1)
    expected, gain = forecast(sizes, drawn, 250)
    assert expected[-1].questions == 500
    assert expected[-1].auroc.value == pytest.approx(0.9 - 1 / np.sqrt(500))
    assert gain.value == pytest.approx(1 / np.sqrt(250) - 1 / np.sqrt(500))


def test_a_bound_is_set_on_a_half_that_did_not_fit_and_is_kept_on_new_questions() -> None:
    states, examples = clouds(300, gap=2)
    plain = [replace(each, kind="") for each in examples]
    fitted = fit_on_states(states, plain, bound=GateBound(0.1, 0.95))
    bound = fitted.threshold.bound
    assert bound is not None
    assert str(bound) == "over_abstention<=0.1@95%"
    assert bound.groups < 0.6 * sum(not each.positive for each in plain)
    assert bound.losses / bound.groups < 0.1
    assert fitted.report.held_out


def test_too_few_questions_for_a_bound_are_refused_before_anything_runs() -> None:
    with pytest.raises(MisuseError, match="at least 29"):
        check_gate(questions(80), bound=GateBound(0.1, 0.95))
    check_gate(questions(120), bound=GateBound(0.1, 0.95))


def test_a_fitted_gate_travels_in_its_file_and_the_engine_keeps_it_shut(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    data = questions(120, kinds=True)
    probe = fit_gate(tiny, data, name="mine")
    assert probe.metadata.shut_kinds == ("sums",)
    loaded = load_probe(probe.save(tmp_path / "gate.safetensors"))
    assert loaded.digest == probe.digest
    assert loaded.metadata == probe.metadata
    assert probe.shut is not None
    assert replace(probe, shut_bias=probe.shut.bias + 1).digest != probe.digest
    gate = ProbeGate(loaded, threshold=1e-9)  # opens for all that it is not kept shut on
    steering = random_vector(tiny).at(1, 1.0, gate=gate)
    asked = [Request(each.prompt, (steering,), Decoding(1), key=each.id) for each in data.prompts[:40]]
    fired = {c.request.key: c.gates[0] for c in TransformersEngine(tiny).generate(asked)}
    ids = [tiny.renderer.encode_prompt(each.prompt) for each in data.prompts[:40]]
    for each, tokens in zip(data.prompts[:40], ids, strict=True):
        state = last_states(tiny, [tuple(tokens)], {gate.layer})[gate.layer][0]
        assert loaded.shut is not None
        assert fired[each.id].fired != bool(loaded.shut.of(state))
    opened = {
        kind: [fired[each.id].fired for each in data.prompts[:40] if each.kind == kind]
        for kind in ("words", "sums")
    }
    assert np.mean(opened["sums"]) < 0.2
    assert np.mean(opened["words"]) > 0.7
    shut = next(reading for reading in fired.values() if not reading.fired)
    assert shut.probability == 0
    card = gate_card(loaded)
    assert "Kept shut on: sums" in card
    assert "words alone" in card


def test_a_gate_that_tells_kinds_reads_at_their_layer_alone(tiny: LanguageModel) -> None:
    probe = fit_gate(tiny, questions(120, kinds=True))
    other = (probe.metadata.layer + 1) % tiny.n_layers
    with pytest.raises(MisuseError, match="leave the gate's layer out"):
        ProbeGate(probe, layer=other)


def test_kinds_that_are_too_few_to_tell_are_refused() -> None:
    states, examples = clouds(40, gap=3)
    rare = [replace(each, kind="rare" if place == 0 else "read") for place, each in enumerate(examples)]
    with pytest.raises(InputError, match="too few questions of rare"):
        fit_shut(states[:, 0], rare, ("rare",), 5, 0)


def test_questions_may_have_a_kind(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"id": "a", "prompt": "When?", "label": true, "kind": "future"}\n', encoding="utf-8")
    (found,) = load_labelled(path)
    assert found.kind == "future"
    assert load_labelled(path).examples[0].kind == "future"


def test_detectors_are_compared_within_and_across_beside_words(tiny: LanguageModel) -> None:
    first, second = questions(60), replace(questions(80), name="other")
    probe = fit_gate(tiny, first, name="given")
    found = compare_gates(tiny, [first, second], ["entropy", probe])
    cells = {(each.detector, each.fitted_on, each.tested_on): each for each in found}
    assert len(cells) == 2 * (2 * 2 + 2)
    assert cells["gate fit", "questions", "questions"].auroc.value > 0.9
    assert cells["words alone", "questions", "other"].passes == 0
    assert cells["entropy", None, "other"].passes == 1
    assert cells["given", None, "other"].auroc.value > 0.9


def test_a_limit_keeps_twins_together() -> None:
    data = LabelledPrompts(
        "twins",
        tuple(LabelledPrompt(f"{i}{side}", "?", side == "a", f"g{i}") for i in range(20) for side in "ab"),
    )
    kept = at_most(data, 11)
    assert len(kept) == 10
    assert len({each.group for each in kept}) == 5


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(["Paris."] * 3 + ["the paris"], 0.0), (["Paris", "Rome", "Oslo", "Bern"], 1.0), (["a", "b"] * 2, 0.5)],
)
def test_disagreement_is_entropy_over_equal_answers(answers: list[str], expected: float) -> None:
    if expected == 0.5:
        answers = ["Paris", "Rome"] * 2
    assert disagreement(answers) == pytest.approx(expected)


def test_answers_are_equal_where_they_have_the_same_words() -> None:
    assert (
        same_words("The  Eiffel Tower!\nIt stands in Paris.") == same_words("eiffel tower") == "eiffel tower"
    )


@pytest.mark.parametrize("name", ["log-probability", "semantic-entropy"])
def test_a_detector_that_answers_gates_a_row(tiny: LanguageModel, name: str) -> None:
    prompts = ["hello", "what is this?"]
    alone: Callable[..., list[float]] = GATES[name]
    expected = alone(prompts, tiny)
    steering = random_vector(tiny).at(1, 1.0, gate=DetectorGate(name))
    asked = [Request(prompt, (steering,), Decoding(1), key=prompt) for prompt in prompts]
    read = {c.request.key: c.gates[0].probability for c in TransformersEngine(tiny).generate(asked)}
    assert [read[prompt] for prompt in prompts] == pytest.approx(expected)


def test_questions_unlike_those_of_a_bound_raise_the_alarm_and_others_do_not(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    data = questions(240)
    half = [LabelledPrompts("half", data.prompts[start::2]) for start in (0, 1)]
    mixed = LabelledPrompts("fit", tuple(each for each in data if int(each.id[1:]) % 4 < 2))
    others = LabelledPrompts("new", tuple(each for each in data if int(each.id[1:]) % 4 > 1))
    probe = load_probe(fit_gate(tiny, mixed, bound=GateBound(0.1, 0.95)).save(tmp_path / "g.safetensors"))
    assert not check_drift(tiny, probe, others).alarm
    assert check_drift(tiny, probe, half[0]).alarm  # of one label alone
    strange = LabelledPrompts(
        "strange", tuple(LabelledPrompt(f"s{i}", f"Count to {i}! Now!", bool(i % 2)) for i in range(40))
    )
    assert check_drift(tiny, probe, strange).alarm
    with pytest.raises(MisuseError, match="has no bound"):
        check_drift(tiny, fit_gate(tiny, mixed), others)
