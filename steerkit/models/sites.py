"""Where states are: decoder blocks, sites and TransformerLens hook names on the bare model, and hooks there.

TransformerLens' architecture adapters, built from the config alone, say what a hook name means; nothing of the model is
replaced. What a module returns (a tensor, a tuple or a list, by architecture), and how it is given its states, is known
here and nowhere else. The blocks themselves are found in `models.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.sites import Place, SiteName
from steerkit.models.eager import running_eagerly

Act = Callable[[Tensor], Tensor | None]
Given = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments
NOTHING: Mapping[int, Any] = MappingProxyType({})
HIDDEN_STATES = "hidden_states"  # what transformers calls a module's input where it is given by keyword
# TransformerLens' hooks at the sites inside a block.
HOOKS = {"attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out", "z": "attn.hook_z"}


@dataclass(frozen=True, slots=True)
class Site:
    """A tensor inside the model: the input or the output of one module."""

    module: nn.Module
    side: Literal["in", "out"]


def hidden_of(output: Any) -> Tensor:
    """The states `[batch, position, width]` in what a decoder block, or a part of one, returned."""
    return output if isinstance(output, Tensor) else output[0]


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """A module's return value with the states replaced, in the same form."""
    if isinstance(output, Tensor):
        return hidden
    if isinstance(output, list):
        return [hidden, *output[1:]]
    return (hidden, *output[1:])


def hidden_in(given: Given) -> Tensor:
    """The states `[batch, position, width]` among a module's arguments. Raises MisuseError where they are not there."""
    args, kwargs = given
    hidden = args[0] if args else kwargs.get(HIDDEN_STATES)
    if not isinstance(hidden, Tensor):
        raise MisuseError("a module is given no hidden states to read or steer: take resid_post")
    return hidden


def with_hidden_in(given: Given, hidden: Tensor) -> Given:
    """A module's arguments with the states replaced, in the same form."""
    args, kwargs = given
    return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {HIDDEN_STATES: hidden})


@contextmanager
def on_sites(acts: Mapping[Site, Act]) -> Iterator[dict[Site, int]]:
    """Install hooks at sites, and take them off when the `with` block ends, whatever ends it.

    `acts[site]` is given the states `[row, position, width]` there; what it returns goes on in their place, None leaves
    them as they are. Yields how often each has been called so far. Compiled code runs eagerly meanwhile.
    """
    ran = dict.fromkeys(acts, 0)

    def after(site: Site, act: Act, _module: nn.Module, _args: Any, output: Any) -> Any:
        ran[site] += 1
        hidden = act(hidden_of(output))
        return None if hidden is None else with_hidden(output, hidden)

    def before(site: Site, act: Act, _module: nn.Module, *given: Any) -> Any:
        ran[site] += 1
        hidden = act(hidden_in(given))
        return None if hidden is None else with_hidden_in(given, hidden)

    with running_eagerly(), ExitStack() as installed:
        for site, act in acts.items():
            if site.side == "out":
                handle = site.module.register_forward_hook(partial(after, site, act))
            else:
                handle = site.module.register_forward_pre_hook(partial(before, site, act), with_kwargs=True)
            installed.enter_context(handle)
        yield ran


@contextmanager
def one_pass(acts: Mapping[Site, Act]) -> Iterator[None]:
    """Install hooks as `on_sites` does for one forward pass, in which each must be called exactly once.

    Raises SteerkitError where one was not: what was read or edited would then not be what it seems.
    """
    with on_sites(acts) as ran:
        yield
    once = sum(times == 1 for times in ran.values())
    if once != len(ran):
        raise SteerkitError(
            f"{once} of {len(ran)} hooked modules ran once in a forward pass: the model skips or replaces them "
            "(a captured graph?), so it cannot be read or steered safely"
        )


@contextmanager
def on_blocks(
    blocks: Sequence[nn.Module],
    outputs: Mapping[int, Act],
    inputs: Mapping[int, Callable[[Given], Given]] = NOTHING,
) -> Iterator[dict[int, int]]:
    """Install hooks behind `blocks`, by their index, as `on_sites` does; yields how often each of `outputs` was called.

    `inputs[l]` is given all arguments of block l and returns those to run it with.
    """
    ran = dict.fromkeys(outputs, 0)

    def counting(layer: int, act: Act, hidden: Tensor) -> Tensor | None:
        ran[layer] += 1
        return act(hidden)

    def before(change: Callable[[Given], Given], _block: nn.Module, *given: Any) -> Given:
        return change(given)

    with running_eagerly(), ExitStack() as installed:
        for layer, act in outputs.items():
            acts = {Site(blocks[layer], "out"): partial(counting, layer, act)}
            installed.enter_context(on_sites(acts))
        for layer, change in inputs.items():
            hook = partial(before, change)
            installed.enter_context(blocks[layer].register_forward_pre_hook(hook, with_kwargs=True))
        yield ran


