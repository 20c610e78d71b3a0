"""Finding blocks: by TransformerLens' adapter, by structure where it has none, and never in an encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from steerkit.core.errors import MisuseError
from steerkit.models import LanguageModel
from steerkit.models.blocks import adapter_of, find_blocks
from tests.tiny import byte_tokenizer

SMALL = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
CONV = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1}


def built(kind: str, **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(hf.AutoConfig.for_model(kind, **{**SMALL, **fields})).eval()


NAMED: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: built("llama"),
    "gpt2": lambda: built("gpt2", n_embd=32, n_layer=4, n_head=4),
    "mamba": lambda: built("mamba"),
    "bloom": lambda: built("bloom", n_layer=4, n_head=4),
    "mixtral": lambda: built("mixtral", num_local_experts=4),
}


@pytest.mark.parametrize("family", NAMED)
def test_structure_finds_the_blocks_that_the_adapter_names(family: str) -> None:
    model = NAMED[family]()
    adapter = adapter_of(model)
    assert adapter is not None
    decoder = model.get_decoder()
    assert find_blocks(model, decoder, None) == find_blocks(model, decoder, adapter)
    assert find_blocks(model, decoder, None) == tuple(adapter.get_component(model, "blocks"))


@pytest.mark.parametrize("family", ["helium", "persimmon", "phimoe", "diffllama"])
def test_a_model_without_an_adapter_loads(family: str) -> None:
    model = built(family, head_dim=8, num_local_experts=4)
    assert adapter_of(model) is None
    lm = LanguageModel(model, byte_tokenizer(), family)
    assert list(lm.blocks) == list(model.model.layers)
    assert lm.d_model == 32
    with pytest.raises(MisuseError, match="no adapter for"):
        lm.site("blocks.0.hook_resid_post")


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_an_encoder_is_refused_and_the_same_as_a_decoder_is_not(family: str) -> None:
    with pytest.raises(MisuseError, match="is an encoder, and only decoders are steered"):
        LanguageModel(built(family), byte_tokenizer(), family)
    assert LanguageModel(built(family, is_decoder=True), byte_tokenizer(), family).n_layers == 4


def test_an_encoder_decoder_is_refused() -> None:
    config = hf.T5Config(vocab_size=261, d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8)
    with pytest.raises(MisuseError, match="encoder–decoder"):
        LanguageModel(hf.T5ForConditionalGeneration(config).eval(), byte_tokenizer(), "t5")


def test_a_model_of_several_streams_is_refused_by_their_shape() -> None:
    class Doubled(nn.Module):
        def forward(self, hidden: torch.Tensor, **_kwargs: Any) -> torch.Tensor:
            return torch.stack([hidden, hidden], dim=2) if hidden.ndim == 3 else hidden

    model = built("llama")
    for layer in range(4):
        model.model.layers[layer] = Doubled()
    model.model.norm = nn.Identity()
    with pytest.raises(MisuseError, match="not one state a position"):
        LanguageModel(model, byte_tokenizer(), "doubled")


def test_each_block_says_where_its_state_is_also_after_the_model_was_moved() -> None:
    lm = LanguageModel(built("llama"), byte_tokenizer(), "moved")
    assert [lm.like(layer).dtype for layer in range(4)] == [torch.float32] * 4
    lm.hf.to(torch.bfloat16)
    assert lm.dtype == lm.like(3).dtype == torch.bfloat16


def test_a_model_without_weights_is_refused() -> None:
    with torch.device("meta"):
        model = built("llama")
    with pytest.raises(MisuseError, match="meta device"):
        LanguageModel(model, byte_tokenizer(), "meta")
