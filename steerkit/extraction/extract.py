"""Extraction: contrast pairs (or labelled prompts) in, one steering vector out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from steerkit import __version__
from steerkit.core.errors import InputError, MisuseError
from steerkit.core.progress import shows_progress
from steerkit.core.prompts import EncodedText
from steerkit.core.registry import ESTIMATORS
from steerkit.core.sites import RESID_POST, SITES, SiteName, Z
from steerkit.extraction.capture import AGGREGATIONS, Activations, Aggregation, Progress, capture
from steerkit.extraction.estimator import Estimator, agreement
from steerkit.extraction.held_out import Fold, auroc, folds_by_group, words_alone
from steerkit.extraction.logit_lens import has_logit_lens, logit_lens_alignment
from steerkit.extraction.pairs import (
    ContrastPair,
    ContrastPairs,
    Example,
    LabelledPrompt,
    LabelledPrompts,
    PairsOrPrompts,
    examples_of,
)
from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.models import LanguageModel
from steerkit.models.language_model import check_loaded
from steerkit.suites.suite import Suite

Method = str | Callable[..., Any]
CHANCE = 0.5  # the separability of a layer that has nothing to read


@shows_progress("extracting")
def extract(
    lm: LanguageModel,
    pairs: PairsOrPrompts
    | Suite
    | Iterable[ContrastPair]
    | Iterable[LabelledPrompt]
    | str
    | os.PathLike[str],
    method: Method = "mean-difference",
    aggregation: Aggregation | None = None,
    *,
    site: SiteName = RESID_POST,
    layers: int | Sequence[int] | None = None,
    options: Mapping[str, object] | None = None,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> SteeringVector:
    """Fit a direction at every layer, from the negative towards the positive side of `pairs`.

    `pairs`: a set of pairs or labelled prompts, its name or file, a suite (its split `fit`), or a list of them.

    `method`: the name of a registered estimator (`steerkit list estimators`), or any function from the two sides'
    states at one layer, `[n, d_model]` and `[m, d_model]`, to a direction `[d_model]`. `options` go to it by
    keyword, and so do `layers`, for one that is trained at chosen layers.

    `aggregation`: contrast pairs are read over their completions (`mean` or `last`), labelled prompts at their
    last token (`prompt`). `mean` is the default for pairs because it steered better for both built-in sets: the
    last token of a long solution mostly says that the text is at its end.

    `site`: where in each block the states are read, and where the vector acts; `resid_post`, the block's output, or
    `resid_pre`, `attn_out`, `mlp_out`, or `z`, the attention heads' outputs. The direction is zero at a layer that has
    no such site, as a recurrent one has no attention.

    Per layer the metadata records the held-out separability: the AUROC of left-out examples projected on the
    direction that the other folds give, averaged over `folds` folds drawn from `seed` that never divide a
    pair. Beside it stand what words alone reach on the same folds, and how far the pairs' differences agree.
    `progress` counts the texts read, then the layers fitted.

    Raises MisuseError for what `check_extraction` refuses, a model that is being steered or a text that it
    cannot take; InputError where the two sides have the same states, where the model's states are not finite, or
    where a function returns no direction.
    """
    check_loaded(lm)
    pairs = examples_of(pairs)
    check_extraction(pairs, method, aggregation, site=site, layers=layers, options=options)
    estimator = Estimator.resolve(method)
    read = aggregation or ("prompt" if isinstance(pairs, LabelledPrompts) else "mean")
    supplied: dict[str, object] = {"aggregation": read, "site": site, "layers": layers}
    supplied |= {"folds": folds, "seed": seed}
    supplied["progress"] = progress
    given = dict(options or {})
    given |= {name: value for name, value in supplied.items() if name in estimator.parameters}
    if estimator.whole:
        vector: SteeringVector = estimator.function(lm, pairs, **given)
        return vector

    examples = pairs.examples
    report = progress or (lambda _done, _total: None)
    steps = len(examples) + lm.n_layers
    texts, activations, labels = read_examples(
        lm, pairs, read, progress=lambda done, _: report(done, steps), site=site
    )
    read_at = lm.sites.layers(site)
    splits = folds_by_group(examples, folds, seed)

    def fitted(states: Tensor, labels: Tensor) -> Tensor:
        """The direction `[width]` for states `[n, width]` with labels `[n]`."""
        return estimator.direction(states[labels], states[~labels], **given)

    directions, separability = [], []
    for layer, states in enumerate(activations.states.unbind(dim=1)):
        directions.append(fitted(states, labels) if layer in read_at else states.new_zeros(states.shape[1]))
        if splits:
            held_out = _held_out_auroc(fitted, states, labels, splits) if layer in read_at else CHANCE
            separability.append(held_out)
        report(len(examples) + layer + 1, steps)

    positive, negative = activations.states[labels], activations.states[~labels]
    in_pairs = isinstance(pairs, ContrastPairs) and len(pairs) > 1
    words = words_alone(examples, splits)
    direction = torch.stack(directions)
    sides = [example.positive for example in examples]
    promoted = (
        in_pairs and site != Z and has_logit_lens(lm)
    )  # of other sites, each is in the space of the stream
    metadata = VectorMetadata(
        **origin_of(lm, pairs, site),
        name=pairs.name,
        method=estimator.name,
        aggregation=read,
        pairs_digest=pairs.digest,
        pairs_count=len(pairs),
        heads=_heads(lm, direction) if site == Z else None,
        separability=tuple(separability) or None,
        baseline_separability=words.auroc if words else None,
        agreement=tuple(agreement(positive, negative).tolist()) if in_pairs else None,
        alignment=tuple(logit_lens_alignment(lm, direction, texts, sides).tolist()) if promoted else None,
    )
    return SteeringVector(direction, metadata, positive.mean(dim=0), negative.mean(dim=0), activations.norm)


def _heads(lm: LanguageModel, direction: Tensor) -> int | None:
    """How many heads' outputs a state at `z` holds; None where the model's config does not say."""
    heads = getattr(lm.config, "num_attention_heads", None)
    return heads if isinstance(heads, int) and direction.shape[1] % heads == 0 else None


def origin_of(lm: LanguageModel, data: PairsOrPrompts, site: SiteName = RESID_POST) -> dict[str, Any]:
    """Return the fields that say, in a vector's metadata and a probe's, on which model, site and data it was fitted."""
    model = {"model": lm.name, "fingerprint": lm.fingerprint, "kept_digest": lm.kept_digest}
    model |= {"dtype": str(lm.dtype).removeprefix("torch.")}
    model |= {"template_digest": lm.renderer.digest, "site": site}
    return model | {"positive": data.name, "steerkit_version": __version__}


def check_extraction(
    pairs: PairsOrPrompts,
    method: Method,
    aggregation: Aggregation | None = None,
    *,
    site: str = RESID_POST,
    layers: int | Sequence[int] | None = None,
    options: Mapping[str, object] | None = None,
) -> None:
    """Refuse what needs no model to be refused.

    Raises MisuseError for an unknown method, aggregation or site, one that does not fit the pairs, and an option that
    the method does not take or lacks; InputError where a side is missing.
    """
    estimator = Estimator.resolve(method)
    check_site(site)
    if estimator.whole and site != RESID_POST and "site" not in estimator.parameters:
        raise MisuseError(f"{estimator.name} makes vectors of {RESID_POST} alone, and not of {site}")
    asked = dict(options or {}) | ({} if layers is None else {"layers": layers})
    if estimator.whole and aggregation is not None:
        asked["aggregation"] = aggregation
    estimator.check(asked)
    if aggregation not in (None, *AGGREGATIONS):
        raise MisuseError(f"unknown aggregation {aggregation!r}: it is one of {', '.join(AGGREGATIONS)}")
    labelled = isinstance(pairs, LabelledPrompts)
    if not labelled and aggregation == "prompt":
        raise MisuseError(
            f"{pairs.name}: both sides of a contrast pair share their prompt, so reading the prompt gives no "
            "difference: read the completion (aggregation last or mean), or take labelled prompts"
        )
    if labelled and aggregation not in (None, "prompt"):
        raise MisuseError(
            f"{pairs.name}: labelled prompts have no completion to read: the aggregation is prompt"
        )
    if labelled and estimator.paired:
        others = ", ".join(name for name, each in ESTIMATORS.items() if not each.paired)
        raise MisuseError(
            f"{pairs.name}: {estimator.name} compares the two sides of each pair, and labelled prompts have none: "
            f"take contrast pairs, or one of {others}"
        )
    if len({example.positive for example in pairs.examples}) < 2:
        raise InputError(f"{pairs.name}: there must be both positive and negative examples")


def check_site(site: str) -> None:
    """Raise MisuseError for a site that there is not."""
    if site not in SITES:
        raise MisuseError(f"unknown site {site!r}: it is one of {', '.join(SITES)}")


def read_examples(
    lm: LanguageModel,
    pairs: PairsOrPrompts,
    aggregation: Aggregation,
    progress: Progress | None = None,
    site: SiteName = RESID_POST,
) -> tuple[list[EncodedText], Activations, Tensor]:
    """Return the examples as tokens, their states, and which of them are positive, `[example]` bool.

    Raises MisuseError for a model that is being steered or a text that it cannot take, InputError where its states
    are not finite.
    """
    if lm.is_steered:
        raise MisuseError(f"{lm.name} is being steered: extract outside the `with sk.steer(...)` block")
    texts = [encoded_example(lm, example) for example in pairs.examples]
    activations = capture(lm, texts, aggregation, site=site, progress=progress)
    _check_finite(activations)
    return texts, activations, torch.tensor([each.positive for each in pairs.examples], device=lm.device)


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
            f"{broken[0]}: load it in float32 or bfloat16, and check its weights"
        )


def _held_out_auroc(
    fitted: Callable[[Tensor, Tensor], Tensor], states: Tensor, labels: Tensor, folds: Sequence[Fold]
) -> float:
    """Mean over the folds of the AUROC of held-out states on the direction fitted without them."""
    scores = []
    for fold in folds:
        fit = torch.from_numpy(fold.fit).to(states.device)
        held_out = torch.from_numpy(fold.held_out).to(states.device)
        projection = states[held_out] @ fitted(states[fit], labels[fit])
        scores.append(auroc(projection.cpu().numpy(), labels[held_out].cpu().numpy()))
    return fmean(scores)
