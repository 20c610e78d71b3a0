"""Which model is this? The architecture, its sizes, and a digest of a fixed sample of its weights.

1. `fingerprint` is one checkpoint's in float32 and bfloat16, on any device, and wherever its weights are kept:
   offloaded ones are read from where their hooks would fetch them, one at a time, and nothing is moved.
2. A quantised model holds other numbers, so it has another fingerprint. `kept_digest` is the one that both share: it
   covers what quantisers leave in floating point, the input embeddings and the parameters of modules without a matrix
   (norms, for the most part).
3. Equal kept digests do not prove one checkpoint. A fine-tune that leaves embeddings and norms alone, such as most
   LoRA adapters merged before quantisation, has its base's. GGUF rounds the embeddings too, so it has one of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from steerkit.core.errors import MisuseError

SAMPLES_PER_TENSOR = 32


def fingerprint(hf: nn.Module, n_layers: int, d_model: int) -> str:
    """`Class-LAYERSxWIDTH:digest`; the same for float32 and bfloat16 loads of one checkpoint."""
    return f"{type(hf).__name__}-{n_layers}x{d_model}:{weights_digest(hf)}"


def weights_digest(hf: nn.Module) -> str:
    """Return 16 hex digits over the parameters' names and shapes, and a sample of their values.

    Of each parameter, evenly spaced values are rounded to bfloat16, so that loading in another precision
    changes nothing while other weights do (float16 may round a weight twice). Costs one small copy to the host.
    Raises MisuseError for a weight that is nowhere: on the meta device, and not offloaded.
    """
    return _digest((name, _read(hf, name, weight)) for name, weight in _untied(hf))


def kept_digest(hf: Any) -> str:
    """Return the digest of what quantisers leave in floating point: 16 hex digits, one for a model and its quantised.

    What it does not tell apart is said at the top of this module.
    """
    embeddings = {id(weight) for weight in hf.get_input_embeddings().parameters()}
    kept = []
    for name, weight in _untied(hf):
        beside = hf.get_submodule(name.rpartition(".")[0]).parameters(recurse=False)
        if id(weight) in embeddings or max(part.ndim for part in beside) < 2:
            kept.append((name, _read(hf, name, weight)))
    return _digest(kept)


def is_quantised(hf: Any) -> bool:
    """Whether the weights are, or were before they were loaded, rounded to fewer bits than a float has."""
    declared = getattr(hf, "is_quantized", False) or getattr(hf.config, "quantization_config", None)
    return bool(declared) or any(
        is_traceable_wrapper_subclass(weight) or not weight.is_floating_point() for weight in hf.parameters()
    )


def _digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    names, sampled = [], []
    for name, weight in sorted(weights, key=lambda named: named[0]):
        names.append(f"{name}{_shape(weight)}")
        sampled += [_sample(part) for part in _stored(weight)]
    values = torch.cat(sampled).view(torch.int16).numpy().tobytes()
    return hashlib.sha256("\n".join(names).encode() + values).hexdigest()[:16]


def _untied(hf: Any) -> Iterator[tuple[str, Tensor]]:
    """The named parameters; of those that share one tensor the first, also where offloading parted them."""
    tied = getattr(hf, "all_tied_weights_keys", None) or {}
    seen = set()
    for name, weight in hf.named_parameters():
        shared = tied.get(name, name)
        if weight.device.type != "meta" or shared not in seen:
            yield name, weight
        seen.add(shared)


def _read(hf: nn.Module, name: str, weight: Tensor) -> Tensor:
    """The weight itself, or where it is offloaded a copy from the map that accelerate's hook fetches it from."""
    if weight.device.type != "meta":
        return weight
    path = name.split(".")
    for depth in reversed(range(len(path))):
        hook = getattr(hf.get_submodule(".".join(path[:depth])), "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            if (offloaded := getattr(one, "weights_map", None)) is not None:
                found: Tensor = offloaded[".".join(path[depth:])]
                return found.to(weight.dtype)
    raise MisuseError(
        f"the model is on the meta device, where its weights, {name} for one, have no values: load them first"
    )


def _shape(weight: Any) -> list[int]:
    state = getattr(weight, "quant_state", None)
    return list(weight.shape if state is None else state.shape)


def _stored(weight: Any) -> list[Tensor]:
    """The plain tensors that hold a weight, alike on every device and before and after the first pass."""
    if (state := getattr(weight, "quant_state", None)) is not None:
        return [_block_maxima(state)]
    if is_traceable_wrapper_subclass(weight):  # as those of torchao and quanto
        parts, _ = weight.__tensor_flatten__()
        return [plain for part in parts for plain in _stored(getattr(weight, part))]
    return [weight]


def _block_maxima(state: Any) -> Tensor:
    """The scales of bitsandbytes' 4-bit blocks, in order; a CPU packs the codes themselves anew in its first pass."""
    maxima: Tensor = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        maxima = dequantize_blockwise(maxima, state.state2) + state.offset
    return maxima.T if getattr(state, "packing_format_for_cpu", False) else maxima


def _sample(values: Tensor) -> Tensor:
    flat = values.detach().reshape(-1)
    step = max(1, flat.numel() // SAMPLES_PER_TENSOR)
    return flat[::step][:SAMPLES_PER_TENSOR].to(torch.bfloat16).cpu()
