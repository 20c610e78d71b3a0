"""LoRA as it is trained here: the merged weight forward, the two factors backward.

Each adapted projection's W becomes W + scale · B A (Hu et al. 2021, arXiv 2106.09685), A `[r, in]`, B `[out, r]`. The
sum is made once a step, so that a pass costs what the plain model's does and what is learnt is what the merged model
computes; the backward pass never builds the gradient of W, only those of A and B. There are no small float32 products
of an adapter beside each projection, forward or backward, which on a CPU cost more than their arithmetic says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from steerkit.core.errors import MisuseError


class LowRank:
    """A trainable low-rank change of one linear projection, whose forward pass it takes over.

    The factors are float32: A uniform as peft draws it, B zero, so at first nothing is changed. `merge` makes their
    values count; it is called after each step of the optimiser.
    """

    def __init__(self, name: str, projection: nn.Linear, rank: int, alpha: float) -> None:
        if projection.bias is not None:
            raise MisuseError(f"{name} has a bias, which is not trained here")
        self.name, self.scale = name, alpha / rank
        self.plain = projection.weight.detach().clone()
        device = self.plain.device
        bound = 1 / math.sqrt(projection.in_features)
        self.down = nn.Parameter(torch.empty(rank, projection.in_features).uniform_(-bound, bound).to(device))
        self.up = nn.Parameter(torch.zeros(projection.out_features, rank, device=device))
        self.merged = projection.weight
        projection.forward = self.forward  # type: ignore[method-assign]

    def forward(self, states: Tensor) -> Tensor:
        """The projection under the change: `[…, in]` to `[…, out]`."""
        # The factors take no part in the value, which the merged weight gives; they only receive their gradients.
        scaled = self.up * self.scale
        result: Tensor = _Merged.apply(
            states, self.merged, self.down.to(states.dtype), scaled.to(states.dtype)
        )
        return result

    @torch.no_grad()
    def merge(self) -> None:
        """Write W + scale · B A to the weight that the forward pass reads."""
        change = self.scale * (self.up @ self.down)
        self.merged.copy_(self.plain.float() + change)


class _Merged(torch.autograd.Function):
    """`states Wᵀ`, whose gradients go to the states, to A and to the scaled B."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, merged: Tensor, down: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(states, merged, down, up)
        return linear(states, merged)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, Tensor, Tensor]:
        states, merged, down, up = ctx.saved_tensors
        (grad,) = grads
        rows, flat = states.reshape(-1, states.shape[-1]), grad.reshape(-1, grad.shape[-1])
        return grad @ merged, None, (flat @ up).T @ rows, flat.T @ (rows @ down.T)


def adapt(hf: nn.Module, targets: Iterable[str], rank: int, alpha: float) -> list[LowRank]:
    """A change of each projection whose last name is in `targets`; all other weights are frozen."""
    hf.requires_grad_(False)
    names = set(targets)
    found = [
        (name, module)
        for name, module in hf.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in names
    ]
    return [LowRank(name, module, rank, alpha) for name, module in found]


def named(changes: Iterable[LowRank]) -> dict[str, nn.Parameter]:
    """The factors under the names that peft gives them."""
    return {
        f"base_model.model.{change.name}.lora_{side}.weight": factor
        for change in changes
        for side, factor in (("A", change.down), ("B", change.up))
    }


def factors(changes: Iterable[LowRank]) -> dict[str, Tensor]:
    """The factors as an adapter holds them: half precision, on the CPU."""
    return {
        name: factor.detach().to("cpu", torch.float16).contiguous() for name, factor in named(changes).items()
    }
