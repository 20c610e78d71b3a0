"""Which of an autoencoder's features tell what: by how they separate two sides, and by ReasonScore.

`rank_by_separation`    the AUROC of a feature's activation between positive and negative examples
`rank_by_reason_score`  how much it is active on the words of reasoning, and on many of them (arXiv 2503.18878)

Of thousands of features some separate fifty examples by chance. So the examples are parted by groups: one half ranks
the features, and what a feature reaches on the other half stands beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError
from steerkit.engines.base import Completion
from steerkit.engines.forward import in_passes, right_padded, states
from steerkit.extraction.extract import encoded_example
from steerkit.extraction.held_out import folds_by_group
from steerkit.extraction.pairs import ContrastPairs, LabelledPrompts
from steerkit.features.autoencoder import Autoencoder
from steerkit.models import LanguageModel

# Words with which reasoning goes on, turns or is checked: our own list.
REASONING_WORDS = (
    "so", "then", "first", "next", "therefore", "because", "since", "but", "however", "wait", "hmm", "maybe",
    "perhaps", "alternatively", "let", "think", "check", "sure", "know", "means",
)  # fmt: skip
TOKENS_A_PASS = 1024

Progress = Callable[[int, int], None]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Separating:
    """How a feature separates two sides: AUROC, 0.5 where it does not, above where it is more active on the positive.

    `auroc` is of the examples that ranked it, `held_out` of the others. `positive` and `negative` are the two sides'
    mean activations, `positive_share` and `negative_share` the examples in which it is active at all.
    """

    index: int
    auroc: float
    held_out: float
    positive: float
    negative: float
    positive_share: float
    negative_share: float


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A feature's ReasonScore, and what it is made of.

    `on_words` and `elsewhere` are its mean activations on the tokens of the words and on all others; `entropy`, from 0
    to 1, says over how many of the words it is spread.
    """

    index: int
    score: float
    on_words: float
    elsewhere: float
    entropy: float


def rank_by_separation(
    autoencoder: Autoencoder,
    lm: LanguageModel,
    data: LabelledPrompts | ContrastPairs,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Separating]:
    """Return every feature, those first whose activation tells the two sides apart best, either way round.

    Of labelled prompts the activation at the last prompt token is read, of contrast pairs the mean over each side's
    completion. Half of the examples rank, by groups, drawn from `seed`. Raises ModelMismatchError where the model is
    not the autoencoder's, InputError where either half would lack a side.
    """
    autoencoder.check(lm)
    examples = data.examples
    halves = folds_by_group(examples, 2, seed)
    if not halves:
        raise InputError(f"{data.name}: too few examples to rank on one half and look at the other")
    ranking, held_out = halves[0].fit, halves[0].held_out
    texts = [encoded_example(lm, example) for example in examples]
    spans = [
        (text.prompt_length, len(text.ids))
        if text.completion_length
        else (text.prompt_length - 1, text.prompt_length)
        for text in texts
    ]
    found = mean_activations(autoencoder, lm, [text.ids for text in texts], spans, progress).double().numpy()
    labels = np.array([example.positive for example in examples])
    ranked, kept = aurocs(found[ranking], labels[ranking]), aurocs(found[held_out], labels[held_out])
    sides = found[labels], found[~labels]
    means = [side.mean(axis=0) for side in sides]
    shares = [(side > 0).mean(axis=0) for side in sides]
    order = np.argsort(-np.abs(ranked - 0.5), kind="stable")
    return [
        Separating(int(i), *(float(values[i]) for values in (ranked, kept, *means, *shares))) for i in order
    ]


