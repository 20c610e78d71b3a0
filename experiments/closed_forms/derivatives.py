"""How the logits respond to a push at one layer: their first and second derivative along the vector.

One position is pushed and the logits are read at that position; every other position stays unsteered. The
states are completion positions of unsteered roll-outs, each a row of one token behind its own keys and values,
so a state costs a decoding step and not a text.

The first derivative is exact to the number format, by forward mode. The second is the central difference of two
first ones: torch has no forward derivative of some activations' derivatives (SiLU's among them), and differencing
once, not twice, leaves most digits standing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import EncodedText
from steerkit.engines.forward import Rows, alone, logits, prefill, right_padded
from steerkit.engines.shortcuts import shortcuts
from steerkit.models import LanguageModel
from steerkit.models.sites import on_blocks

STATES = 48  # the published form takes 50
STATES_AT_ONCE = 16  # their keys and values are held next to two derivatives of each


@dataclass(frozen=True)
class LogitDerivatives:
    """For each state: ‖Jv‖, ‖∇²F[v,v]‖ and the variance of Jv under the unsteered distribution, `[state]`."""

    slopes: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    variances: NDArray[np.float64]


class States:
    """Positions at which the logits are differentiated, with the keys and values before each of them.

    Up to `count` positions, spread evenly over the completion positions of `texts`; `places` holds the index of the
    text and the position in it of each. They serve every layer. Raises MisuseError for a model that keeps more of a
    text than keys and values.
    """

    def __init__(self, lm: LanguageModel, texts: Sequence[EncodedText], count: int = STATES) -> None:
        self._lm = lm
        places = [
            (text, position)
            for text in range(len(texts))
            for position in range(texts[text].prompt_length - 1, len(texts[text].ids) - 1)
        ]
        chosen = np.unique(np.linspace(0, len(places) - 1, count).round().astype(int))
        self.places = [places[i] for i in chosen]
        self._texts = texts
        taken = shortcuts(lm, max(len(text.ids) for text in texts))
        if taken.states is None or not taken.continues:
            raise MisuseError(
                f"{lm.name} keeps more of a text than keys and values, behind which nothing is differentiated"
            )
        self._states = taken.states
        with alone(lm), torch.no_grad():  # tensors of inference mode cannot be differentiated through
            used = {text for text, _ in self.places}
            self._before = {text: prefill(lm, right_padded([texts[text].ids[:-1]], lm)) for text in used}

    def __len__(self) -> int:
        return len(self.places)

    def derivatives(self, layer: int, push: Tensor) -> LogitDerivatives:
        """The derivatives of the logits by γ at γ = 0, where γ · `push` `[d_model]` is added at `layer`.

        Raises NotImplementedError (from torch) for a model with an operation that has no forward derivative.
        """
        parts = []
        for start in range(0, len(self.places), STATES_AT_ONCE):
            # Fused attention kernels have no forward mode.
            with alone(self._lm), torch.no_grad(), sdpa_kernel([SDPBackend.MATH]):
                parts.append(self._chunk(self.places[start : start + STATES_AT_ONCE], layer, push))
        return LogitDerivatives(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _chunk(
        self, places: Sequence[tuple[int, int]], layer: int, push: Tensor
    ) -> tuple[NDArray[np.float64], ...]:
        lm, device = self._lm, self._lm.device
        width = max(position for _, position in places)
        row = torch.zeros(1, dtype=torch.long, device=device)
        parts = [(self._states.first(self._before[text], position), row) for text, position in places]
        before = self._states.packed(parts, width, in_place=False), torch.arange(len(places), device=device)
        lengths = torch.tensor([position for _, position in places], device=device)[:, None]
        read = torch.tensor([[self._texts[text].ids[position]] for text, position in places], device=device)
        mask = torch.arange(width + 1, device=device)[None] >= width - lengths
        push = push.to(device=device, dtype=lm.dtype)
        sizes: list[Tensor] = []

        rows = Rows(read, mask, lengths)

        def moved(strength: Tensor) -> Tensor:
            def add(hidden: Tensor) -> Tensor:
                sizes.append(hidden.norm(dim=-1, keepdim=True))
                return hidden + strength * push

            with on_blocks(lm.blocks, {layer: add}):
                return logits(lm, rows, 1, self._states.packed([before], width, in_place=False))[:, -1]

        def with_first(strength: Tensor) -> tuple[Tensor, Tensor]:
            value, first = torch.func.jvp(moved, (strength,), (torch.ones_like(strength),))[:2]
            return value, first

        nothing = torch.zeros(len(places), 1, 1, device=device, dtype=lm.dtype)
        at_zero, first = with_first(nothing)
        # The step that balances rounding and truncation of a central difference, in shares of the state's norm.
        # Models normalise in float32 even where their weights are float64.
        rounding = max(torch.finfo(dtype).eps for dtype in (lm.dtype, torch.float32))
        step = rounding ** (1 / 3) * sizes[0] / push.norm()
        second = (with_first(step)[1] - with_first(-step)[1]) / (2 * step[:, 0])
        return _norms(at_zero, first, second)


def _norms(at_zero: Tensor, first: Tensor, second: Tensor) -> tuple[NDArray[np.float64], ...]:
    exact = torch.float32 if first.device.type == "mps" else torch.float64
    p = at_zero.to(exact).softmax(-1)
    first = first.to(exact)
    centred = first - (p * first).sum(-1, keepdim=True)
    columns = (first.norm(dim=-1), second.to(exact).norm(dim=-1), (p * centred**2).sum(-1))
    return tuple(column.cpu().numpy().astype(np.float64) for column in columns)
