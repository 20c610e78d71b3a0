"""The forward room: padded texts through the model once, with hooks that read or edit the residual stream.

1. `run` is the decoder without its LM head, `logits` the model with it at the newest positions. Both take padded `Rows`
   and, where something was run before, the cache that holds it.
2. What is read or edited on the way goes through `models.sites.on_sites`, a row-bound table included.
3. Many texts go in passes (`in_passes`), which are halved when memory runs out.
4. Gradients flow where `differentiable` is open.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.prompts import EncodedText
from steerkit.core.sites import RESID_POST, Place, SiteName
from steerkit.models import LanguageModel
from steerkit.models.sites import one_pass

T = TypeVar("T")
R = TypeVar("R")
KeysAndValues = list[tuple[Tensor, Tensor]]

PROMPTS_A_PASS = 16
NO_PROMPT = (
    "a prompt shares no token with its completion, so nothing predicts the first token: give a longer prompt"
)


class Rows(NamedTuple):
    """A batch of texts: token ids, mask (true where real) and positions, each `[row, position]`.

    Without positions the model counts them from 0.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor | None = None


def right_padded(texts: Sequence[Sequence[int]], lm: LanguageModel) -> Rows:
    """Return texts with their starts aligned: under a causal mask no real token sees the padding behind it."""
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[lm.pad_id] * (width - len(text))] for text in texts])
    lengths = torch.tensor([len(text) for text in texts])[:, None]
    return Rows(ids.to(lm.device), (torch.arange(width) < lengths).to(lm.device))


def left_padded(texts: Sequence[Sequence[int]], lm: LanguageModel) -> Rows:
    """Return texts with their ends aligned.

    At least one position wide: a model cannot run on none, even where every text is empty.
    """
    width = max(1, *map(len, texts))
    ids = torch.tensor([[lm.pad_id] * (width - len(text)) + list(text) for text in texts], device=lm.device)
    lengths = torch.tensor([len(text) for text in texts], device=lm.device)
    positions = torch.arange(width, device=lm.device)[None] - (width - lengths)[:, None]
    return Rows(ids, positions >= 0, positions.clamp_min(0))


def chunk_by_tokens(items: Sequence[T], length: Callable[[T], int], budget: int) -> list[T]:
    """Return the leading items whose padded batch stays within `budget` tokens; at least one."""
    longest = 0
    for count, item in enumerate(items):
        longest = max(longest, length(item))
        if count and longest * (count + 1) > budget:
            return list(items[:count])
    return list(items)


