"""Which model does this server run? vLLM fuses and shards weights, so it is known by its checkpoint's own files."""

from __future__ import annotations

from pathlib import Path

from steerkit.interventions.layer_tensors import Described, LayerTensors
from steerkit.models.checkpoint import checkpoint_fingerprint


class ModelIdentity:
    """Architecture, sizes and, where it can be known, the fingerprint of the model that is served."""

    def __init__(self, model: str, architecture: str, n_layers: int, d_model: int) -> None:
        self.model = model
        self.name = Path(model).name if Path(model).is_dir() else model  # in messages, which clients see
        self.architecture = architecture
        self.n_layers = n_layers
        self.d_model = d_model
        self._fingerprint: str | None = None

    def check(self, vector: LayerTensors, *, exact: bool) -> None:
        """Raise ModelMismatchError unless the vector or probe was made for this model; see `LayerTensors.check`.

        With `exact`, also raises InputError where the weights' fingerprint cannot be computed.
        """
        if exact and self._fingerprint is None:
            self._fingerprint = checkpoint_fingerprint(self.model)
        known = self._fingerprint or f"{self.architecture}-{self.n_layers}x{self.d_model}:"
        vector.check(Described(self.name, known, self.n_layers, self.d_model), exact=exact)
