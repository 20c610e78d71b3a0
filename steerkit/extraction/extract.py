"""Extraction: contrast pairs (or labelled prompts) in, one steering vector out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from statistics import fmean

import torch
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.prompts import EncodedText
from steerkit.extraction.capture import AGGREGATIONS, Activations, Aggregation, Progress, capture
from steerkit.extraction.estimators import ESTIMATORS, Estimator, agreement, oriented_and_scaled
from steerkit.extraction.held_out import Fold, auroc, folds_by_group, words_alone
from steerkit.extraction.logit_lens import logit_lens_alignment
from steerkit.extraction.pairs import ContrastPairs, Example, LabelledPrompts
from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.models import LanguageModel

METHODS = (*ESTIMATORS, "random")
LEARNED = "contrastive-energy"
"""The method of `steerkit.extraction.learned`, which needs gradients and layers to be named."""


def extract(
    lm: LanguageModel,
    pairs: ContrastPairs | LabelledPrompts,
    method: str = "mean-difference",
    aggregation: Aggregation = "mean",
    *,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> SteeringVector:
    """Fit a direction at every layer, from the negative towards the positive side of `pairs`.

    `method`: `mean-difference`, `pca`, `logistic`, `lda` (see `directions`), or `random`, the control: a
    random direction, drawn from `seed`, as long as the mean difference. `aggregation`: contrast pairs are
    read over their completions (`mean` or `last`), labelled prompts at their last token (`prompt`). The mean is
    the default because it steered better for both built-in sets: the last token of a long solution mostly says
    that the text is at its end.

    Per layer the metadata records the held-out separability: the AUROC of left-out examples projected on the
    direction that the other folds give, averaged over `folds` folds drawn from `seed` that never divide a
    pair. Beside it stand what words alone reach on the same folds, and how far the pairs' differences agree.
    `progress` counts the texts read, then the layers fitted.

    Raises MisuseError for an unknown method or aggregation, one that does not fit the data, or a text that
    the model cannot take; InputError where a side is missing, where the two sides have the same states, or
    where the model's states are not finite.
    """
    _check(lm, pairs, method, aggregation)
    if method == "random":
        return extract(
            lm, pairs, aggregation=aggregation, folds=folds, seed=seed, progress=progress
        ).random_control(seed)
    examples = pairs.examples
    report = progress or (lambda _done, _total: None)
    steps = len(examples) + lm.n_layers
    texts = [encoded_example(lm, example) for example in examples]
    activations = capture(lm, texts, aggregation, progress=lambda done, _: report(done, steps))
    _check_finite(activations)

    labels = torch.tensor([example.positive for example in examples], device=lm.device)
    splits = folds_by_group(examples, folds, seed)
    directions, separability = [], []
    for layer, states in enumerate(activations.states.unbind(dim=1)):
        directions.append(_fitted(ESTIMATORS[method], states, labels))
        if splits:
            separability.append(_held_out_auroc(ESTIMATORS[method], states, labels, splits))
        report(len(examples) + layer + 1, steps)

    positive, negative = activations.states[labels], activations.states[~labels]
    in_pairs = isinstance(pairs, ContrastPairs) and len(pairs) > 1
    words = words_alone(examples, splits)
    fitted = torch.stack(directions)
    sides = [example.positive for example in examples]
    metadata = VectorMetadata(
        name=pairs.name,
        model=lm.name,
        fingerprint=lm.fingerprint,
        positive=pairs.name,
        method=method,
        aggregation=aggregation,
        template_digest=lm.renderer.digest,
        pairs_digest=pairs.digest,
        pairs_count=len(pairs),
        separability=tuple(separability) or None,
        baseline_separability=words.auroc if words else None,
        agreement=tuple(agreement(positive, negative).tolist()) if in_pairs else None,
        alignment=tuple(logit_lens_alignment(lm, fitted, texts, sides).tolist()) if in_pairs else None,
        steerkit_version=version("steerkit"),
    )
    return SteeringVector(fitted, metadata, positive.mean(dim=0), negative.mean(dim=0), activations.norm)


def _check(
    lm: LanguageModel, pairs: ContrastPairs | LabelledPrompts, method: str, aggregation: Aggregation
) -> None:
    if method == LEARNED:
        raise MisuseError(f"{method} is trained at chosen layers: use sk.learn(lm, pairs, layers)")
    if method not in METHODS:
        raise MisuseError(f"unknown method {method!r}: it is one of {', '.join(METHODS)}")
    if aggregation not in AGGREGATIONS:
        raise MisuseError(f"unknown aggregation {aggregation!r}: it is one of {', '.join(AGGREGATIONS)}")
    if isinstance(pairs, ContrastPairs) and aggregation == "prompt":
        raise MisuseError(
            f"{pairs.name}: both sides of a contrast pair share their prompt, so reading the prompt gives no "
            "difference: use --aggregation last or mean, or a file of labelled prompts"
        )
    if isinstance(pairs, LabelledPrompts) and aggregation != "prompt":
        raise MisuseError(f"{pairs.name}: labelled prompts have no completion: use --aggregation prompt")
    if isinstance(pairs, LabelledPrompts) and method == "pca":
        raise MisuseError(
            f"{pairs.name}: PCA takes differences within pairs, and labelled prompts have none: "
            "use --method mean-difference, logistic or lda"
        )
    if len({example.positive for example in pairs.examples}) < 2:
        raise InputError(f"{pairs.name}: there must be both positive and negative examples")
    if lm.is_steered:
        raise MisuseError(f"{lm.name} is being steered: extract outside the `with sk.steer(...)` block")


def encoded_example(lm: LanguageModel, example: Example) -> EncodedText:
    """The example as tokens, or an error that names it."""
    try:
        text = example.encoded(lm.renderer)
    except MisuseError as error:
        raise MisuseError(f"{example.where}: {error}") from error
    if len(text.ids) > lm.context_length:
        raise MisuseError(
            f"{example.where}: {len(text.ids)} tokens, but {lm.name} reads at most {lm.context_length}: "
            "shorten it or drop it"
        )
    return text


def _check_finite(activations: Activations) -> None:
    finite = activations.states.isfinite().all(dim=2).all(dim=0) & activations.norm.isfinite()
    if not finite.all():
        broken = (~finite).nonzero().flatten().tolist()
        raise InputError(
            f"the model's states hold NaN or Inf at {len(broken)} of {len(finite)} layers, first at layer "
            f"{broken[0]}: load it with --dtype float32 or bfloat16, and check its weights"
        )


def _fitted(estimator: Estimator, states: Tensor, labels: Tensor) -> Tensor:
    """The oriented and scaled direction `[d_model]` for states `[n, d_model]` with labels `[n]`."""
    positive, negative = states[labels], states[~labels]
    return oriented_and_scaled(estimator(positive, negative), positive, negative)


def _held_out_auroc(estimator: Estimator, states: Tensor, labels: Tensor, folds: Sequence[Fold]) -> float:
    """Mean over the folds of the AUROC of held-out states on the direction fitted without them."""
    scores = []
    for fold in folds:
        fit = torch.from_numpy(fold.fit).to(states.device)
        held_out = torch.from_numpy(fold.held_out).to(states.device)
        projection = states[held_out] @ _fitted(estimator, states[fit], labels[fit])
        scores.append(auroc(projection.cpu().numpy(), labels[held_out].cpu().numpy()))
    return fmean(scores)
