"""Reading residual-stream states: one batched forward pass, every layer, reduced inside the hook.

What leaves a hook is one `[batch, d_model]` state per layer, never a sequence of them. The states of single
examples are kept, on the model's device, instead of running sums: held-out separability, PCA and the probes
need them, and at n · n_layers · d_model · 4 bytes (7 MB for 50 pairs on a 135M model, 260 MB on a 70B one)
they are small beside the weights. Nothing is copied to the host here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import einops
import torch
from torch import Tensor, nn

from steerkit.errors import MisuseError
from steerkit.models import LanguageModel
from steerkit.models.sites import hidden_of
from steerkit.prompts import EncodedText

Aggregation = Literal["last", "mean", "prompt"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

Progress = Callable[[int, int], None]
Pooling = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """Residual-stream states, float32 on the model's device.

    `states` `[n, n_layers, d_model]`: each text's aggregated state at the output of every decoder block.
    `norm` `[n_layers]`: mean ||h|| over all real positions of all texts but each text's first, whose norm is
    an outlier in most models; NaN where no text has a second token.
    """

    states: Tensor
    norm: Tensor


def capture(
    lm: LanguageModel,
    texts: Sequence[EncodedText],
    aggregation: Aggregation = "last",
    *,
    batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> Activations:
    """Run the decoder (not the LM head) over `texts` and read one state per text and layer.

    `aggregation`: `last`, the completion's last token; `mean`, the mean over the completion's tokens;
    `prompt`, the prompt's last token. The last layer's state is its block's output, before the final norm.
    Texts are sorted by length and padded on the right, up to `batch_tokens` positions a batch, padding
    included: under a causal mask padding on the right reaches no real token, so batching changes nothing.
    `progress` is called with the number of texts done and the number of all.

    Raises MisuseError for an unknown aggregation or a text without the tokens that it reads.
    """
    _check(texts, aggregation)
    states = torch.empty(len(texts), lm.n_layers, lm.d_model, dtype=torch.float32, device=lm.device)
    norm_sum = torch.zeros(lm.n_layers, dtype=torch.float32, device=lm.device)
    done = 0
    for rows in _batches([len(text.ids) for text in texts], batch_tokens):
        batch = [texts[row] for row in rows]
        read = _reader(batch, rows, aggregation, states, norm_sum)
        ids, mask = _padded(batch, lm)
        with torch.inference_mode(), _read_blocks(lm.blocks, read):
            lm.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        done += len(rows)
        if progress:
            progress(done, len(texts))
    return Activations(states, norm_sum / sum(len(text.ids) - 1 for text in texts))


def _check(texts: Sequence[EncodedText], aggregation: Aggregation) -> None:
    if aggregation not in AGGREGATIONS:
        raise MisuseError(f"unknown aggregation {aggregation!r}: it is one of {', '.join(AGGREGATIONS)}")
    for index, text in enumerate(texts):
        if aggregation == "prompt" and text.prompt_length == 0:
            raise MisuseError(f"text {index} has no prompt token to read")
        if aggregation != "prompt" and text.completion_length == 0:
            raise MisuseError(f"text {index} has no completion token to read: use aggregation 'prompt'")


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers by falling length, so that the largest batch comes first and padding is least."""
    rows = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while rows:
        size = max(1, batch_tokens // lengths[rows[0]])
        yield rows[:size]
        rows = rows[size:]


def _padded(batch: Sequence[EncodedText], lm: LanguageModel) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, `[batch, position]`, padded on the right."""
    width = max(len(text.ids) for text in batch)
    ids = torch.tensor([[*text.ids, *[lm.pad_id] * (width - len(text.ids))] for text in batch])
    lengths = torch.tensor([len(text.ids) for text in batch])
    mask = torch.arange(width) < lengths[:, None]
    return ids.to(lm.device), mask.long().to(lm.device)


def _reader(
    batch: Sequence[EncodedText],
    rows: Sequence[int],
    aggregation: Aggregation,
    states: Tensor,
    norm_sum: Tensor,
) -> Callable[[int, Tensor], None]:
    """What a hook does with the residual stream of one batch; its indices are on the device beforehand."""
    device = states.device
    pool = _pooling(batch, aggregation, device)
    row_index = torch.tensor(rows, device=device)
    counted = _spans([(1, len(text.ids)) for text in batch], device)

    def read(layer: int, hidden: Tensor) -> None:
        states[:, layer].index_copy_(0, row_index, pool(hidden))
        norms = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
        norm_sum[layer] += (norms * counted).sum()

    return read


def _pooling(batch: Sequence[EncodedText], aggregation: Aggregation, device: torch.device) -> Pooling:
    """An aggregation as a reduction `[batch, position, d_model]` -> `[batch, d_model]` float32."""
    if aggregation == "mean":
        spans = _spans([(text.prompt_length, len(text.ids)) for text in batch], device)
        weights = spans / spans.sum(dim=1, keepdim=True)
        return lambda hidden: einops.einsum(weights, hidden.float(), "row pos, row pos d -> row d")
    ends = [text.prompt_length if aggregation == "prompt" else len(text.ids) for text in batch]
    position = torch.tensor(ends, device=device) - 1
    row = torch.arange(len(batch), device=device)
    return lambda hidden: hidden[row, position].float()


def _spans(spans: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """`[batch, position]` float32, as wide as the last stop: 1 from start to stop (excluded), else 0."""
    start, stop = torch.tensor(spans, device=device)[:, :, None].unbind(dim=1)
    position = torch.arange(max(stop for _, stop in spans), device=device)
    return ((position >= start) & (position < stop)).float()


@contextmanager
def _read_blocks(blocks: Sequence[nn.Module], read: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While open, `read(layer, hidden)` sees the stream `[batch, position, d_model]` after each block."""

    def hook(layer: int, _block: nn.Module, _inputs: Any, output: Any) -> None:
        read(layer, hidden_of(output))

    handles = [block.register_forward_hook(partial(hook, layer)) for layer, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
