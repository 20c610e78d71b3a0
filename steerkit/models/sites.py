"""Where the residual stream is: decoder blocks and TransformerLens hook names on the bare model.

TransformerLens' architecture adapters, built from the config alone, say which module is block `l` and what
a hook name means; nothing of the model is replaced. What a block returns (a tensor, a tuple or a list, by
architecture) is known here and nowhere else.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steerkit.core.errors import MisuseError, SteerkitError


@dataclass(frozen=True, slots=True)
class Site:
    """A tensor inside the model: the input or the output of one module."""

    module: nn.Module
    side: Literal["in", "out"]


def hidden_of(output: Any) -> Tensor:
    """The residual stream `[batch, position, d_model]` in what a decoder block returned."""
    return output if isinstance(output, Tensor) else output[0]


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """A block's return value with the residual stream replaced, in the same form."""
    if isinstance(output, Tensor):
        return hidden
    if isinstance(output, list):
        return [hidden, *output[1:]]
    return (hidden, *output[1:])


class SiteMap:
    """Blocks and hook names of one bare transformers model."""

    def __init__(self, hf: nn.Module) -> None:
        self._hf = hf
        self._adapter = _adapter_of(hf)
        self.blocks: tuple[nn.Module, ...] = tuple(self._adapter.get_component(hf, "blocks"))

    def resolve(self, name: str) -> Site:
        """The site of a TransformerLens hook name such as `blocks.7.hook_resid_post` or `blocks.7.attn.hook_out`.

        Raises MisuseError for a name that has no tensor on the bare model (attention patterns, for one).
        """
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


def check_sites(hf: Any, decoder: nn.Module, blocks: tuple[nn.Module, ...]) -> None:
    """Nudge the output of a middle block: the nudge must arrive at the next block and nowhere before.

    Costs two forward passes over four tokens; the assumption is tested on the user's model.
    """
    middle = len(blocks) // 2 if len(blocks) > 1 else 0
    device = next(hf.parameters()).device
    ids = torch.arange(4, device=device)[None] % hf.config.get_text_config().vocab_size
    seen: list[list[Tensor]] = [[], []]
    for run, size in enumerate((0.0, 1.0)):

        def read(layer: int, output: Any, run: int = run, size: float = size) -> Any:
            hidden = hidden_of(output)
            if layer == middle and size:
                hidden = hidden + size
            seen[run].append(hidden)
            return with_hidden(output, hidden)

        handles = [
            b.register_forward_hook(lambda _m, _a, out, i=i: read(i, out)) for i, b in enumerate(blocks)
        ]
        try:
            with torch.inference_mode():
                decoder(input_ids=ids, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    plain, nudged = seen
    fired_once = len(plain) == len(nudged) == len(blocks)
    moved = [not torch.equal(a, b) for a, b in zip(plain, nudged, strict=False)]
    if not fired_once or moved != [layer >= middle for layer in range(len(blocks))]:
        raise SteerkitError(
            f"{type(hf).__name__}: a nudge at block {middle} did not travel through the blocks in order, so the "
            "residual stream is not where it should be; this architecture cannot be steered safely"
        )


def _adapter_of(hf: nn.Module) -> Any:
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
    except (ValueError, KeyError, AttributeError) as error:
        raise MisuseError(
            f"TransformerLens has no adapter for {type(hf).__name__}, so its blocks cannot be found; "
            "see its list of supported architectures"
        ) from error
