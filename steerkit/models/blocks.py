"""The decoder blocks of a model: found by its adapter or by its structure, and confirmed on the model itself.

1. TransformerLens' architecture adapters, built from the config alone, name the blocks of some hundred architectures.
   Elsewhere they are the longest list of modules in the decoder each of which runs once a pass and hands on a state
   `[row, position, width]`.
2. Either way a nudge must confirm it: what is added behind the middle block arrives at every later one and at none
   before.
3. A model that looks at later tokens is no decoder: steering has no completion there, and rows cannot be padded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.models.eager import running_eagerly
from steerkit.models.sites import on_blocks

Blocks = tuple[nn.Module, ...]

# How far a later token may move an earlier state, relative to its norm, by rounding: experts are given other tokens
# together, and what is quantised as it passes may be rounded with its neighbours.
LATER_TOKEN = {torch.float32: 1e-5, torch.float64: 1e-5}
LATER_TOKEN_ELSE = 0.05


def find_blocks(hf: Any, decoder: nn.Module, adapter: Any) -> Blocks:
    """Return the decoder blocks in order, confirmed by a nudge.

    `adapter` is TransformerLens' for this model, or None. Raises MisuseError for a model that is no decoder, or whose
    blocks hand on anything but one state a position; SteerkitError where no list of blocks passes the nudge.
    """
    ids = probe_ids(hf)
    named = _named_by(adapter, hf)
    if named and _travels(decoder, named, ids):
        blocks = named
    else:
        alike = _alike(decoder, ids)
        found = next((some for some in alike if _travels(decoder, some, ids)), None)
        if found is None:
            raise SteerkitError(
                f"{type(hf).__name__}: no list of its modules hands a state [row, position, width] from one to the "
                "next, in order, so it cannot be steered safely"
            )
        blocks = found
    _check_causal(hf, decoder, blocks, ids)
    return blocks


def decoder_of(hf: Any) -> nn.Module:
    """Return the model without its LM head: what `get_decoder` gives, unless that cannot read tokens."""
    decoder: nn.Module = hf.get_decoder()
    try:
        _run(decoder, probe_ids(hf))
    except SteerkitError:
        if hf.base_model in (hf, decoder):
            raise
        decoder = hf.base_model  # a head may go by the name of a decoder
    return decoder


def probe_ids(hf: Any) -> Tensor:
    """Return four token ids `[1, 4]` on the device that the model takes them on."""
    size: int = _embedding(hf).weight.shape[0]
    ids = torch.arange(size // 2, size // 2 + 4, device=entry_device(hf))
    return ids[None] % size


def entry_device(hf: Any) -> torch.device:
    """Return the device that the model takes token ids on.

    Raises MisuseError for a model without weights: on the meta device, and not offloaded from there.
    """
    embedding = _embedding(hf)
    device: torch.device = next(embedding.parameters()).device
    if device.type != "meta":
        return device
    place = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    if place is None:
        raise MisuseError("the model is on the meta device, where it has no weights: load them first")
    return torch.device(place)


def _embedding(hf: Any) -> Any:
    """The one table that token ids are looked up in. Raises MisuseError for a model that has none, or several."""
    try:
        embedding = hf.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if getattr(embedding, "weight", None) is None:
        raise MisuseError(
            f"{type(hf).__name__} looks no text's tokens up in one table: load a model that writes text"
        )
    return embedding


def streams(hf: Any, decoder: nn.Module, blocks: Blocks) -> list[tuple[torch.device, torch.dtype, int]]:
    """Return device, number format and width of the state behind each block, as they pass in a run of four tokens."""
    return [(h.device, h.dtype, h.shape[-1]) for h in _states(decoder, blocks, probe_ids(hf))]


def adapter_of(hf: nn.Module) -> Any | None:
    """Return TransformerLens' architecture adapter for a model, built from its config alone; None where it has none."""
    # The three imports cost about two seconds, and two of them are underscore modules: one test guards them.
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
    from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config

    config: Any = copy.deepcopy(hf.config)  # the builder writes into the config it is given
    config.architectures = config.architectures or [type(hf).__name__]  # a model made from a config lacks it
    try:
        architecture = determine_architecture_from_hf_config(config)
        bridge_config = build_bridge_config_from_hf(
            config, architecture, "local", next(hf.parameters()).dtype
        )
        return ArchitectureAdapterFactory.select_architecture_adapter(bridge_config)
    except Exception:  # an adapter may ask for what is not installed, or not know this form of the config
        return None


