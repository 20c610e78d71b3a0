"""Where the residual stream is: decoder blocks and TransformerLens hook names on the bare model.

TransformerLens' architecture adapters, built from the config alone, say what a hook name means; nothing of the model is
replaced. What a block returns (a tensor, a tuple or a list, by architecture) is known here and nowhere else. The blocks
themselves are found in `models.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

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


Act = Callable[[Tensor], Tensor | None]
Given = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments
NOTHING: Mapping[int, Any] = MappingProxyType({})


@contextmanager
def on_blocks(
    blocks: Sequence[nn.Module],
    outputs: Mapping[int, Act],
    inputs: Mapping[int, Callable[[Given], Given]] = NOTHING,
) -> Iterator[dict[int, int]]:
    """Install hooks on `blocks`, by their index, and take them off when the `with` block ends, whatever ends it.

    `outputs[l]` is given the residual stream `[row, position, d_model]` behind block l; what it returns goes on in
    place of the stream, None leaves it as it is. `inputs[l]` is given all arguments of block l and returns those to
    run it with. Yields how often each block of `outputs` has run so far.
    """
    ran = dict.fromkeys(outputs, 0)

    def after(layer: int, act: Act, _block: nn.Module, _args: Any, output: Any) -> Any:
        ran[layer] += 1
        hidden = act(hidden_of(output))
        return None if hidden is None else with_hidden(output, hidden)

    def before(
        change: Callable[[Given], Given], _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Given:
        return change((args, kwargs))

    with ExitStack() as installed:
        for layer, act in outputs.items():
            installed.enter_context(blocks[layer].register_forward_hook(partial(after, layer, act)))
        for layer, change in inputs.items():
            hook = partial(before, change)
            installed.enter_context(blocks[layer].register_forward_pre_hook(hook, with_kwargs=True))
        yield ran


@contextmanager
def one_pass(blocks: Sequence[nn.Module], outputs: Mapping[int, Act]) -> Iterator[None]:
    """Install hooks as `on_blocks` does for one forward pass, in which each hooked block must run exactly once.

    Raises SteerkitError where one did not: what was read or edited would then not be what it seems.
    """
    with on_blocks(blocks, outputs) as ran:
        yield
    once = sum(times == 1 for times in ran.values())
    if once != len(ran):
        raise SteerkitError(
            f"{once} of {len(ran)} hooked blocks ran once in a forward pass: the model skips or replaces blocks "
            "(torch.compile?), so it cannot be read or steered safely"
        )


class SiteMap:
    """Hook names of one bare transformers model, `adapter` being TransformerLens' for it, or None."""

    def __init__(self, hf: nn.Module, blocks: Sequence[nn.Module], adapter: Any) -> None:
        self._hf = hf
        self._adapter = adapter
        self.blocks = blocks

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
