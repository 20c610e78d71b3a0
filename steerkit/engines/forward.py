"""The forward room: padded texts through the model once, with hooks that read or edit the residual stream.

1. `run` is the decoder without its LM head, `logits` the model with it at the newest positions, `logits_at` at any. All
   take padded `Rows` and, where something was run before, the cache that holds it.
2. What is read or edited on the way goes through `models.sites.on_sites`, a row-bound table included.
3. Many texts go in passes (`in_passes`), which are halved when memory runs out.
4. Gradients flow where `differentiable` is open.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from steerkit.core.errors import SteerkitError
from steerkit.core.sites import RESID_POST, Place, SiteName
from steerkit.engines.row_states import empty_cache
from steerkit.models import LanguageModel
from steerkit.models.sites import Given, Site, on_blocks, on_sites, one_pass

T = TypeVar("T")
R = TypeVar("R")

CACHE_ARGUMENTS = ("past_key_values", "cache_params")  # by which architectures take the cache


class Rows(NamedTuple):
    """A batch of texts: token ids, mask (true where real) and positions, each `[row, position]`.

    Behind a cache the mask covers what that holds too. Without positions the model counts them from 0.
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


def chunk_by_tokens(
    items: Sequence[T], length: Callable[[T], int], budget: int, *, alike: bool = False
) -> list[T]:
    """Return the leading items whose padded batch stays within `budget` tokens; at least one.

    With `alike` they are of one length.
    """
    longest = 0
    for count, item in enumerate(items):
        longest = max(longest, length(item))
        if count and (longest * (count + 1) > budget or (alike and length(item) != length(items[0]))):
            return list(items[:count])
    return list(items)


def ran_out(error: RuntimeError) -> bool:
    """Return whether memory could not be had. PyTorch has a class of its own for that on accelerators only."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def in_passes(
    items: Sequence[T],
    length: Callable[[T], int],
    tokens: int,
    run: Callable[[Sequence[T]], R],
    *,
    alike: bool = False,
) -> Iterator[tuple[Sequence[T], R]]:
    """Run the items in order, at most `tokens` padded tokens (or one item) a pass; each pass with what it gave.

    With `alike` no pass holds items of unequal length.
    A pass that memory does not hold is tried again with half its items, and so are those behind it; where it does
    not hold a single one, SteerkitError is raised. `run` may be called again with items that it has seen.
    """
    waiting = items
    while waiting:
        some = chunk_by_tokens(waiting, length, tokens, alike=alike)
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
    trainable = [name for name, parameter in lm.hf.named_parameters() if parameter.requires_grad]
    for name in trainable:
        lm.hf.get_parameter(name).requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        with torch.inference_mode():  # in which an offloaded weight may have been put back, as another object
            for name in trainable:
                lm.hf.get_parameter(name).requires_grad_(True)


def run(lm: LanguageModel, rows: Rows, cache: Cache | None = None) -> None:
    """Run the decoder alone; what it keeps of the rows goes into `cache`, behind what that holds."""
    lm.decoder(**_inputs(lm.decoder, rows, cache))


def logits(lm: LanguageModel, rows: Rows, newest: int = 0, cache: Cache | None = None) -> Tensor:
    """Return the logits `[row, position, vocabulary]` of the `newest` positions (0: of all)."""
    inputs = _inputs(lm.hf, rows, cache)
    if "logits_to_keep" in _parameters(lm.hf):
        inputs["logits_to_keep"] = newest
    found: Tensor = lm.hf(**inputs).logits
    return found[:, -newest:]


def logits_at(
    lm: LanguageModel, rows: Rows, places: tuple[Tensor, Tensor], cache: Cache | None = None
) -> Tensor:
    """Return the logits `[place, vocabulary]` at some `(row, position)`, for which alone the LM head runs.

    Where the head is no module that is given the states, it runs for all positions.
    """

    def chosen(hidden: Tensor) -> Tensor:
        row, position = (index.to(hidden.device) for index in places)
        return hidden[row, position][None]

    head = lm.hf.get_output_embeddings()
    acts = {Site(head, "in"): chosen} if isinstance(head, nn.Module) else {}
    with on_sites(acts) as ran:
        found = logits(lm, rows, 0, cache)
    if any(ran.values()):
        return found[0]
    row, position = (index.to(found.device) for index in places)
    return found[row, position]


def prefill(lm: LanguageModel, rows: Rows) -> Cache:
    """Run the decoder and return what it keeps of the rows."""
    cache = empty_cache(lm)
    run(lm, rows, cache)
    return cache


@contextmanager
def expanded_after(blocks: Sequence[nn.Module], layer: int, owner: Tensor) -> Iterator[None]:
    """While open, the batch has one row for each of `owner` `[row]` from the output of block `layer` on.

    `owner` says which row of the batch before each one continues. Whatever later blocks are given beside the
    stream (masks, rotary tables) is expanded with it where its first dimension counts the rows.
    """
    before = int(owner.max()) + 1

    def expand(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.index_select(0, owner) if value.ndim > 1 and value.shape[0] == before else value
        if type(value) in (tuple, list):
            return type(value)(expand(part) for part in value)
        return value

    def arguments(given: Given) -> Given:
        return expand(given[0]), {name: expand(value) for name, value in given[1].items()}

    above = dict.fromkeys(range(layer + 1, len(blocks)), arguments)
    with on_blocks(blocks, {layer: lambda hidden: hidden.index_select(0, owner)}, above):
        yield


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
    row = torch.arange(len(texts))
    last = torch.tensor([len(text) - 1 for text in texts])
    found = states(
        lm, right_padded(texts, lm), layers, lambda h: h[row.to(h.device), last.to(h.device)], site
    )
    return {layer: state.float().cpu() for layer, state in found.items()}


class _AllReadError(Exception):
    """Ends a pass at the last block that is read."""


def _inputs(module: nn.Module, rows: Rows, cache: Cache | None) -> dict[str, Any]:
    """What `module` is called with: positions only where it takes them, the cache by the name that it has there."""
    takes = _parameters(module)
    inputs = {"input_ids": rows.ids, "attention_mask": rows.mask, "use_cache": cache is not None}
    if rows.positions is not None and ("position_ids" in takes or _takes_any(takes)):
        inputs["position_ids"] = rows.positions
    if cache is not None:
        inputs[next((name for name in CACHE_ARGUMENTS if name in takes), CACHE_ARGUMENTS[0])] = cache
    return inputs


def _parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    kind: Any = type(module)  # Any, as its own __hash__ keeps mypy from seeing that classes can be keys
    return _parameters_of(kind)


@functools.cache
def _parameters_of(kind: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind.forward).parameters


def _takes_any(takes: Mapping[str, inspect.Parameter]) -> bool:
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes.values())
