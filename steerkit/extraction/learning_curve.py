"""The learning curve of a probe, and what more questions would bring.

At one layer the probe is fitted on growing random parts of each fold's questions and judged on the questions that the
fold holds out, so all sizes are judged on the same ones. The curve a - b / sqrt(n) is laid through the sizes and read
at the number of questions at hand and at up to twice as many: beyond that it would be a guess. Its shape is an
assumption; its interval covers which questions happened to be there and which parts were drawn, and not the shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerkit.core.bootstrap import interval
from steerkit.extraction.detection import Draws, Floats
from steerkit.extraction.held_out import Fold, fit_words, folds_by_group
from steerkit.extraction.pairs import Example
from steerkit.extraction.probe_fit import chosen_regularisation, fit_logistic
from steerkit.interventions.probe_report import CurvePoint, Measured

PARTS = (0.25, 0.4, 0.63, 1.0)  # of the questions that a fold fits on
REPEATS = 4  # random parts of each size
FEWEST = 10  # questions that a part has at least
AHEAD = (1.0, 1.5, 2.0)  # multiples of the questions at hand that the curve is read at


class LearningCurve(NamedTuple):
    """The points that were measured, those that are expected, and what the last of them adds to the first."""

    measured: tuple[CurvePoint, ...]
    expected: tuple[CurvePoint, ...]
    gain: Measured | None


class _Scores(NamedTuple):
    """Log-odds `[n]` of questions that took no part in the fits of their fold."""

    probe: Floats
    words: Floats
    folds: NDArray[np.int_]


def learning_curve(
    states: NDArray[np.float32], examples: Sequence[Example], draws: Draws, folds: int, seed: int
) -> LearningCurve:
    """The curve of a probe on the states `[n, width]` of one layer; no forecast where there are too few sizes."""
    splits = folds_by_group(examples, folds, seed)
    rng = np.random.default_rng(seed)
    sizes, points, drawn = [], [], []
    for part in PARTS:
        size = round(part * float(np.mean([len(fold.fit) for fold in splits])))
        if size < FEWEST:
            continue
        times = 1 if part == 1 else REPEATS
        repeats = [_scores(states, examples, splits, part, rng, seed) for _ in range(times)]
        drawn.append(_mean_auroc([(each.probe, each.folds) for each in repeats], draws, rng))
        words = _mean_auroc([(each.words, each.folds) for each in repeats], draws, rng)
        sizes.append(size)
        points.append(
            CurvePoint(questions=size, auroc=_with_interval(drawn[-1]), words=_with_interval(words))
        )
    if len(sizes) < 3:
        return LearningCurve(tuple(points), (), None)
    expected, gain = forecast(np.array(sizes), np.array(drawn), len(examples))
    return LearningCurve(tuple(points), expected, gain)


def forecast(sizes: NDArray[np.int_], drawn: Floats, n: int) -> tuple[tuple[CurvePoint, ...], Measured]:
    """Read a - b / sqrt(n), laid through AUROCs `[size, 1 + resamples]`, at multiples of `n`; and the gain of it."""
    shape = np.stack([np.ones(len(sizes)), -1 / np.sqrt(sizes)], axis=1)
    fitted = np.linalg.pinv(shape) @ drawn  # [2, 1 + resamples]
    ahead = [round(multiple * n) for multiple in AHEAD]
    read = np.clip([fitted[0] - fitted[1] / np.sqrt(size) for size in ahead], 0, 1)
    points = tuple(
        CurvePoint(questions=size, auroc=_with_interval(values))
        for size, values in zip(ahead, read, strict=True)
    )
    return points, _with_interval(read[-1] - read[0])


def _scores(
    states: NDArray[np.float32],
    examples: Sequence[Example],
    splits: Sequence[Fold],
    part: float,
    rng: np.random.Generator,
    seed: int,
) -> _Scores:
    """Scores of probe and words, each fold fitted on a random part of its own."""
    labels = np.array([example.positive for example in examples])
    probe, words = np.full((2, len(examples)), np.nan)
    folds = np.full(len(examples), -1)
    for number, fold in enumerate(splits):
        rows = np.concatenate(list(_part_of(fold.fit, examples, part, rng)))
        folds[fold.held_out] = number
        c = chosen_regularisation(states[:, None], examples, rows, seed)
        weight, bias = fit_logistic(states[rows], labels[rows], c)
        probe[fold.held_out] = states[fold.held_out] @ weight + bias
        words[fold.held_out] = fit_words([examples[row] for row in rows])(
            [examples[row] for row in fold.held_out]
        )
    return _Scores(probe, words, folds)


def _part_of(
    rows: NDArray[np.intp], examples: Sequence[Example], part: float, rng: np.random.Generator
) -> Iterator[NDArray[np.intp]]:
    """The rows of random groups, of each mixture of labels the same part and at least one group."""
    members: dict[str, list[int]] = {}
    for row in rows:
        members.setdefault(examples[row].group, []).append(int(row))
    strata: dict[tuple[bool, ...], list[str]] = {}
    for group, those in members.items():
        strata.setdefault(tuple(sorted({examples[row].positive for row in those})), []).append(group)
    for groups in strata.values():
        kept = rng.permutation(len(groups))[: max(1, round(part * len(groups)))]
        yield from (np.array(members[groups[place]]) for place in kept)


def _mean_auroc(
    repeats: Sequence[tuple[Floats, NDArray[np.int_]]], draws: Draws, rng: np.random.Generator
) -> Floats:
    """AUROC `[1 + resamples]`, the mean over repeats, which are resampled too; the first is that of the data."""
    found = [draws.auroc(scores, folds) for scores, folds in repeats]
    drawn = np.array([each[1] for each in found])
    share = rng.multinomial(len(found), np.full(len(found), 1 / len(found)), drawn.shape[1]) / len(found)
    return np.append(np.mean([each[0] for each in found]), (share.T * drawn).sum(axis=0))


def _with_interval(values: Floats) -> Measured:
    low, high = interval(values[1:])
    return Measured(value=float(values[0]), low=low, high=high)
