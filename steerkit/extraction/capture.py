"""Reading states at a site of every layer: one batched pass, reduced inside the hook.

What leaves a hook is one `[batch, width]` state per layer, never a sequence of them. The states of single
examples are kept, on the model's device, instead of running sums: held-out separability, PCA and the probes
need them, and at n · n_layers · width · 4 bytes (7 MB for 50 pairs on a 135M model, 260 MB on a 70B one)
they are small beside the weights. Nothing is copied to the host here.

Texts that begin with the same prompt, as the two sides of a contrast pair do, form a family: one row that holds
the prompt once and every completion behind it. The mask lets a completion see the prompt and itself, and its
positions go on from the prompt's, so each token has the state that it has in its own text. That a model takes
such a row as it is meant is tried before it is relied on. Only the token prefix that the prompt has in common
with each of the texts counts as shared, so nothing changes but the time.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import einops
import torch
from torch import Tensor

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import EncodedText
from steerkit.core.sites import RESID_POST, Place, SiteName
from steerkit.engines.forward import Rows, in_passes, right_padded, run
from steerkit.engines.shortcuts import agree, aligns, holds, levels, random_ids
from steerkit.models import LanguageModel
from steerkit.models.sites import one_pass

Aggregation = Literal["last", "mean", "prompt"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

# The level that was tried, and the longest row of a family that holds.
_TRIED: weakref.WeakKeyDictionary[LanguageModel, tuple[int, float]] = weakref.WeakKeyDictionary()

Progress = Callable[[int, int], None]
Pooling = Callable[[Tensor], Tensor]
Spans = Sequence[tuple[int, int]]  # from a first position to a last one, which is excluded


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """States at a site of every decoder block, float32 on the model's device.

    `states` `[n, n_layers, width]`: each text's aggregated state. `norm` `[n_layers]`: mean ||h|| over all real
    positions of all texts but each text's first, whose norm is an outlier in most models; NaN where no text has a
    second token. Both are zero at a layer that has no such site.
    """

    states: Tensor
    norm: Tensor


def capture(
    lm: LanguageModel,
    texts: Sequence[EncodedText],
    aggregation: Aggregation = "last",
    *,
    site: SiteName = RESID_POST,
    batch_tokens: int = 1024,
    share_prompts: bool = True,
    progress: Progress | None = None,
) -> Activations:
    """Run the decoder (not the LM head) over `texts` and read one state per text and layer.

    `aggregation`: `last`, the completion's last token; `mean`, the mean over the completion's tokens;
    `prompt`, the prompt's last token. By default the states are the blocks' outputs, the last one's before the final
    norm; another `site` is read at every layer that has it.
    Texts are sorted by length, up to `batch_tokens` positions a batch, padding included; padding reaches no
    real token, so batching changes nothing, and neither does `share_prompts`, which runs a prompt once for all
    texts that begin with it where the model takes such rows. `progress` is called with the number of
    texts done and the number of all.

    Raises MisuseError for an unknown aggregation, a text without the tokens that it reads, or a site that the model has
    not, or a model in training mode.
    """
    lm.check_state()
    _check(texts, aggregation)
    reading = _Reading(lm, texts, aggregation, site)

    def length(family: Sequence[int]) -> int:
        return texts[family[0]].prompt_length + sum(texts[row].completion_length for row in family)

    families = [[row] for row in range(len(texts))]
    aligned = aligns(lm, max(len(text.ids) for text in texts))
    if share_prompts and aligned and aggregation != "prompt":
        together = _families(texts)
        limit = _longest_family_row(lm, max(map(length, together)))
        families = [part for f in together for part in ([f] if length(f) <= limit else [[row] for row in f])]
    done = 0
    for read, several in ((reading.run_families, True), (reading.run, False)):
        # By falling length, so that padding is least.
        some = sorted((f for f in families if (len(f) > 1) is several), key=length, reverse=True)
        for batch, norms in in_passes(some, length, batch_tokens, read, alike=not aligned):
            reading.norm_sum += norms
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


def _longest_family_row(lm: LanguageModel, longest: int) -> float:
    """How long a family's row may be for each of its tokens to have the state of its own text, up to `longest`.

    Tried on random tokens: a window or a chunk may count places in the row, so a trial crosses each that the config
    names and the texts reach.
    """
    reached, limit = _TRIED.get(lm, (0, math.inf))
    for level in levels(lm, longest):
        if reached < level < limit and not holds(partial(_takes_family_row, lm, level)):
            limit = level if reached else 0
        reached = max(reached, level)
    _TRIED[lm] = reached, limit
    return limit


def _takes_family_row(lm: LanguageModel, level: int) -> bool:
    prompt = random_ids(lm, level + level // 2).tolist()
    texts = [EncodedText((*prompt, *completion), len(prompt)) for completion in (prompt[:5], prompt[1:7])]
    alone, together = _Reading(lm, texts, "last"), _Reading(lm, texts, "last")
    for text in (0, 1):
        alone.run([[text]])
    together.run_families([[0, 1]])
    return agree(lm, together.states, alone.states)


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


class _Reading:
    """The states of some texts, filled pass by pass; each returns its sums of norms, for it may be run again.

    Indices go to the device before each pass.
    """

    def __init__(
        self,
        lm: LanguageModel,
        texts: Sequence[EncodedText],
        aggregation: Aggregation,
        site: SiteName = RESID_POST,
    ) -> None:
        self._lm = lm
        self._texts = texts
        self._aggregation = aggregation
        self._sites = {layer: lm.sites.at(Place(layer, site)) for layer in lm.sites.layers(site)}
        shape = (len(texts), lm.n_layers, lm.width(site))
        self.states = torch.zeros(shape, dtype=torch.float32, device=lm.device)
        self.norm_sum = torch.zeros(lm.n_layers, dtype=torch.float32, device=lm.device)

    def run(self, families: Sequence[Sequence[int]]) -> Tensor:
        """One pass over whole texts, families of one, padded on the right."""
        rows = [row for (row,) in families]
        texts = [self._texts[row] for row in rows]
        ends = [text.prompt_length if self._aggregation == "prompt" else len(text.ids) for text in texts]
        spans = [
            (text.prompt_length if self._aggregation == "mean" else end - 1, end)
            for text, end in zip(texts, ends, strict=True)
        ]
        counted = _spans([(1, len(text.ids)) for text in texts], self._lm.device)
        padded = right_padded([text.ids for text in texts], self._lm)
        return self._read(padded, rows, spans, counted, range(len(rows)))

    def run_families(self, families: Sequence[Sequence[int]]) -> Tensor:
        """One pass over a row for each family: its prompt, then its completions, which do not see each other."""
        lm, device = self._lm, self._lm.device
        rows = [_family_row([self._texts[row] for row in family]) for family in families]
        ids, mask, _ = right_padded([row.ids for row in rows], lm)
        positions, segments, weights = (
            torch.tensor([[*values, *[0] * (ids.shape[1] - len(values))] for values in column], device=device)
            for column in zip(*((row.positions, row.segments, row.weights) for row in rows), strict=True)
        )
        last = self._aggregation == "last"
        spans = [(end - 1 if last else start, end) for row in rows for start, end in row.completions]
        order = [text for family in families for text in family]
        held_in = [i for i, family in enumerate(families) for _ in family]
        seen = _family_mask(segments, mask, lm.dtype)
        return self._read(Rows(ids, seen, positions), order, spans, weights.float(), held_in)

    @torch.inference_mode()
    def _read(
        self, rows: Rows, texts: Sequence[int], spans: Spans, counted: Tensor, held_in: Sequence[int]
    ) -> Tensor:
        """Run `rows`, keep the mean over each text's span at every layer, and return the sums of norms `[layer]`.

        `held_in` says in which row of the batch each text is; `counted` `[batch, position]` weighs the positions
        in the norm.
        """
        lm = self._lm
        index = torch.tensor(texts, device=lm.device)
        pool = _pooling(spans, torch.tensor(held_in, device=lm.device), counted.shape)
        norms = torch.zeros_like(self.norm_sum)

        def read(layer: int, hidden: Tensor) -> None:
            hidden = hidden.to(lm.device)
            self.states[:, layer].index_copy_(0, index, pool(hidden))
            single = hidden.float() if hidden.dtype == torch.float64 else hidden
            each = torch.linalg.vector_norm(single, dim=-1, dtype=torch.float32)
            norms[layer] = (each * counted).sum()

        with one_pass({site: partial(read, layer) for layer, site in self._sites.items()}):
            run(lm, rows)
        return norms


def _pooling(spans: Spans, row_of: Tensor, shape: Sequence[int]) -> Pooling:
    """The mean over each text's span as a reduction `[batch, position, width]` -> `[text, width]` float32.

    `row_of` `[text]` is the row of the batch, `[batch, position]` in `shape`, that holds the text.
    """
    if all(stop - start == 1 for start, stop in spans):  # one position each: a gather, no arithmetic
        position = torch.tensor([start for start, _ in spans], device=row_of.device)
        return lambda hidden: hidden[row_of, position].float()
    weights = _spans(spans, row_of.device)
    share = weights.new_zeros(len(spans), *shape)
    share[torch.arange(len(spans)), row_of, : weights.shape[1]] = weights / weights.sum(dim=1, keepdim=True)
    return lambda hidden: einops.einsum(share, hidden.float(), "text row pos, row pos d -> text d")


@dataclass(frozen=True, slots=True)
class _FamilyRow:
    """A family as one row: token ids, positions, the segment of each token (0 the prompt, then each completion),
    its weight in the norms, and where each completion stands."""

    ids: list[int]
    positions: list[int]
    segments: list[int]
    weights: list[int]
    completions: list[tuple[int, int]]


def _family_row(texts: Sequence[EncodedText]) -> _FamilyRow:
    prompt = texts[0].prompt_length
    ids, positions = list(texts[0].ids[:prompt]), list(range(prompt))
    segments = [0] * prompt
    # A prompt's positions count once for each text that has them; the first position never does.
    weights = [0, *[len(texts)] * (prompt - 1)]
    completions = []
    for number, text in enumerate(texts, start=1):
        completions.append((len(ids), len(ids) + text.completion_length))
        ids += text.ids[prompt:]
        positions += range(prompt, len(text.ids))
        segments += [number] * text.completion_length
        weights += [1] * text.completion_length
    return _FamilyRow(ids, positions, segments, weights, completions)


def _family_mask(segments: Tensor, real: Tensor, dtype: torch.dtype) -> Tensor:
    """What each position may see, `[batch, 1, position, position]`: 0 where it may, else the lowest number.

    A position sees itself and what stands before it in the prompt or in its own segment. Padding on the right
    sees itself, which nobody reads; no real position sees it.
    """
    width = segments.shape[1]
    before = torch.ones(width, width, dtype=torch.bool, device=segments.device).tril()
    own = segments[:, :, None] == segments[:, None, :]
    in_prompt = (segments == 0)[:, None, :] & real[:, None, :]
    seen = before & (own | in_prompt)
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _spans(spans: Spans, device: torch.device) -> Tensor:
    """`[batch, position]` float32, as wide as the last stop: 1 from start to stop (excluded), else 0."""
    start, stop = torch.tensor(spans, device=device)[:, :, None].unbind(dim=1)
    position = torch.arange(max(stop for _, stop in spans), device=device)
    return ((position >= start) & (position < stop)).float()
