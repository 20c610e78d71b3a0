"""Choosing the next token, row by row: greedy, or nucleus sampling whose randomness belongs to the row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from steerkit.engines.base import Decoding


def row_uniforms(decoding: Decoding, prompt_ids: Sequence[int], sample: int) -> np.ndarray:
    """The random numbers of one row, `[max_new_tokens]` in [0, 1): a function of seed, prompt and sample alone.

    Packing cannot change them, and the steering does not enter: all cells of a grid draw the same numbers for
    an item, so that their comparison is paired.
    """
    key = f"{decoding.seed}/{sample}/{','.join(map(str, prompt_ids))}"
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    return np.random.Generator(np.random.PCG64(seed)).random(decoding.max_new_tokens, dtype=np.float32)


def next_tokens(
    logits: Tensor, temperature: Tensor | None, top_p: Tensor | None, uniforms: Tensor | None
) -> Tensor:
    """The next token of each row, `[row]`, from `logits` `[row, vocabulary]`.

    `temperature`, `top_p` and `uniforms` are `[row]`; rows of temperature 0 are greedy, and None means that
    all are. A sampled row takes the token at which the cumulative probability, most likely token first,
    passes its uniform number; the nucleus is the fewest tokens whose probability reaches `top_p`.
    """
    # As argmax, ties and NaN too, in a fifth of its time in bfloat16 on a CPU.
    greedy = logits.max(-1).indices
    if temperature is None or top_p is None or uniforms is None:
        return greedy
    scaled = logits.float() / temperature.clamp_min(1e-6)[:, None]
    probabilities, order = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = probabilities.cumsum(-1) - probabilities
    nucleus = torch.where(before < top_p[:, None], probabilities, 0.0)
    reached = nucleus.cumsum(-1)
    place = (reached <= uniforms[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    sampled = order.gather(-1, place.clamp_max(order.shape[-1] - 1)).squeeze(-1)
    return torch.where(temperature > 0, sampled, greedy)
