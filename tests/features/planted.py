"""A model whose states are known, and autoencoders written by hand in SAELens' format.

The planted model's blocks add nothing to the residual stream, so at every layer the state of a token is its embedding:
a letter stands for a sum of planted directions, and what a feature reads there is worked out by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import steerkit as sk
from tests.tiny import tiny_model

WIDTH = 32
LAYER = 2
HOOK = f"blocks.{LAYER}.hook_resid_post"
# Letter -> how much of the planted directions 0, 1, 2 … its state holds.
PLANTED = {"A": (3.0, 0.0, 0.0), "B": (0.0, 2.0, 0.0), "C": (1.0, 1.0, 0.5), "D": (0.0, 0.0, 4.0)}


def directions() -> Tensor:
    """`[WIDTH, WIDTH]`: orthonormal directions, a row each."""
    generator = torch.Generator().manual_seed(11)
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0].T.contiguous()


def planted_model() -> sk.LanguageModel:
    """A tiny model whose letters are planted, and every other token's state is direction 20."""
    lm = tiny_model()
    planted = directions()
    with torch.no_grad():
        for block in lm.hf.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        embedding = lm.hf.get_input_embeddings().weight
        embedding[:] = planted[20]
        for letter, amounts in PLANTED.items():
            (token,) = lm.renderer.encode(letter)
            embedding[token] = sum(amount * planted[i] for i, amount in enumerate(amounts))
    return sk.LanguageModel(lm.hf, lm.tokenizer, "planted")


def tensors(architecture: str = "standard", n: int = 6, seed: int = 3) -> dict[str, Tensor]:
    """Random weights of an autoencoder of `n` features, with decoder rows of unlike lengths."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    found = {"W_enc": drawn(WIDTH, n), "W_dec": drawn(n, WIDTH), "b_dec": 0.3 * drawn(WIDTH)}
    if architecture == "gated":
        return {**found, "b_gate": drawn(n), "b_mag": drawn(n), "r_mag": 0.4 * drawn(n)}
    found["b_enc"] = drawn(n)
    return {**found, "threshold": drawn(n).abs()} if architecture == "jumprelu" else found


def reading_the_planted() -> dict[str, Tensor]:
    """An autoencoder whose feature i is active by what a state holds of direction i above 0.25, and stands for it."""
    planted = directions()[:4]
    return {
        "W_enc": planted.T.contiguous(),
        "b_enc": torch.full((4,), -0.25),
        "W_dec": planted.clone(),
        "b_dec": torch.zeros(WIDTH),
    }


def write(
    folder: Path,
    weights: Mapping[str, Tensor],
    architecture: str = "standard",
    *,
    flat: bool = False,
    **options: Any,
) -> Path:
    """Write the folder; `flat` is the form of `cfg.json` up to SAELens 5."""
    folder.mkdir(parents=True, exist_ok=True)
    features = weights["W_dec"].shape[0]
    place = {"hook_name": HOOK, "model_name": "planted"}
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": WIDTH,
        "d_sae": features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
    }
    if flat:
        config |= {
            **place,
            "hook_layer": LAYER,
            "activation_fn_str": "relu",
            "finetuning_scaling_factor": False,
        }
    else:
        config |= {"reshape_activations": "none", "metadata": place}
    (folder / "cfg.json").write_text(json.dumps(config | options))
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, folder / "sae_weights.safetensors"
    )
    return folder
