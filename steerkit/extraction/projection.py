"""Projection: a vector without the component that it shares with other directions.

A difference between two sides also holds what every state has (the mean residual state) or what the questions
are about; a push along that costs fluency and buys nothing. At each layer the direction d becomes
d - V Vᵀ d, with V an orthonormal basis of what is to go.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.sites import RESID_POST, SiteName
from steerkit.extraction.capture import Progress, capture
from steerkit.extraction.extract import encoded_example
from steerkit.extraction.pairs import PairsOrPrompts
from steerkit.interventions.vector import SteeringVector, load_vector
from steerkit.models import LanguageModel

CONTENT_COMPONENTS = 4
NAMED = ("mean", "content")
"""What `shared_directions` finds by itself."""

# A direction of which less than this share is left lies in the subspace, up to rounding.
NOTHING_LEFT = 1e-4


def project_out(vector: SteeringVector, shared: Tensor, what: str) -> SteeringVector:
    """`vector` made orthogonal at every layer to the `k` rows of `shared` `[n_layers, k, width]`.

    The rows need not be orthogonal, nor independent. A vector scaled to its sides' gap is scaled so again, to the
    gap along what is left of it, and points to the positive side; any other keeps what length the projection
    leaves. A layer at which the vector is zero stays zero. The method in the metadata names `what` was taken out;
    what was measured on the old direction (held-out figures, calibration, recommended use) is left out.

    Raises MisuseError where the shapes do not fit, InputError where nothing is left at a layer.
    """
    if shared.ndim != 3 or (shared.shape[0], shared.shape[2]) != tuple(vector.direction.shape):
        raise MisuseError(
            f"{what} has shape {list(shared.shape)}, but {vector.name!r} needs "
            f"[{vector.n_layers}, k, {vector.d_model}]: take it from the same model"
        )
    if not shared.isfinite().all():
        raise InputError(f"{what} holds NaN or Inf: nothing can be made orthogonal to it")
    direction = vector.direction.double()
    basis = _orthonormal(shared.detach().cpu().double())
    # Twice, so that rounding leaves nothing behind where little is left.
    rest = direction
    for _ in range(2):
        rest = rest - torch.einsum("lkd,lk->ld", basis, torch.einsum("lkd,ld->lk", basis, rest))
    gone = (rest.norm(dim=1) <= NOTHING_LEFT * direction.norm(dim=1)) & direction.any(dim=1)
    if gone.any():
        raise InputError(
            f"nothing of {vector.name!r} is left at layer {int(gone.nonzero()[0])} without {what}: it lies in it"
        )
    metadata = vector.metadata.derived(method=f"{vector.metadata.method} without {what}")
    return replace(vector, direction=_rescaled(rest, vector).float(), metadata=metadata)


def mean_state(vector: SteeringVector) -> Tensor:
    """The mean state of both sides that `vector` was fitted on, `[n_layers, 1, width]`.

    Raises MisuseError for a vector that does not carry its sides' means.
    """
    if vector.mean_positive is None or vector.mean_negative is None:
        raise MisuseError(f"{vector.name!r} does not say what its sides' mean states were: extract it again")
    return (vector.mean_positive + vector.mean_negative)[:, None] / 2


def content(
    lm: LanguageModel,
    pairs: PairsOrPrompts,
    k: int = CONTENT_COMPONENTS,
    *,
    site: SiteName = RESID_POST,
    progress: Progress | None = None,
) -> Tensor:
    """What the questions are about: the first `k` principal components of their states, `[n_layers, k, width]`.

    States are read at each distinct prompt's last token and centred (arXiv 2604.02113, which takes k = 4).
    Raises MisuseError where there are too few prompts to give `k` components.
    """
    examples = {(str(e.prompt), e.system): e for e in pairs.examples}.values()
    if not 1 <= k < min(len(examples), lm.width(site) + 1):
        raise MisuseError(
            f"{pairs.name} has {len(examples)} different prompts, from which {k} content components cannot be taken"
        )
    texts = [encoded_example(lm, replace(example, completion=None)) for example in examples]
    states = capture(lm, texts, "prompt", site=site, progress=progress).states.cpu().double()
    centred = (states - states.mean(dim=0)).transpose(0, 1)
    components: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[:, :k].float()
    return components


def shared_directions(
    what: str | SteeringVector, vector: SteeringVector, lm: LanguageModel, pairs: PairsOrPrompts
) -> tuple[Tensor, str]:
    """The directions `[n_layers, k, width]` that `what` names, and how the metadata calls them.

    `mean` is the mean state, `content` what the prompts are about; anything else is a vector, or its file or name.
    Raises MisuseError where it is none of these, or of another site, ModelMismatchError where the vector is another
    model's.
    """
    if what == "mean":
        return mean_state(vector), "the mean state"
    if what == "content":
        return content(lm, pairs, site=vector.site), f"{CONTENT_COMPONENTS} content components"
    other = what if isinstance(what, SteeringVector) else load_vector(what)
    other.check(lm)
    if other.site != vector.site:
        raise MisuseError(
            f"{other.name!r} is at {other.site} and {vector.name!r} at {vector.site}: project out what was read "
            "where the vector was"
        )
    return other.direction[:, None], other.name


def _orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis of each layer's rows, `[n_layers, k, d]`; zero where rows depend on one another."""
    _, size, basis = torch.linalg.svd(rows, full_matrices=False)
    independent = size > 1e-6 * size[:, :1]
    kept: Tensor = basis * independent[..., None]
    return kept


def _rescaled(direction: Tensor, vector: SteeringVector) -> Tensor:
    """`direction` scaled and oriented by the gap of `vector`'s sides, where that is its scaling."""
    if vector.metadata.scaling != "gap" or vector.mean_positive is None or vector.mean_negative is None:
        return direction
    gap = (vector.mean_positive - vector.mean_negative).double()
    unit = normalize(direction, dim=1)
    return unit * (unit * gap).sum(dim=1, keepdim=True)
