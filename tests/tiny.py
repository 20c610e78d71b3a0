"""A tiny random model and tokenizer, made from nothing: every byte is a token, plus a few special ones."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.models import LanguageModel

SPECIAL = ["<pad>", "<s>", "</s>", "<think>", "</think>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def byte_tokenizer(*, chat: bool = True, markers: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges; without `markers`, those of thinking are no tokens of their own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = SPECIAL if markers else SPECIAL[:3]
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=special[3:],
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_hf(seed: int = 0, layers: int = 4, width: int = 32) -> LlamaForCausalLM:
    """A random Llama. Weights are drawn larger than by default, so that completions differ by prompt."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + 256,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def tiny_model(seed: int = 0, *, chat: bool = True, layers: int = 4, width: int = 32) -> LanguageModel:
    """A loaded tiny model."""
    return LanguageModel(tiny_hf(seed, layers, width), byte_tokenizer(chat=chat), f"tiny-{seed}")


def random_vector(
    lm: LanguageModel, seed: int = 0, size: float = 1.0, name: str = "random"
) -> SteeringVector:
    """A random vector for `lm`, `size` times as long as a standard normal one."""
    metadata = VectorMetadata(
        name=name,
        model=lm.name,
        fingerprint=lm.fingerprint,
        method="random",
        aggregation="last",
        scaling="norm",
    )
    noise = torch.randn(lm.n_layers, lm.d_model, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(size * noise, metadata)