def _named_by(adapter: Any, hf: nn.Module) -> Blocks:
    try:
        return tuple(adapter.get_component(hf, "blocks"))
    except Exception:  # no adapter, or one for another layout of the same architecture
        return ()


def _alike(decoder: nn.Module, ids: Tensor) -> Iterator[Blocks]:
    """Lists of modules in the decoder that each ran once and gave states `[row, position, width]`, longest first."""
    lists = [tuple(m) for m in decoder.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m)]
    shapes: dict[nn.Module, list[tuple[int, ...]]] = {}

    def note(module: nn.Module, _args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        shapes.setdefault(module, []).append(tuple(first.shape) if isinstance(first, Tensor) else ())

    handles = [part.register_forward_hook(note) for part in {part for some in lists for part in some}]
    try:
        with running_eagerly():
            _run(decoder, ids)
    finally:
        for handle in handles:
            handle.remove()

    def passes_states(some: Blocks) -> bool:
        seen = [shapes.get(part, []) for part in some]
        return all(len(each) == 1 and each == seen[0] and each[0][:-1] == tuple(ids.shape) for each in seen)

    yield from sorted(
        filter(passes_states, lists), key=len, reverse=True
    )  # stable: of equal length, the outer


def _travels(decoder: nn.Module, blocks: Blocks, ids: Tensor) -> bool:
    """Whether a nudge behind the middle block arrives at every later block and at none before, each run once.

    Raises MisuseError where the blocks hand on something else than one state a position.
    """
    middle = len(blocks) // 2 if len(blocks) > 1 else 0
    seen: list[list[Tensor]] = [[], []]
    ran: list[list[int]] = []

    def read(run: int, layer: int, hidden: Tensor) -> Tensor:
        seen[run].append(hidden + 1.0 if run and layer == middle else hidden)
        return seen[run][-1]

    for run in (0, 1):
        acts = {layer: partial(read, run, layer) for layer in range(len(blocks))}
        with on_blocks(blocks, acts) as times:
            _run(decoder, ids)
        ran.append(list(times.values()))
    if seen[0] and seen[0][0].shape[:-1] != ids.shape:
        raise MisuseError(
            f"{type(decoder).__name__}: its blocks hand on {list(seen[0][0].shape)} for {list(ids.shape)} tokens, not "
            "one state a position, so there is no one residual stream to steer"
        )
    moved = [not torch.equal(plain, nudged) for plain, nudged in zip(*seen, strict=False)]
    return ran == [[1] * len(blocks)] * 2 and moved == [layer >= middle for layer in range(len(blocks))]


def _check_causal(hf: Any, decoder: nn.Module, blocks: Blocks, ids: Tensor) -> None:
    """Raise MisuseError where another last token changes the states of those before it."""
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    for plain, changed in zip(_states(decoder, blocks, ids), _states(decoder, blocks, other), strict=True):
        before, moved = plain[0, :-1].float(), (changed - plain)[0, :-1].float()
        bound = LATER_TOKEN.get(plain.dtype, LATER_TOKEN_ELSE)
        if getattr(hf, "is_quantized", False):
            bound = LATER_TOKEN_ELSE
        if not moved.norm() <= bound * before.norm():
            raise MisuseError(
                f"{type(hf).__name__} lets a token see those behind it: it is an encoder, and only decoders are "
                "steered (a config with is_decoder=True may make it one)"
            )


def _states(decoder: nn.Module, blocks: Blocks, ids: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    acts = dict.fromkeys(range(len(blocks)), found.append)
    with on_blocks(blocks, acts):
        _run(decoder, ids)
    return found


def _run(decoder: nn.Module, ids: Tensor) -> None:
    try:
        with torch.inference_mode():
            decoder(input_ids=ids, use_cache=False)
    except Exception as error:  # a stranger's forward: whatever it stumbles over, four tokens cannot be read
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SteerkitError(
            f"{type(decoder).__name__} cannot read four tokens by themselves ({reason})"
        ) from error
