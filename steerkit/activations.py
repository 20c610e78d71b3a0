"""Reading residual-stream states: one batched pass, every layer, reduced inside the hook.

What leaves a hook is one `[batch, d_model]` state per layer, never a sequence of them. The states of single
examples are kept, on the model's device, instead of running sums: held-out separability, PCA and the probes
need them, and at n · n_layers · d_model · 4 bytes (7 MB for 50 pairs on a 135M model, 260 MB on a 70B one)
they are small beside the weights. Nothing is copied to the host here.

Texts that begin with the same prompt, as the two sides of a contrast pair do, form a family: the prompt is run
once and its keys and values serve every completion. Only the token prefix that the prompt has in common with
each of the texts counts as shared, so nothing changes but the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import einops
import torch
from torch import Tensor, nn

from steerkit.engines.cache import empty_cache, keeps_keys_and_values
from steerkit.engines.layout import left_padded
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
    share_prompts: bool = True,
    progress: Progress | None = None,
) -> Activations:
    """Run the decoder (not the LM head) over `texts` and read one state per text and layer.

    `aggregation`: `last`, the completion's last token; `mean`, the mean over the completion's tokens;
    `prompt`, the prompt's last token. The last layer's state is its block's output, before the final norm.
    Texts are sorted by length, up to `batch_tokens` positions a batch, padding included; padding reaches no
    real token, so batching changes nothing, and neither does `share_prompts`, which runs a prompt once for all
    texts that begin with it (unless the model keeps recurrent state). `progress` is called with the number of
    texts done and the number of all.

    Raises MisuseError for an unknown aggregation or a text without the tokens that it reads.
    """
    _check(texts, aggregation)
    reading = _Reading(lm, texts, aggregation)
    share = share_prompts and aggregation != "prompt" and keeps_keys_and_values(lm)
    families = _families(texts) if share else [[row] for row in range(len(texts))]
    done = 0
    for batch in _batches(families, texts, batch_tokens):
        with torch.inference_mode():
            if len(batch[0]) > 1:
                reading.run_families(batch)
            else:
                reading.run([row for (row,) in batch])
        done += sum(map(len, batch))
        if progress:
            progress(done, len(texts))
    return Activations(reading.states, reading.norm_sum / sum(len(text.ids) - 1 for text in texts))


def _check(texts: Sequence[EncodedText], aggregation: Aggregation) -> None:
    if aggregation not in AGGREGATIONS:
        raise MisuseError(f"unknown aggregation {aggregation!r}: it is one of {', '.join(AGGREGATIONS)}")
    for index, text in enumerate(texts):
        if aggregation == "prompt" and text.prompt_length == 0:
            raise MisuseError(f"text {index} has no prompt token to read")
        if aggregation != "prompt" and text.completion_length == 0:
            raise MisuseError(f"text {index} has no completion token to read: use aggregation 'prompt'")


def _families(texts: Sequence[EncodedText]) -> list[list[int]]:
    """Row numbers by shared prompt; a text without a prompt stands alone."""
    families: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    alone = []
    for row, text in enumerate(texts):
        if text.prompt_length:
            families[text.ids[: text.prompt_length]].append(row)
        else:
            alone.append([row])
    return [*families.values(), *alone]


def _batches(
    families: Sequence[Sequence[int]], texts: Sequence[EncodedText], batch_tokens: int
) -> Iterator[list[list[int]]]:
    """Families of one size (one text, or several) together, by falling length, so that padding is least."""

    def longest(family: Sequence[int]) -> int:
        return max(len(texts[row].ids) for row in family)

    for several in (True, False):
        waiting = sorted((list(f) for f in families if (len(f) > 1) is several), key=longest, reverse=True)
        while waiting:
            width, taken = longest(waiting[0]), 1
            rows = len(waiting[0])
            while taken < len(waiting) and (rows + len(waiting[taken])) * width <= batch_tokens:
                rows += len(waiting[taken])
                taken += 1
            yield waiting[:taken]
            waiting = waiting[taken:]


class _Reading:
    """The states and norms of some texts, filled batch by batch; indices go to the device before each pass."""

    def __init__(self, lm: LanguageModel, texts: Sequence[EncodedText], aggregation: Aggregation) -> None:
        self._lm = lm
        self._texts = texts
        self._aggregation = aggregation
        shape = (len(texts), lm.n_layers, lm.d_model)
        self.states = torch.empty(shape, dtype=torch.float32, device=lm.device)
        self.norm_sum = torch.zeros(lm.n_layers, dtype=torch.float32, device=lm.device)

    def run(self, rows: Sequence[int]) -> None:
        """One pass over whole texts, padded on the right: under a causal mask that reaches no real token."""
        texts = [self._texts[row] for row in rows]
        ids, mask = self._padded([text.ids for text in texts])
        ends = [text.prompt_length if self._aggregation == "prompt" else len(text.ids) for text in texts]
        spans = [
            (text.prompt_length if self._aggregation == "mean" else end - 1, end)
            for text, end in zip(texts, ends, strict=True)
        ]
        counted = _spans([(1, len(text.ids)) for text in texts], self._lm.device)
        with _read_blocks(self._lm.blocks, self._reader(rows, spans, counted)):
            self._lm.decoder(input_ids=ids, attention_mask=mask, use_cache=False)

    def run_families(self, families: Sequence[Sequence[int]]) -> None:
        """Two passes: each family's prompt, padded on the left, then every completion behind its prompt."""
        lm, device = self._lm, self._lm.device
        prompts = [self._texts[family[0]].ids[: self._texts[family[0]].prompt_length] for family in families]
        ids, mask, positions = left_padded(prompts, lm)
        sizes = torch.tensor([len(family) for family in families], device=device)
        # A prompt's positions count once for each text that has them; the first position never does.
        counted = mask * sizes[:, None] * (positions > 0)
        cache = empty_cache()
        with _read_blocks(lm.blocks, self._reader((), (), counted.float())):
            lm.decoder(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        rows = [row for family in families for row in family]
        owner = torch.repeat_interleave(torch.arange(len(families), device=device), sizes)
        cache.batch_select_indices(owner)
        texts = [self._texts[row] for row in rows]
        ids, more = self._padded([text.ids[text.prompt_length :] for text in texts])
        lengths = torch.tensor([text.prompt_length for text in texts], device=device)
        spans = [
            (0 if self._aggregation == "mean" else text.completion_length - 1, text.completion_length)
            for text in texts
        ]
        with _read_blocks(lm.blocks, self._reader(rows, spans, more.float())):
            lm.decoder(
                input_ids=ids,
                attention_mask=torch.cat([mask[owner], more], dim=1),
                position_ids=lengths[:, None] + torch.arange(ids.shape[1], device=device),
                past_key_values=cache,
                use_cache=True,
            )

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask (true where real), `[batch, position]`, starts aligned."""
        width = max(map(len, texts))
        ids = torch.tensor([[*text, *[self._lm.pad_id] * (width - len(text))] for text in texts])
        lengths = torch.tensor([len(text) for text in texts])[:, None]
        return ids.to(self._lm.device), (torch.arange(width) < lengths).to(self._lm.device)

    def _reader(
        self, rows: Sequence[int], spans: Sequence[tuple[int, int]], counted: Tensor
    ) -> Callable[[int, Tensor], None]:
        """What a hook does with one batch's residual stream: the mean over each row's span, and the norms.

        `counted` `[batch, position]` weighs the positions in the norm; without `rows` only that is read.
        """
        row_index = torch.tensor(rows, device=self._lm.device)
        weights = _spans(spans, self._lm.device) if rows else None
        pool = None if weights is None else _pooling(weights, spans)

        def read(layer: int, hidden: Tensor) -> None:
            if pool is not None:
                self.states[:, layer].index_copy_(0, row_index, pool(hidden))
            norms = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
            self.norm_sum[layer] += (norms * counted).sum()

        return read


def _pooling(weights: Tensor, spans: Sequence[tuple[int, int]]) -> Pooling:
    """The mean over each row's span as a reduction `[batch, position, d_model]` -> `[batch, d_model]` float32."""
    if all(stop - start == 1 for start, stop in spans):  # one position each: a gather, no arithmetic
        row, position = torch.arange(len(spans), device=weights.device), weights.argmax(dim=1)
        return lambda hidden: hidden[row, position].float()
    share = weights / weights.sum(dim=1, keepdim=True)
    return lambda hidden: einops.einsum(
        share, hidden[:, : share.shape[1]].float(), "row pos, row pos d -> row d"
    )


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
