"""Folds that keep pairs and twins whole, and what words alone give away."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from steerkit.extraction.held_out import auroc, folds_by_group, words_alone
from steerkit.extraction.pairs import ContrastPair, ContrastPairs, LabelledPrompt, LabelledPrompts


def numbered(count, positive="yes {i}", negative="no {i}"):
    items = [
        ContrastPair(f"p{i}", f"Q{i}?", positive.format(i=i), negative.format(i=i)) for i in range(count)
    ]
    return ContrastPairs("numbered", tuple(items))


@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_every_example_is_held_out_once_and_with_its_whole_pair(count):
    examples = numbered(count).examples
    folds = folds_by_group(examples, folds=5, seed=0)
    assert len(folds) == min(5, count)
    assert sorted(np.concatenate([fold.held_out for fold in folds])) == list(range(2 * count))
    for fold in folds:
        assert {examples[i].group for i in fold.fit}.isdisjoint(examples[i].group for i in fold.held_out)
        assert sum(examples[i].positive for i in fold.held_out) == len(fold.held_out) / 2


def test_the_seed_decides_the_folds():
    examples = numbered(20).examples
    first, again, other = (folds_by_group(examples, 5, seed)[0].held_out.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_twins_are_never_divided_and_a_fold_without_both_sides_is_left_out():
    items = [LabelledPrompt(f"{g}{s}", f"{g} {s}", s == "+", f"g{g}") for g in range(4) for s in "+-"]
    lonely = [LabelledPrompt(f"x{i}", f"x {i}", True, f"x{i}") for i in range(3)]
    examples = LabelledPrompts("asked", (*items, *lonely)).examples
    for fold in folds_by_group(examples, folds=4, seed=0):
        assert {examples[i].group for i in fold.fit}.isdisjoint(examples[i].group for i in fold.held_out)
        for part in (fold.fit, fold.held_out):
            assert {examples[i].positive for i in part} == {True, False}


def test_a_single_pair_can_hold_nothing_out():
    examples = numbered(1).examples
    assert folds_by_group(examples, 5, 0) == []
    assert words_alone(examples, []) is None


def test_auroc_is_scikit_learns_with_ties_too():
    random = np.random.default_rng(0)
    for _ in range(50):
        scores, positive = random.integers(0, 8, 30).astype(float), random.random(30) > 0.5
        assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_auroc_counts_the_positive_examples_that_score_higher():
    positive = np.array([True, True, False, False])
    assert auroc(np.array([3.0, 1.0, 2.0, 0.0]), positive) == 0.75
    assert auroc(np.array([1.0, 1.0, 1.0, 1.0]), positive) == 0.5


def test_words_alone_see_wording_and_nothing_where_there_is_none():
    examples = numbered(20, "perhaps {i}", "surely {i}").examples
    telling = words_alone(examples, folds_by_group(examples, 5, 0))
    assert (telling.auroc, telling.accuracy) == (1.0, 1.0)
    examples = numbered(20, "perhaps {i}", "perhaps {i}").examples
    silent = words_alone(examples, folds_by_group(examples, 5, 0))
    assert (silent.auroc, silent.accuracy) == (0.5, 0.5)