def ran_out(error: RuntimeError) -> bool:
    """Return whether memory could not be had. PyTorch has a class of its own for that on accelerators only."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def in_passes(
    items: Sequence[T], length: Callable[[T], int], tokens: int, run: Callable[[Sequence[T]], R]
) -> Iterator[tuple[Sequence[T], R]]:
    """Run the items in order, at most `tokens` padded tokens (or one item) a pass; each pass with what it gave.

    A pass that memory does not hold is tried again with half its items, and so are those behind it; where it does
    not hold a single one, SteerkitError is raised. `run` may be called again with items that it has seen.
    """
    waiting = items
    while waiting:
        some = chunk_by_tokens(waiting, length, tokens)
        try:
            found = run(some)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            if len(some) == 1:
                raise SteerkitError(
                    f"out of memory with a single text of {length(some[0])} tokens: shorten it, or use a smaller "
                    "number format"
                ) from error
            tokens = max(map(length, some)) * (len(some) // 2)
            continue
        yield some, found
        waiting = waiting[len(some) :]


def empty_cache() -> Cache:
    """Return a cache to prefill: every layer keeps all positions, sliding windows are left to the mask."""
    return Cache(layer_class_to_replicate=DynamicLayer)


def growing_cache(states: KeysAndValues) -> Cache:
    """Return a cache that holds `states` and concatenates: gradients and forward mode do not follow writes in place."""
    cache = empty_cache()
    for layer, (keys, values) in enumerate(states):
        cache.update(keys, values, layer)
    return cache


@contextmanager
def alone(lm: LanguageModel) -> Iterator[None]:
    """Claim the model for this thread. Raises SteerkitError while `sk.steer` is open on it."""
    lm.check_owner()
    if lm.is_steered:
        raise SteerkitError(
            "this applies steerings of its own, or none, but sk.steer is open on the model: close it first"
        )
    with lm.steered_by_this_thread():
        yield


@contextmanager
def differentiable(lm: LanguageModel) -> Iterator[None]:
    """Let gradients reach what hooks add, whatever the caller has switched off, and no parameter.

    So nothing is kept for the blocks below a hook; the parameters' flags come back at the end.
    """
    trainable = [parameter for parameter in lm.hf.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def run(lm: LanguageModel, rows: Rows, cache: Cache | None = None) -> None:
    """Run the decoder alone; its keys and values go into `cache`, behind what that holds."""
    lm.decoder(**_inputs(rows, cache))


def logits(lm: LanguageModel, rows: Rows, newest: int = 0, cache: Cache | None = None) -> Tensor:
    """Return the logits `[row, position, vocabulary]` of the `newest` positions (0: of all)."""
    found: Tensor = lm.hf(**_inputs(rows, cache), logits_to_keep=newest).logits
    return found


def prefill(lm: LanguageModel, rows: Rows) -> KeysAndValues:
    """Run the decoder and return the keys and values of every position.

    Raises MisuseError for a model that keeps its past in something else.
    """
    cache = empty_cache()
    run(lm, rows, cache)
    if cache.get_seq_length() != rows.ids.shape[1]:
        raise MisuseError(
            f"{lm.name} fills no key-value cache, which the engine's rows need: use sk.steer around the model's "
            "own generate"
        )
    return [(layer.keys, layer.values) for layer in cache.layers]


def states(
    lm: LanguageModel,
    rows: Rows,
    layers: Collection[int],
    pool: Callable[[Tensor], Tensor],
    site: SiteName = RESID_POST,
) -> dict[int, Tensor]:
    """Run the decoder up to the last of `layers` and return what `pool` makes of the states at a site of each.

    `pool` takes `[row, position, width]`.
    """
    found: dict[int, Tensor] = {}

    def read(layer: int, hidden: Tensor) -> None:
        found[layer] = pool(hidden)
        if len(found) == len(layers):
            raise _AllReadError

    acts = {lm.sites.at(Place(layer, site)): partial(read, layer) for layer in layers}
    with torch.inference_mode(), one_pass(acts), suppress(_AllReadError):
        run(lm, rows)
    return found


def last_states(
    lm: LanguageModel, texts: Sequence[Sequence[int]], layers: Collection[int], site: SiteName = RESID_POST
) -> dict[int, Tensor]:
    """Return each text's last token's state at a site of each of `layers`, `[text, width]` float32 on the host."""
    found = states(lm, left_padded(texts, lm), layers, lambda hidden: hidden[:, -1].clone(), site)
    return {layer: state.float().cpu() for layer, state in found.items()}


class Continuations:
    """Texts whose prompts, up to the last token, are run once each and unsteered.

    What is run behind them is a row's last prompt token and its completion but the last token: the positions of
    scope `completion`, so a hook that edits all it sees acts there. Rows are padded on the right, where a causal
    model does not look. Raises MisuseError for a text without a prompt token.
    """

    def __init__(self, lm: LanguageModel, texts: Sequence[EncodedText]) -> None:
        if not all(text.prompt_length for text in texts):
            raise MisuseError(NO_PROMPT)
        self._lm = lm
        self.texts = texts
        heads = list(dict.fromkeys(text.ids[: text.prompt_length - 1] for text in texts))
        self._head_of = [heads.index(text.ids[: text.prompt_length - 1]) for text in texts]
        padded = left_padded(heads, lm)
        self._mask = padded.mask

        def heads_of(some: Sequence[int]) -> KeysAndValues:
            part = slice(some[0], some[-1] + 1)
            with torch.no_grad():  # not inference mode, whose tensors no later gradient may pass by
                return prefill(lm, Rows(*(column[part] for column in padded if column is not None)))

        width = padded.ids.shape[1]
        passes = in_passes(range(len(heads)), lambda _: width, PROMPTS_A_PASS * width, heads_of)
        parts = [part for _, part in passes]
        self._heads = [
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*parts, strict=True)
        ]

    def logits(self, rows: Sequence[int]) -> list[Tensor]:
        """Return, for each of the texts `rows`, the logits `[token, vocabulary]` that predict its completion."""
        lm = self._lm
        texts = [self.texts[row] for row in rows]
        ids, mask, _ = right_padded([text.ids[text.prompt_length - 1 : -1] for text in texts], lm)
        owner = torch.tensor([self._head_of[row] for row in rows], device=lm.device)
        first = torch.tensor([text.prompt_length - 1 for text in texts], device=lm.device)
        places = first[:, None] + torch.arange(ids.shape[1], device=lm.device)
        cache = growing_cache([(keys[owner], values[owner]) for keys, values in self._heads])
        found = logits(lm, Rows(ids, torch.cat([self._mask[owner], mask], dim=1), places), cache=cache)
        return [row[: text.completion_length] for row, text in zip(found, texts, strict=True)]


class _AllReadError(Exception):
    """Ends a pass at the last block that is read."""


def _inputs(rows: Rows, cache: Cache | None) -> dict[str, Any]:
    inputs = {"input_ids": rows.ids, "attention_mask": rows.mask, "use_cache": cache is not None}
    if rows.positions is not None:  # which not every decoder takes
        inputs["position_ids"] = rows.positions
    if cache is not None:
        inputs["past_key_values"] = cache
    return inputs
