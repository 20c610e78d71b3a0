"""States of what a model writes itself: tokens of its own unsteered completion of each labelled prompt.

A probe of prompts says what a question looks like; what reads a row while it is being written, as the trigger of a
policy does, wants one that was fitted on tokens of completions, for single tokens are what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerkit.core.errors import InputError
from steerkit.core.sites import RESID_POST, Place, SiteName
from steerkit.engines.base import Decoding, Request
from steerkit.engines.catalogue import engine_for
from steerkit.engines.forward import in_passes, right_padded, run
from steerkit.engines.shortcuts import aligns
from steerkit.extraction.capture import Progress
from steerkit.extraction.pairs import Example, LabelledPrompts
from steerkit.models import LanguageModel
from steerkit.models.sites import one_pass

TOKENS_EACH = 4  # of a completion, evenly spread from its first to its last
BATCH_TOKENS = 1024


def completion_states(
    lm: LanguageModel,
    data: LabelledPrompts,
    decoding: Decoding,
    progress: Progress | None = None,
    site: SiteName = RESID_POST,
) -> tuple[NDArray[np.float32], tuple[Example, ...]]:
    """Return states `[TOKENS_EACH · n, n_layers, width]` at tokens of the own completions, and their examples.

    Each example of `data.examples` is there as often, once for each of its tokens, so its group holds them together.
    A completion without a token is read at the prompt's last one. Raises as `probe_fit.fit_probe` does.
    """
    if len({example.positive for example in data.examples}) < 2:
        raise InputError(f"{data.name}: there must be both positive and negative examples")
    texts, places = _written(lm, data, decoding)
    states = torch.zeros(
        (len(texts), TOKENS_EACH, lm.n_layers, lm.width(site)), dtype=torch.float32, device=lm.device
    )
    sites = {layer: lm.sites.at(Place(layer, site)) for layer in lm.sites.layers(site)}

    @torch.inference_mode()
    def read(rows: Sequence[int]) -> None:
        index = torch.tensor(rows, device=lm.device)
        at = torch.tensor([places[row] for row in rows], device=lm.device)

        def keep(layer: int, hidden: Tensor) -> None:
            hidden = hidden.to(lm.device)
            states[index, :, layer] = hidden[torch.arange(len(rows), device=lm.device)[:, None], at].float()

        with one_pass({there: partial(keep, layer) for layer, there in sites.items()}):
            run(lm, right_padded([texts[row] for row in rows], lm))

    def length(row: int) -> int:
        return len(texts[row])

    longest_first = sorted(range(len(texts)), key=length, reverse=True)
    done = 0
    for rows, _ in in_passes(
        longest_first, length, BATCH_TOKENS, read, alike=not aligns(lm, max(map(len, texts)))
    ):
        done += len(rows)
        if progress:
            progress(done, len(texts))
    if not states.isfinite().all():
        raise InputError(
            "the model's states hold NaN or Inf: load it in float32 or bfloat16, and check its weights"
        )
    several = tuple(example for example in data.examples for _ in range(TOKENS_EACH))
    return states.flatten(0, 1).cpu().numpy(), several


def _written(
    lm: LanguageModel, data: LabelledPrompts, decoding: Decoding
) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """Each prompt with the model's completion as token ids, and the positions that are read of it."""
    requests = [
        Request(example.prompt, decoding=decoding, system=example.system, key=place)
        for place, example in enumerate(data.examples)
    ]
    written = {done.request.key: done.token_ids for done in engine_for(lm).generate(requests)}
    texts, places = [], []
    for place, request in enumerate(requests):
        prompt = lm.renderer.encode_prompt(request.prompt, request.system)
        texts.append((*prompt, *written[place]))
        last = len(texts[-1]) - 1
        places.append(np.linspace(min(len(prompt), last), last, TOKENS_EACH).round().astype(int).tolist())
    return texts, places
