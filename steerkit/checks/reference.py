"""The slow and plain way: one text a pass, no cache, raw hooks on the model's blocks. Nothing here runs steerkit's own.

What it takes from a loaded model is the list of its blocks, and those are held against transformers' own hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Blocks = Sequence[nn.Module]
Scope = Literal["completion", "prompt", "all"]
Kind = Literal["decoder", "encoder", "encoder–decoder", "not of text alone"]


@dataclass(frozen=True, eq=False)
class Edit:
    """Add `push`, `[d_model]`, to the output of block `layer` at the positions of a scope."""

    layer: int
    push: Tensor
    scope: Scope = "completion"

    def span(self, prompt: int, length: int) -> tuple[int, int]:
        """Return the first position and the one past the last, of a text of `length` tokens, `prompt` of them given."""
        return {"completion": (prompt - 1, length), "prompt": (0, prompt - 1), "all": (0, length)}[self.scope]


class Verdict(NamedTuple):
    """The first of a row's tokens that the reference would not take (None: all right), and how many were tied."""

    wrong: int | None
    tied: int


def stream_of(output: Any) -> Tensor:
    """Return the residual stream in what a block returned."""
    return output if isinstance(output, Tensor) else output[0]


@contextmanager
def hooked(blocks: Blocks, act: Callable[[int, Tensor], None], layers: Sequence[int]) -> Iterator[None]:
    """Let `act` see, and write into, a copy of the stream behind each of `layers`, which goes on in its place."""

    def hook(layer: int) -> Callable[..., Any]:
        def run(_module: nn.Module, _args: Any, output: Any) -> Any:
            stream = stream_of(output).clone()
            act(layer, stream)
            if isinstance(output, Tensor):
                return stream
            return type(output)((stream, *output[1:]))

        return run

    handles = [blocks[layer].register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def device_of(hf: Any) -> torch.device:
    """Return where token ids go."""
    found: torch.device = next(each.device for each in hf.parameters() if each.device.type != "meta")
    return found


@torch.inference_mode()
def kind_of(hf: Any) -> tuple[Kind, str]:
    """Return what a plain transformers model is, and if it cannot run on token ids alone, the reason.

    In a decoder no later token changes what stands before it, nor that there is one.
    """
    if hf.config.is_encoder_decoder:
        return "encoder–decoder", ""
    ids = torch.arange(5, 45, device=device_of(hf))[None]
    try:
        found, changed, part = (
            hf(input_ids=each, use_cache=False).logits
            for each in (ids, torch.cat([ids[:, :-1], ids[:, :1]], dim=1), ids[:, :20])
        )
    except Exception as error:  # an image that is missing is any kind of error
        return "not of text alone", f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
    if found.shape[:2] != ids.shape:
        return "not of text alone", f"it gives logits of shape {list(found.shape)} for {ids.shape[1]} tokens"
    same = torch.allclose(found[:, :-1], changed[:, :-1], atol=1e-4)
    same &= torch.allclose(found[:, :20], part, atol=1e-4)
    return ("decoder" if same else "encoder"), ""


@torch.inference_mode()
def logits(
    hf: Any, blocks: Blocks, ids: Sequence[int], edits: Sequence[Edit] = (), prompt: int = 0
) -> Tensor:
    """Return the logits `[position, vocabulary]` of one text, whose first `prompt` tokens were given."""

    def act(layer: int, stream: Tensor) -> None:
        for edit in edits:
            if edit.layer == layer:
                start, stop = edit.span(prompt, len(ids))
                stream[0, start:stop] += edit.push.to(stream)

    with hooked(blocks, act, sorted({edit.layer for edit in edits})):
        found: Tensor = hf(input_ids=torch.tensor([list(ids)], device=device_of(hf)), use_cache=False).logits
    return found[0].float()


@torch.inference_mode()
def states(hf: Any, blocks: Blocks, ids: Sequence[int]) -> Tensor:
    """Return the stream behind every block, `[layer, position, d_model]` float32, of one text."""
    found: dict[int, Tensor] = {}
    with hooked(blocks, lambda layer, stream: found.update({layer: stream[0].float()}), range(len(blocks))):
        hf(input_ids=torch.tensor([list(ids)], device=device_of(hf)), use_cache=False)
    return torch.stack([found[layer].to(found[0].device) for layer in range(len(blocks))])


@torch.inference_mode()
def hidden_states(hf: Any, ids: Sequence[int]) -> list[Tensor] | None:
    """Return transformers' own hidden states of one text; None where it gives none."""
    found = hf(
        input_ids=torch.tensor([list(ids)], device=device_of(hf)), use_cache=False, output_hidden_states=True
    )
    all_states = getattr(found, "hidden_states", None)
    return None if all_states is None else [each[0].float() for each in all_states]


def judge(
    found: Tensor, tokens: Sequence[int], prompt: int, stops: Sequence[int], limit: int, tolerance: float
) -> Verdict:
    """Return whether greedy decoding would have taken these tokens, by the logits `found` of prompt and tokens.

    In a causal model that is what decoding one token at a time would have given. `tokens` are without the one that
    ended them; fewer than `limit` must have been ended by one of `stops`. Two logits within `tolerance` are tied.
    """
    tied = 0
    for place in range(min(len(tokens) + 1, limit)):
        row = found[prompt - 1 + place]
        allowed = list(stops) if place == len(tokens) else [tokens[place]]
        if not allowed or (place < len(tokens) and tokens[place] in stops):
            return Verdict(place, tied)
        short = float(row.max() - row[allowed].max())
        if not short <= tolerance:  # NaN is wrong too
            return Verdict(place, tied)
        tied += short > 0
    return Verdict(None, tied)


@torch.inference_mode()
def generate(
    hf: Any,
    prompts: Sequence[Sequence[int]],
    new: int,
    stops: Sequence[int],
    *,
    pad: int = 0,
    use_cache: bool = True,
    blocks: Blocks = (),
    edits: Sequence[Edit] = (),
) -> list[list[int]]:
    """Return what the model's own greedy `generate` writes for left-padded prompts, edited by raw hooks.

    A hook finds its positions by counting passes: pass n ends at the n-th token behind the prompt, with a cache or
    without.
    """
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    device = device_of(hf)
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    real = torch.arange(width, device=device) >= torch.tensor(
        [[width - len(p)] for p in prompts], device=device
    )
    passes = dict.fromkeys((edit.layer for edit in edits), 0)

    def act(layer: int, stream: Tensor) -> None:
        end = width + passes[layer]
        passes[layer] += 1
        first = end - stream.shape[1]
        for edit in (edit for edit in edits if edit.layer == layer):
            start, stop = edit.span(width, end)
            place = torch.arange(first, end, device=stream.device)
            chosen = ((place >= start) & (place < stop))[None].repeat(len(prompts), 1)
            inside = place < width
            chosen[:, inside] &= real.to(stream.device)[:, place[inside]]
            stream[chosen] += edit.push.to(stream)

    settings = GenerationConfig(
        max_new_tokens=new,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        use_cache=use_cache,
        eos_token_id=list(stops) or None,
        pad_token_id=pad,
    )
    own, hf.generation_config = hf.generation_config, settings  # what settings leave open is taken from there
    try:
        with hooked(blocks, act, list(passes)):
            written = hf.generate(input_ids=ids, attention_mask=real.long(), generation_config=settings)
    finally:
        hf.generation_config = own
    return [without_stop(row, stops) for row in written[:, width:].tolist()]


def without_stop(tokens: Sequence[int], stops: Sequence[int]) -> list[int]:
    """Return the tokens before the first that ends a completion."""
    return list(tokens[: next((i for i, token in enumerate(tokens) if token in stops), len(tokens))])
