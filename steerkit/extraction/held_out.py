"""How well two sides can be told apart on examples that took no part in the fit, and how well by words alone.

A direction that only tells its own training examples apart is worth nothing, and one that does no better than
a bag of words may have found no more than the wording. Both are measured on the same folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline

from steerkit.extraction.pairs import Example


@dataclass(frozen=True, slots=True)
class Fold:
    """Indices of the examples to fit on and of those held out; both parts have positive and negative ones."""

    fit: NDArray[np.intp]
    held_out: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class WordsAlone:
    """What a TF-IDF classifier reaches on held-out examples, as means over the folds, in [0, 1]."""

    auroc: float
    accuracy: float


def folds_by_group(examples: Sequence[Example], folds: int, seed: int) -> list[Fold]:
    """At most `folds` cross-validation folds, seeded, that never divide a group (a pair, or twin prompts).

    Fewer where there are fewer groups; a fold that would lack one of the sides is left out. Empty where
    nothing can be held out, as with a single pair.
    """
    labels = np.array([example.positive for example in examples])
    groups = [example.group for example in examples]
    folds = min(folds, len(set(groups)), labels.sum(), (~labels).sum())
    if folds < 2:
        return []
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    return [
        Fold(fit, held_out)
        for fit, held_out in splitter.split(labels, labels, groups)
        if all(np.unique(labels[part]).size == 2 for part in (fit, held_out))
    ]


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """The chance that a positive example scores above a negative one, ties counted half."""
    ranks = rankdata(scores)  # Mann-Whitney; scikit-learn's own costs thirty times as much a call
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def words_alone(examples: Sequence[Example], folds: Sequence[Fold]) -> WordsAlone | None:
    """Logistic regression on TF-IDF of words and word pairs, fitted and judged on the given folds.

    None without folds.
    """
    if not folds:
        return None
    labels = np.array([example.positive for example in examples])
    aurocs, accuracies = [], []
    for fold in folds:
        words = fit_words([examples[row] for row in fold.fit])
        scores = words([examples[row] for row in fold.held_out])
        aurocs.append(auroc(scores, labels[fold.held_out]))
        accuracies.append(np.mean((scores > 0) == labels[fold.held_out]))
    return WordsAlone(float(np.mean(aurocs)), float(np.mean(accuracies)))


def fit_words(examples: Sequence[Example]) -> Callable[[Sequence[Example]], NDArray[np.float64]]:
    """Fit logistic regression on TF-IDF of words and word pairs; return what gives the log-odds `[n]` of others."""
    classifier = make_pipeline(
        TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(max_iter=1000),
    ).fit([example.text for example in examples], [example.positive for example in examples])

    def log_odds(others: Sequence[Example]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = classifier.decision_function([example.text for example in others])
        return found

    return log_odds