class SiteMap:
    """Hook names of one bare transformers model, `adapter` being TransformerLens' for it, or None."""

    def __init__(self, hf: nn.Module, blocks: Sequence[nn.Module], adapter: Any) -> None:
        self._hf = hf
        self._adapter = adapter
        self.blocks = blocks

    def at(self, place: Place) -> Site:
        """The module and side that are a place. Raises MisuseError, naming it, where the block has no such site."""
        found = self._find(place)
        if found is None:
            raise MisuseError(
                f"block {place.layer} of {type(self._hf).__name__} has no site {place.site!r} that TransformerLens "
                "knows: take another layer, or resid_pre or resid_post"
            )
        return found

    def _find(self, place: Place) -> Site | None:
        """Look a place up anew each time: what stands there may have been wrapped, by PEFT for one."""
        block = self.blocks[place.layer]
        if place.site not in HOOKS:
            return Site(block, "in" if place.site == "resid_pre" else "out")
        try:
            site = self.resolve(f"blocks.{place.layer}.{HOOKS[place.site]}")
        except MisuseError:
            return None
        return site if any(site.module is part for part in block.modules()) else None

    def layers(self, site: SiteName) -> list[int]:
        """The layers that have a site. Raises MisuseError where none has."""
        every = [Place(layer, site) for layer in range(len(self.blocks))]
        found = [place.layer for place in every if self._find(place) is not None]
        if not found:
            self.at(every[0])  # refuses
        return found

    def resolve(self, name: str) -> Site:
        """The site of a TransformerLens hook name such as `blocks.7.hook_resid_post` or `blocks.7.attn.hook_out`.

        Raises MisuseError for a name that has no tensor on the bare model (attention patterns, for one).
        """
        if self._adapter is None:
            raise MisuseError(
                f"{name!r}: TransformerLens has no adapter for {type(self._hf).__name__}, so hook names mean "
                "nothing here"
            )
        path, _, hook = name.rpartition(".")
        try:
            if path.startswith("blocks."):
                layer, _, inner = path.removeprefix("blocks.").partition(".")
                if not 0 <= int(layer) < len(self.blocks):
                    raise MisuseError(f"{name!r}: this model has blocks 0 to {len(self.blocks) - 1}")
                component = self._adapter.component_mapping["blocks"]
                for part in filter(None, inner.split(".")):
                    component = component.submodules[part]
            else:
                component = self._adapter.component_mapping[path]
            aliased = component.hook_aliases.get(hook)
            if aliased is not None:
                return self.resolve(f"{path}.{aliased if isinstance(aliased, str) else aliased[0]}")
            if hook in ("hook_in", "hook_out"):
                return Site(self._adapter.get_component(self._hf, path), "in" if hook == "hook_in" else "out")
        except (KeyError, ValueError, AttributeError):
            pass  # the adapter does not know the name: said below
        raise MisuseError(f"{name!r} names no tensor of this model; try blocks.0.hook_resid_post")


def seen_at(
    what: str,
    sites: Mapping[int, Site],
    blocks: Sequence[nn.Module],
    run: Callable[[], object],
    positions: int,
) -> dict[int, Tensor]:
    """Return for each layer an empty tensor `[0, width]` in the number format and on the device of the states there.

    `run` runs the model over one row of `positions` tokens: once without and once with a nudge at the middle one of
    `sites`, which must change the output of its own block and of later ones alone. Raises SteerkitError, calling the
    sites `what`, where it does not, or where the states at one are not `[row, position, width]`, once a pass.
    """
    layers = list(sites)
    middle = layers[len(layers) // 2]
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    def nudge(hidden: Tensor) -> Tensor:
        # Not one number for all: a norm that centres the states would take that away.
        return hidden + torch.linspace(0.5, 1.5, hidden.shape[-1]).to(hidden)

    def outputs(acts: Mapping[Site, Act]) -> list[Tensor]:
        """What the blocks give under `acts`."""
        given: list[Tensor] = []
        every = dict.fromkeys(range(len(blocks)), lambda hidden: given.append(hidden.clone()))
        with on_blocks(blocks, every), on_sites(acts):
            run()
        return given

    plain = outputs({site: found[layer].append for layer, site in sites.items()})
    for layer, seen in found.items():
        shapes = [list(hidden.shape) for hidden in seen]
        if [shape[:-1] for shape in shapes] != [[1, positions]]:
            raise SteerkitError(
                f"{what} of block {layer} is {shapes or 'nothing'} for {[1, positions]} tokens, and one state a "
                "position is read and steered: take resid_post"
            )
    moved = [not torch.equal(*pair) for pair in zip(plain, outputs({sites[middle]: nudge}), strict=True)]
    if moved != [layer >= middle for layer in range(len(blocks))]:
        raise SteerkitError(
            f"a nudge at {what} of block {middle} did not reach its output and those behind it alone, so it cannot be "
            "read or steered safely: take resid_post"
        )
    return {
        layer: torch.empty(0, h.shape[-1], device=h.device, dtype=h.dtype) for layer, [h] in found.items()
    }
