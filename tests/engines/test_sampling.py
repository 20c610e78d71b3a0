"""The next token: greedy is argmax, ties and all."""

from __future__ import annotations

import pytest
import torch

from steerkit.engines.transformers.sampling import next_tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_is_argmax_with_ties_infinities_and_nan(dtype: torch.dtype) -> None:
    """Half precision has so few numbers that ties are common: the first of them, as transformers takes it."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 7, (400, 1000), generator=generator).to(dtype)
    usual = torch.randn(100, 49_152, generator=generator).to(dtype)
    empty = torch.full((1, 1000), -torch.inf).to(dtype)
    broken = coarse[:40].clone()
    broken[:, 300:] = torch.nan
    for logits in (coarse, usual, empty, broken, -coarse):
        assert torch.equal(next_tokens(logits, None, None, None), logits.argmax(-1))
