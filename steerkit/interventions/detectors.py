"""Detectors: registered functions that map prompts to probabilities, for gates that decide once per row.

    @gate("mentions-a-year")
    def mentions_a_year(prompts, lm):
        \"\"\"Whether the prompt mentions a year.\"\"\"
        return [1.0 if re.search(r"\\b[12][0-9]{3}\\b", text_of(prompt)) else 0.0 for prompt in prompts]

A detector gets the prompts as they were asked, unsteered and without any prompt edit, and the model that will run them.
It returns one probability a prompt. A spec string names it: `gate=mentions-a-year,threshold=0.5`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from steerkit.core.prompts import Prompt
from steerkit.core.registry import GATES

if TYPE_CHECKING:
    from steerkit.models import LanguageModel

Detector = Callable[[Sequence[Prompt], "LanguageModel"], Sequence[float]]


def gate(name: str) -> Callable[[Detector], Detector]:
    """Register a detector `(prompts, lm) -> probabilities` under `name`."""
    return functools.partial(GATES.add, name)


def text_of(prompt: Prompt) -> str:
    """Return what a prompt asks: the text, or the content of the last message of a conversation."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


@gate("entropy")
def entropy(prompts: Sequence[Prompt], lm: LanguageModel) -> Sequence[float]:
    """Entropy of the first token of the unsteered reply, as a share of its most, log |V|."""
    import torch

    shares = []
    for prompt in prompts:
        ids = torch.tensor([lm.renderer.encode_prompt(prompt)], device=lm.device)
        with torch.inference_mode():
            logits = lm.hf(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
        log_p = logits.log_softmax(-1)
        shares.append(float(-(log_p.exp() * log_p).sum()) / math.log(logits.shape[-1]))
    return shares
