"""Ranks on a model whose states are known: values worked out by hand, and held against scikit-learn and plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import steerkit as sk
from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.extraction.pairs import ContrastPair, ContrastPairs, LabelledPrompt, LabelledPrompts
from steerkit.features.rank import aurocs, mean_activations, words_of
from tests.features import planted
from tests.tiny import tiny_model

BIAS = 0.25


@pytest.fixture(scope="module")
def lm() -> sk.LanguageModel:
    return planted.planted_model()


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> sk.Autoencoder:
    return sk.load_autoencoder(planted.write(tmp_path_factory.mktemp("made"), planted.reading_the_planted()))


def pairs(*sides: tuple[str, str], times: int = 6) -> ContrastPairs:
    """Pairs with these two sides each, `times` of each."""
    made = (
        ContrastPair(f"{place}-{n}", f"q{n}", *side) for place, side in enumerate(sides) for n in range(times)
    )
    return ContrastPairs("made", tuple(made))


def test_the_planted_features_come_first_with_the_values_worked_out_by_hand(
    lm: sk.LanguageModel, autoencoder: sk.Autoencoder
) -> None:
    found = sk.rank_by_separation(autoencoder, lm, pairs(("AA", "BB"), ("Axxx", "BBBB")))
    by_index = {each.index: each for each in found}
    assert [each.index for each in found] == [0, 1, 2, 3]
    first, second = by_index[0], by_index[1]
    assert (first.auroc, first.held_out, second.auroc, second.held_out) == (1.0, 1.0, 0.0, 0.0)
    # A holds 3 of direction 0: 2.75 on each of two tokens, or on one of four.
    assert first.positive == pytest.approx((2.75 + 2.75 / 4) / 2, abs=1e-5)
    assert first.negative == pytest.approx(0.0, abs=1e-6)
    assert second.negative == pytest.approx(2.0 - BIAS, abs=1e-5)
    assert (first.positive_share, first.negative_share) == (1.0, 0.0)
    assert (by_index[3].auroc, by_index[3].positive_share) == (0.5, 0.0)


def test_half_of_the_examples_rank_and_the_others_are_only_looked_at(
    lm: sk.LanguageModel, autoencoder: sk.Autoencoder
) -> None:
    data = pairs(("AB", "BA"), ("Ax", "xx"), ("C", "A"), ("D", "BC"))
    for seed in (0, 1):
        ranked = sk.rank_by_separation(autoencoder, lm, data, seed=seed)
        assert sk.rank_by_separation(autoencoder, lm, data, seed=seed) == ranked
        best = [abs(each.auroc - 0.5) for each in ranked]
        assert best == sorted(best, reverse=True)


def test_prompts_are_read_at_their_last_token(lm: sk.LanguageModel, autoencoder: sk.Autoencoder) -> None:
    prompts = LabelledPrompts(
        "same end", tuple(LabelledPrompt(f"{n}", "A" * (n + 1), bool(n % 2)) for n in range(12))
    )
    # The chat template ends each of them in the same token, whose state holds nothing that is planted.
    assert {each.auroc for each in sk.rank_by_separation(autoencoder, lm, prompts)} == {0.5}


def test_activations_are_means_of_activations_over_the_span(tmp_path: Path) -> None:
    lm = tiny_model(seed=2)
    autoencoder = sk.load_autoencoder(planted.write(tmp_path, planted.tensors("jumprelu"), "jumprelu"))
    texts = [tuple(lm.renderer.encode_prompt("x" * n)) for n in (3, 40, 9)]
    spans = [(2, len(texts[0])), (5, 30), (len(texts[2]) - 1, len(texts[2]))]
    found = mean_activations(autoencoder, lm, texts, spans)
    for row, text, (start, stop) in zip(found, texts, spans, strict=True):
        with torch.no_grad():
            hidden = lm.hf(torch.tensor([text]), output_hidden_states=True).hidden_states[planted.LAYER + 1][
                0
            ]
        torch.testing.assert_close(
            row, autoencoder.encode(hidden)[start:stop].mean(dim=0), atol=1e-5, rtol=1e-5
        )


def test_areas_are_scikit_learns_ties_included() -> None:
    draw = np.random.default_rng(0)
    values = draw.integers(0, 4, (60, 9)).astype(float)
    labels = draw.random(60) < 0.4
    wanted = [roc_auc_score(labels, column) for column in values.T]
    assert aurocs(values, labels) == pytest.approx(wanted)


def test_too_few_examples_and_another_model_are_refused(
    lm: sk.LanguageModel, autoencoder: sk.Autoencoder
) -> None:
    with pytest.raises(InputError, match="too few examples"):
        sk.rank_by_separation(autoencoder, lm, pairs(("A", "B"), times=1))
    with pytest.raises(ModelMismatchError):
        sk.rank_by_separation(autoencoder, tiny_model(width=48), pairs(("A", "B")))


def test_words_are_found_in_pieces_of_tokens(lm: sk.LanguageModel) -> None:
    tokens = lm.renderer.encode("So, so? Wait! waiting so")
    found = words_of(lm, tokens, ["so", "wait"]).tolist()  # every token is a letter here
    text = "So, so? Wait! waiting so"
    wanted = [2] * len(text)
    for start, word in ((0, 0), (4, 0), (8, 1), (22, 0)):
        length = len(("so", "wait")[word])
        wanted[start : start + length] = [word] * length
    assert found == wanted


def written(lm: sk.LanguageModel, *texts: str) -> list[sk.Completion]:
    """Completions that say these texts."""
    return [
        sk.Completion(sk.Request("q"), text, tuple(lm.renderer.encode(text)), "stop", 0) for text in texts
    ]


def test_the_reason_score_is_what_the_formula_gives_by_hand(
    lm: sk.LanguageModel, autoencoder: sk.Autoencoder
) -> None:
    # Words of one letter: A, B and C; D and x are none.
    found = sk.rank_by_reason_score(autoencoder, lm, written(lm, "A B D", "C x A"), words=["a", "b", "c"])
    held = {letter: planted.PLANTED[letter] for letter in "ABCD"}
    active = {
        letter: [max(0.0, amount - BIAS) for amount in amounts] + [0.0] for letter, amounts in held.items()
    }
    on = np.mean([active["A"], active["B"], active["C"], active["A"]], axis=0)
    off = np.array(active["D"]) / 6  # D, x and the four blanks
    by_word = np.array([active["A"], active["B"], active["C"]])
    for each in found:
        shares = by_word[:, each.index] / max(by_word[:, each.index].sum(), 1e-12)
        entropy = -sum(p * math.log(p) for p in shares if p > 0) / math.log(3)
        assert each.on_words == pytest.approx(on[each.index], abs=1e-5)
        assert each.elsewhere == pytest.approx(off[each.index], abs=1e-5)
        assert each.entropy == pytest.approx(entropy, abs=1e-5)
        score = on[each.index] / on.sum() * entropy - off[each.index] / off.sum()
        assert each.score == pytest.approx(score, abs=1e-5)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert found[-1].index == 2  # active on D, which is no word of reasoning
    plain = sk.rank_by_reason_score(
        autoencoder, lm, written(lm, "A B D", "C x A"), words=["a", "b", "c"], alpha=0.0
    )
    first = next(each for each in plain if each.index == 0)
    assert first.score == pytest.approx(on[0] / on.sum(), abs=1e-5)


def test_without_words_there_is_no_score(lm: sk.LanguageModel, autoencoder: sk.Autoencoder) -> None:
    for texts in ((), ("D D",), ("A A",)):
        with pytest.raises(MisuseError, match="of the 3 words"):
            sk.rank_by_reason_score(autoencoder, lm, written(lm, *texts), words=["a", "b", "c"])
