"""The low-rank changes as they are trained: value and gradients are peft's, and only the factors learn."""

from __future__ import annotations

import copy

import pytest
import torch

from experiments.reasoning_tax.low_rank import LowRank, adapt, factors
from experiments.reasoning_tax.train import TARGETS
from steerkit.core.errors import MisuseError
from steerkit.models import LanguageModel

RANK, ALPHA = 4, 8.0


@pytest.fixture
def changed(tiny: LanguageModel) -> tuple[torch.nn.Module, list[LowRank]]:
    """A copy of the tiny model with changes whose factors are both not zero."""
    hf = copy.deepcopy(tiny.hf)
    torch.manual_seed(0)
    changes = adapt(hf, TARGETS, RANK, ALPHA)
    with torch.no_grad():
        for change in changes:
            change.up.normal_(std=0.05)
            change.merge()
    return hf, changes


def test_value_and_gradients_are_pefts(
    tiny: LanguageModel, changed: tuple[torch.nn.Module, list[LowRank]]
) -> None:
    peft = pytest.importorskip("peft")
    hf, changes = changed
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(copy.deepcopy(tiny.hf), config)
    own = {
        f"{change.name}.{side}": tensor
        for change in changes
        for side, tensor in zip("AB", (change.down, change.up), strict=True)
    }
    with torch.no_grad():
        for key, factor in _factors_of(theirs).items():
            factor.copy_(own[key])
    ids = torch.arange(3, 33).reshape(2, 15)
    losses = [model(input_ids=ids, labels=ids).loss for model in (hf, theirs)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
    for loss in losses:
        loss.backward()
    for key, factor in _factors_of(theirs).items():
        assert own[key].grad is not None
        assert torch.allclose(own[key].grad, factor.grad, atol=1e-5), key


def _factors_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            module, side = name.removeprefix("base_model.model.").split(".lora_")
            found[f"{module}.{side[0]}"] = parameter
    return found


def test_nothing_is_changed_at_first_and_nothing_but_the_factors_learns(tiny: LanguageModel) -> None:
    hf = copy.deepcopy(tiny.hf)
    before = copy.deepcopy(hf.state_dict())
    changes = adapt(hf, TARGETS, RANK, ALPHA)
    for change in changes:
        change.merge()
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())
    assert not any(parameter.requires_grad for parameter in hf.parameters())
    assert all(change.down.requires_grad and change.up.requires_grad for change in changes)


def test_the_factors_are_named_as_peft_names_them(changed: tuple[torch.nn.Module, list[LowRank]]) -> None:
    _, changes = changed
    saved = factors(changes)
    assert len(saved) == 2 * len(changes)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float16}
    down = saved[f"base_model.model.{changes[0].name}.lora_A.weight"]
    assert down.shape == changes[0].down.shape


def test_a_projection_with_a_bias_is_refused() -> None:
    with pytest.raises(MisuseError, match="has a bias"):
        LowRank("q_proj", torch.nn.Linear(4, 4), 2, 4)