def rank_by_reason_score(
    autoencoder: Autoencoder,
    lm: LanguageModel,
    completions: Iterable[Completion],
    *,
    words: Sequence[str] = REASONING_WORDS,
    alpha: float = 1.0,
    progress: Progress | None = None,
) -> list[Reasoning]:
    """Return every feature, the highest ReasonScore first, on what the model wrote (`sk.generate`).

    (μ⁺ / Σμ⁺) · H^alpha - μ⁻ / Σμ⁻, with μ⁺ a feature's mean activation on the tokens of `words`, μ⁻ that on the
    completions' other tokens, sums over all features, and H the entropy of its activation over the words, as a share
    of the largest (arXiv 2503.18878, which takes windows around the words where this takes the words alone). Raises
    MisuseError where fewer than two of the words are ever written.
    """
    autoencoder.check(lm)
    written = [found for found in completions if found.tokens]
    texts, said = [], []
    for found in written:
        prompt = lm.renderer.encode_prompt(found.request.prompt, found.request.system)
        texts.append((*prompt, *found.token_ids))
        said.append(words_of(lm, found.token_ids, words))
    sums = torch.zeros(len(words) + 1, autoencoder.n_features, dtype=torch.float64)
    counts = torch.zeros(len(words) + 1, dtype=torch.float64)
    for which, active in _completion_activations(autoencoder, lm, texts, said, progress):
        sums.index_add_(0, which, active.double())
        counts += torch.bincount(which, minlength=len(words) + 1)
    met = counts[:-1] > 0
    if int(met.sum()) < 2:
        raise MisuseError(
            f"{len(written)} completions hold {int(met.sum())} of the {len(words)} words: give more completions, or "
            "words that this model writes"
        )
    by_word = (sums[:-1][met] / counts[:-1][met, None]).numpy()
    on_words = (sums[:-1].sum(dim=0) / counts[:-1].sum()).numpy()
    elsewhere = (sums[-1] / counts[-1].clamp_min(1)).numpy()
    entropy = _normalised_entropy(by_word)
    scores = _shares(on_words) * entropy**alpha - _shares(elsewhere)
    order = np.argsort(-scores, kind="stable")
    return [
        Reasoning(int(i), *(float(values[i]) for values in (scores, on_words, elsewhere, entropy)))
        for i in order
    ]


def mean_activations(
    autoencoder: Autoencoder,
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    spans: Sequence[tuple[int, int]],
    progress: Progress | None = None,
) -> Tensor:
    """Return each text's mean activations over its span of tokens `[start, stop)`, `[text, n_features]` on the CPU."""
    found = torch.zeros(len(texts), autoencoder.n_features)
    for numbers, hidden in _in_order(autoencoder, lm, texts, progress):
        for number, rows in zip(numbers, hidden, strict=True):
            start, stop = spans[number]
            found[number] = autoencoder.encode(rows[start:stop]).mean(dim=0)
    return found


def aurocs(values: Floats, positive: NDArray[np.bool_]) -> Floats:
    """Return for each column of `values` `[example, feature]` the AUROC of positive over negative, ties as half."""
    n, m = int(positive.sum()), int((~positive).sum())
    sums: Floats = rankdata(values, axis=0)[positive].sum(axis=0)
    return (sums - n * (n + 1) / 2) / (n * m)


def words_of(lm: LanguageModel, tokens: Sequence[int], words: Sequence[str]) -> Tensor:
    """Return for each token the index of the word that it is, or begins or goes on with; `len(words)` for none."""
    pieces = [lm.tokenizer.decode([token]) for token in tokens]
    ends = np.cumsum([len(piece) for piece in pieces])
    found = torch.full((len(tokens),), len(words))
    for match in re.finditer(r"[^\W\d_]+", "".join(pieces)):
        word = match[0].casefold()
        if word in words:
            first, last = np.searchsorted(ends, [match.start(), match.end() - 1], side="right")
            found[first : last + 1] = list(words).index(word)
    return found


def _completion_activations(
    autoencoder: Autoencoder,
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    said: Sequence[Tensor],
    progress: Progress | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each text which word each completion token belongs to, and its activations `[token, n_features]`."""
    for numbers, hidden in _in_order(autoencoder, lm, texts, progress):
        for number, rows in zip(numbers, hidden, strict=True):
            length = len(texts[number])
            yield said[number], autoencoder.encode(rows[length - len(said[number]) : length]).cpu()


def _in_order(
    autoencoder: Autoencoder, lm: LanguageModel, texts: Sequence[Sequence[int]], progress: Progress | None
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """The texts by length, pass by pass: their numbers, and their states `[text, position, width]`."""
    layer, site = autoencoder.place

    def run(numbers: Sequence[int]) -> Tensor:
        rows = right_padded([texts[number] for number in numbers], lm)
        return states(lm, rows, [layer], lambda hidden: hidden.float(), site)[layer]

    done = 0
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for numbers, hidden in in_passes(order, lambda number: len(texts[number]), TOKENS_A_PASS, run):
        yield numbers, hidden
        done += len(numbers)
        if progress is not None:
            progress(done, len(texts))


def _shares(values: Floats) -> Floats:
    total = values.sum()
    return values / total if total > 0 else np.zeros_like(values)


def _normalised_entropy(by_word: Floats) -> Floats:
    """Of each column `[word, feature]` as a distribution over words, 1 where it is even; 0 for a silent feature."""
    total = by_word.sum(axis=0)
    shares = np.divide(by_word, total, out=np.zeros_like(by_word), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: Floats = -(shares * logs).sum(axis=0) / math.log(len(by_word))
    return entropy
