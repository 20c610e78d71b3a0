"""Steered greedy decoding written the slow and plain way: no cache, no batch, raw hooks, explicit positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.engines.base import Completion
from steerkit.engines.context import steer
from steerkit.models import LanguageModel

Edit = Callable[[Tensor], Tensor]
# What is edited: a block's output, by its layer, or the "in" or the "out" of any module.
Spot = int | tuple[nn.Module, str]
# Decides from the token ids so far and the prompt's length at which positions a row is steered.
Where = Callable[[Sequence[int], int], list[int]]


def completion_positions(ids: Sequence[int], prompt_length: int) -> list[int]:
    return list(range(prompt_length - 1, len(ids)))


def prompt_positions(_ids: Sequence[int], prompt_length: int) -> list[int]:
    return list(range(prompt_length - 1))


def all_positions(ids: Sequence[int], _prompt_length: int) -> list[int]:
    return list(range(len(ids)))


def steered_logits(
    lm: LanguageModel, ids: Sequence[int], edits: Sequence[tuple[Spot, Edit, list[int]]]
) -> Tensor:
    """Logits `[position, vocabulary]` of one text, each edit `(spot, function, positions)` applied in order."""

    def edited(hidden: Tensor, edit: Edit, positions: list[int]) -> Tensor:
        hidden = hidden.clone()
        for position in positions:
            hidden[0, position] = edit(hidden[0, position])
        return hidden

    def install(spot: Spot, edit: Edit, positions: list[int]) -> Any:
        module, side = (lm.blocks[spot], "out") if isinstance(spot, int) else spot

        def after(_module: object, _args: object, output: Any) -> Any:
            if isinstance(output, tuple | list):
                return type(output)([edited(output[0], edit, positions), *output[1:]])
            return edited(output, edit, positions)

        def before(_module: object, args: Any, kwargs: Any) -> Any:
            if args:
                return (edited(args[0], edit, positions), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": edited(kwargs["hidden_states"], edit, positions)}

        if side == "out":
            return module.register_forward_hook(after)
        return module.register_forward_pre_hook(before, with_kwargs=True)

    handles = [install(*edit) for edit in edits]
    try:
        with torch.inference_mode():
            return lm.hf(torch.tensor([list(ids)]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def greedy(
    lm: LanguageModel, prompt_ids: Sequence[int], edits: Sequence[tuple[Spot, Edit, Where]], tokens: int
) -> list[int]:
    """Greedy completion of one prompt, everything recomputed at every step."""
    ids = list(prompt_ids)
    for _ in range(tokens):
        placed = [(spot, edit, where(ids, len(prompt_ids))) for spot, edit, where in edits]
        token = int(steered_logits(lm, ids, placed)[-1].argmax())
        if token in lm.stop_ids:
            break
        ids.append(token)
    return ids[len(prompt_ids) :]


def same_or_tied(lm: LanguageModel, a: Completion, b: Completion) -> bool:
    """Equal completions, or unequal ones whose two candidates at the first difference are within 1e-3."""
    if a.token_ids == b.token_ids:
        return True
    shared = next(
        (i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=False)) if x != y),
        min(len(a.token_ids), len(b.token_ids)),
    )
    prompt = lm.renderer.encode_prompt(a.request.prompt)
    with steer(lm, *a.request.interventions), torch.inference_mode():
        top = (
            lm.hf.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt)),
                max_new_tokens=shared + 1,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
            .logits[shared][0]
            .topk(2)
            .values
        )
    return float(top[0] - top[1]) < 1e-3
