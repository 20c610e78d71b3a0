"""Cheap predictors of where a vector will steer, from the vector alone.

How well a probe tells the two sides apart does not say it: probes are near perfect at layers where adding the
direction does nothing. Beside the pairs' agreement (`estimators.agreement`) stands the logit lens: does the
direction, read through the unembedding, promote the tokens that positive completions begin with? Both are predictors,
to be checked against a sweep.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steerkit.core.prompts import EncodedText
from steerkit.models import LanguageModel


def has_logit_lens(lm: LanguageModel) -> bool:
    """Return whether the model's unembedding reads states of the residual stream's width."""
    head = lm.hf.get_output_embeddings()
    return getattr(head, "in_features", None) == lm.d_model


def logit_lens_alignment(
    lm: LanguageModel, directions: Tensor, texts: Sequence[EncodedText], positive: Sequence[bool]
) -> Tensor:
    """How much each layer's direction promotes the first tokens of positive completions over those of negative ones.

    `directions` `[n_layers, d_model]` are read through the unembedding without the final norm, and standardised over
    the vocabulary; returned is, per layer `[n_layers]` on the CPU, the mean over positive texts' first completion
    tokens minus that over negative ones', in standard deviations (logit lens: nostalgebraist 2020; its use on
    directions: Geva et al. 2022, arXiv 2203.14680).
    """
    head = lm.hf.get_output_embeddings()  # called, not read: its weight may be offloaded or quantised
    dtype = head.weight.dtype if head.weight.is_floating_point() else lm.dtype
    nothing = torch.zeros_like(directions[:1])  # whose logits are the head's bias
    with torch.inference_mode():
        logits = head(torch.cat([directions, nothing]).to(lm.device, dtype)).float()
        logits = logits[:-1] - logits[-1:]
        spread = logits.std(dim=1, keepdim=True).clamp_min(1e-12)
        standard = (logits - logits.mean(dim=1, keepdim=True)) / spread
        first = torch.tensor([text.ids[text.prompt_length] for text in texts], device=standard.device)
        side = torch.tensor(list(positive), device=standard.device)
        gap: Tensor = standard[:, first[side]].mean(dim=1) - standard[:, first[~side]].mean(dim=1)
        return gap.cpu()
