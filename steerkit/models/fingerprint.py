"""Which model is this? The architecture, its sizes, and a digest of a fixed sample of its weights."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

SAMPLES_PER_TENSOR = 32


def fingerprint(hf: nn.Module, n_layers: int, d_model: int) -> str:
    """`Class-LAYERSxWIDTH:digest`; the same for float32 and bfloat16 loads of one checkpoint."""
    return f"{type(hf).__name__}-{n_layers}x{d_model}:{weights_digest(hf)}"


def weights_digest(hf: nn.Module) -> str:
    """16 hex digits over the parameters' names and shapes, and a sample of their values.

    Of each parameter, evenly spaced values are rounded to bfloat16, so that loading in another precision
    changes nothing while other weights do (float16 may round a weight twice). Costs one small copy to the host.
    """
    sampled = []
    names = []
    for name, weight in sorted(hf.named_parameters()):
        flat = weight.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLES_PER_TENSOR)
        sampled.append(flat[::step][:SAMPLES_PER_TENSOR].to(torch.bfloat16))
        names.append(f"{name}{list(weight.shape)}")
    values = torch.cat(sampled).view(torch.int16).cpu().numpy().tobytes()
    return hashlib.sha256("\n".join(names).encode() + values).hexdigest()[:16]
