"""Tiny models of six families, and where their sites are: modules named by hand, from transformers' own code."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from steerkit.core.sites import SiteName
from steerkit.interventions.vector import SteeringVector, VectorMetadata
from steerkit.models import LanguageModel
from tests.tiny import byte_tokenizer

COMMON = {
    "vocab_size": 261,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}  # the heads together are wider than the stream
WINDOW = {"sliding_window": 16, "sliding_window_pattern": 2}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SIZES | {"num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "gemma3_text": SIZES | GROUPED | WINDOW,
    "gpt_neox": SIZES | {"use_parallel_residual": True},
    "qwen3_moe": SIZES | GROUPED | EXPERTS,
    "phi": SIZES,
}
BLOCKS = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}
# Behind a norm of its own, where the architecture has one: what is added to the stream comes out there.
ATTENTION = {"gpt2": "attn", "gpt_neox": "attention", "gemma3_text": "post_attention_layernorm"}
MLP = {"gemma3_text": "post_feedforward_layernorm"}
PROJECTION = {"gpt2": "attn.c_proj", "gpt_neox": "attention.dense", "phi": "self_attn.dense"}


@functools.cache
def family(name: str) -> LanguageModel:
    """A random model of three layers; its norms are random too, so that one left out would show."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **COMMON, **CONFIGS[name])
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return LanguageModel(hf, byte_tokenizer(), name)


@functools.cache
def hybrid() -> LanguageModel:
    """A random Qwen3-Next: three recurrent blocks and one of attention, each with experts."""
    torch.manual_seed(0)
    config = transformers.Qwen3NextConfig(
        **COMMON | SIZES | GROUPED | EXPERTS | LINEAR | {"num_hidden_layers": 4},
        shared_expert_intermediate_size=16,
    )
    return LanguageModel(transformers.Qwen3NextForCausalLM(config).eval(), byte_tokenizer(), "hybrid")


def spot(lm: LanguageModel, site: SiteName, layer: int) -> tuple[nn.Module, str]:
    """The module and side of a site, by the names that its family gives them."""
    block = lm.hf.get_submodule(f"{BLOCKS.get(lm.name, 'model.layers')}.{layer}")
    if site in ("resid_pre", "resid_post"):
        return block, "in" if site == "resid_pre" else "out"
    names = {
        "attn_out": ATTENTION.get(lm.name, "self_attn"),
        "mlp_out": MLP.get(lm.name, "mlp"),
        "z": PROJECTION.get(lm.name, "self_attn.o_proj"),
    }
    return block.get_submodule(names[site]), "in" if site == "z" else "out"


def width_of(lm: LanguageModel, site: SiteName) -> int:
    """Width of the states at a site, from the config."""
    return 64 if site == "z" and hasattr(lm.config, "head_dim") and lm.config.head_dim == 16 else 32


def random_at(lm: LanguageModel, site: SiteName, seed: int, size: float = 1.0) -> SteeringVector:
    """A random vector at a site, `size` times as long as a standard normal one."""
    metadata = VectorMetadata(
        name=f"{site}-{seed}",
        model=lm.name,
        fingerprint=lm.fingerprint,
        site=site,
        method="random",
        aggregation="last",
        scaling="norm",
        heads=4 if site == "z" else None,
    )
    noise = torch.randn(lm.n_layers, width_of(lm, site), generator=torch.Generator().manual_seed(seed))
    return SteeringVector(size * noise, metadata)


def states_at(lm: LanguageModel, site: SiteName, ids: list[int]) -> Tensor:
    """What stands at a site while one text runs by itself, `[n_layers, position, width]`."""
    seen: list[Tensor] = []

    def after(_module: object, _args: object, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    def before(_module: object, args: Any, kwargs: Any) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"])[0].clone())

    handles = []
    for layer in range(lm.n_layers):
        module, side = spot(lm, site, layer)
        if side == "out":
            handles.append(module.register_forward_hook(after))
        else:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
    try:
        with torch.inference_mode():
            lm.hf(torch.tensor([ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen)
