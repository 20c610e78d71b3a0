"""Is what was commanded what happened? A commanded shift at each layer against the shift that is read there."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from steerkit.engines.context import steer
from steerkit.models import LanguageModel
from steerkit.models.sites import hidden_of
from steerkit.vector import SteeringVector, VectorMetadata

PROBE = "The weather in the valley turned before noon"
# Relative error that the number format explains, with room to spare.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Diagnosis:
    """`facts` about model and machine; `errors[l]`, how far the realised shift at layer l is from the commanded."""

    facts: dict[str, Any]
    errors: list[float]
    tolerance: float

    @property
    def worst(self) -> int:
        """The layer with the largest error."""
        return max(range(len(self.errors)), key=self.errors.__getitem__)

    @property
    def healthy(self) -> bool:
        """Whether steering arrives everywhere."""
        return self.errors[self.worst] <= self.tolerance


def diagnose(lm: LanguageModel) -> Diagnosis:
    """Shift every layer in turn by a tenth of its norm and compare with what arrives; one forward pass a layer."""
    ids = torch.tensor([lm.renderer.encode(PROBE)], device=lm.device)
    plain = _last_states(lm, ids)
    noise = torch.randn(plain.shape, generator=torch.Generator().manual_seed(0))
    shift = 0.1 * plain.norm(dim=-1, keepdim=True) * noise / noise.norm(dim=-1, keepdim=True)
    metadata = VectorMetadata(
        name="probe",
        model=lm.name,
        fingerprint=lm.fingerprint,
        method="random",
        aggregation="last",
        scaling="norm",
    )
    vector = SteeringVector(shift, metadata)
    errors = []
    for layer in range(lm.n_layers):
        with steer(lm, vector.at(layer, 1.0)):
            realised = _last_states(lm, ids)[layer] - plain[layer]
        errors.append(float((realised - shift[layer]).norm() / shift[layer].norm()))
    facts = {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "layers": lm.n_layers,
        "width": lm.d_model,
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "chat template": "yes" if lm.renderer.has_chat_template else "no, plain form",
        "python": platform.python_version(),
    } | {package: version(package) for package in ("steerkit", "torch", "transformers", "transformer-lens")}
    return Diagnosis(facts, errors, TOLERANCE.get(lm.dtype, 5e-2))


def _last_states(lm: LanguageModel, ids: Tensor) -> Tensor:
    """The last position's residual stream after every block, `[n_layers, d_model]` float32 on the CPU."""
    seen: list[Tensor] = []
    handles = [
        b.register_forward_hook(lambda _m, _a, out: seen.append(hidden_of(out)[0, -1])) for b in lm.blocks
    ]
    try:
        with torch.inference_mode():
            lm.decoder(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen).float().cpu()
