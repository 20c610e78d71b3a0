"""SteeringVector: one direction per layer, with everything that is needed not to misapply it.

On disk it is a single `.safetensors` file whose header carries the metadata, so the tensor cannot part from
the statement of which model, which site, which template and which pairs it came from.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.files import replacing
from steerkit.interventions.probe import Probe, holds_probe, load_probe, probe_from

if TYPE_CHECKING:
    from steerkit.interventions.steering import Gate, Operation, Positions, ProbeGate, Scope, Steering

FORMAT_VERSION = 1
HEADER_KEY = "steerkit"
OPTIONAL_TENSORS = ("mean_positive", "mean_negative", "activation_norm")
LARGEST_FILE = 1 << 30

Scaling = Literal["gap", "norm", "trained", "combined"]


class CalibrationRecord(BaseModel):
    """One calibrated strength as a vector's metadata keeps it: what was asked, on what, and what was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    strength: float
    operation: str = "add"
    scope: str = "completion"
    target: float | None = None
    statistic: str
    target_kl: float
    measured_kl: float
    interval: tuple[float, float] | None
    rollout_kl: float | None
    tokens: int
    prompts: int
    prompts_digest: str


class VectorMetadata(BaseModel):
    """What a vector file says of itself.

    `separability` and `agreement` are per layer: held-out AUROC of the two sides projected on a direction
    fitted without them, and the mean cosine of each pair's difference to the mean of the others.
    `alignment` is how much the direction promotes the tokens that positive completions begin with, in standard
    deviations over the vocabulary.
    `baseline_separability` is the AUROC that words alone (TF-IDF) reach on the same folds.
    `calibration` holds the strengths that were found to meet a KL target; see `steerkit.calibration`.
    `scaling`: `gap`, strength 1 moves the state by the mean gap of the two sides along the direction; `norm`,
    it has the norm of the vector that it controls; `trained`, as an optimiser or another tool left it, zero at
    layers where there is none; `combined`, the result of vector algebra.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    name: str
    model: str
    fingerprint: str
    positive: str = ""
    site: str = "resid_post"
    layer_convention: str = "layer l is the output of decoder block l, counted from 0"
    method: str
    aggregation: str
    scaling: Scaling = "gap"
    template_digest: str = ""
    pairs_digest: str = ""
    pairs_count: int = 0
    separability: tuple[float, ...] | None = None
    baseline_separability: float | None = None
    agreement: tuple[float, ...] | None = None
    alignment: tuple[float, ...] | None = None
    calibration: tuple[CalibrationRecord, ...] | None = None
    steerkit_version: str = ""


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A direction `[n_layers, d_model]` float32 on the CPU, from the negative to the positive side.

    `mean_positive` and `mean_negative` are the two sides' mean states `[n_layers, d_model]`;
    `activation_norm` `[n_layers]` is the mean norm of the residual stream over the pairs' tokens, the first
    position left out. A vector without them steers all the same; it only reports less. `probe` is a gate that
    travels with the vector; see `steerkit.interventions.steering.ProbeGate`.
    """

    direction: Tensor
    metadata: VectorMetadata
    mean_positive: Tensor | None = None
    mean_negative: Tensor | None = None
    activation_norm: Tensor | None = None
    probe: Probe | None = None

    def __post_init__(self) -> None:
        if self.direction.ndim != 2:
            raise InputError(f"a direction is [n_layers, d_model], got shape {list(self.direction.shape)}")
        shapes = {
            "direction": self.direction.shape,
            "mean_positive": self.direction.shape,
            "mean_negative": self.direction.shape,
            "activation_norm": self.direction.shape[:1],
        }
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tensor is None:
                continue
            if tensor.shape != shape:
                raise InputError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}")
            kept = tensor.detach().to("cpu", torch.float32).contiguous()
            if not torch.isfinite(kept).all():
                raise InputError(f"{name} of vector {self.name!r} holds NaN or Inf: extract it again")
            object.__setattr__(self, name, kept)

    @property
    def name(self) -> str:
        """The vector's own name, as spec strings and records show it."""
        return self.metadata.name

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks of the model that the vector belongs to."""
        return self.direction.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.direction.shape[1]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the direction: two vectors with one digest steer alike."""
        shape = json.dumps(list(self.direction.shape)).encode()
        return hashlib.sha256(shape + self.direction.numpy().tobytes()).hexdigest()

    def at(
        self,
        layer: int | Sequence[int],
        strength: float = 1.0,
        scope: Scope = "completion",
        operation: Operation = "add",
        target: float | None = None,
        gate: Gate | ProbeGate | None = None,
        half_life: float | None = None,
        positions: Positions = "every",
    ) -> Steering:
        """This vector applied at one layer or several; see `Steering` for the meaning of each field."""
        from steerkit.interventions.steering import (
            Steering,  # the one call up, so that a vector reads as a sentence
        )

        layers = (layer,) if isinstance(layer, int) else tuple(layer)
        return Steering(self, layers, strength, operation, scope, target, gate, half_life, positions)

    def random_control(self, seed: int = 0) -> SteeringVector:
        """A random direction with this vector's norm at every layer: what a push of this size does by itself.

        Drawn from `seed` and this vector's contents, so that a control's own control is another direction.
        """
        drawn_from = hashlib.sha256(f"{seed}:{self.digest}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(drawn_from[:8]))
        noise = torch.randn(self.direction.shape, generator=generator)
        unit = noise / noise.norm(dim=-1, keepdim=True)
        metadata = self.metadata.model_copy(
            update={
                "name": f"random({self.name})" if seed == 0 else f"random({self.name},{seed})",
                "method": "random",
                "scaling": "norm",
                "positive": "",
                "separability": None,
                "agreement": None,
                "alignment": None,
                "calibration": None,
            }
        )
        direction = unit * self.direction.norm(dim=-1, keepdim=True)
        return SteeringVector(direction, metadata, activation_norm=self.activation_norm)

    def relative_dose(self, layer: int, strength: float) -> float | None:
        """|strength| · ||v|| / ||h|| at one layer: the push relative to the stream that it pushes."""
        if self.activation_norm is None:
            return None
        return abs(strength) * float(self.direction[layer].norm() / self.activation_norm[layer])

    def gated(self, threshold: float | None = None) -> ProbeGate:
        """The gate that travels with this vector, for `at(..., gate=...)`. Raises MisuseError where none does."""
        from steerkit.interventions.steering import ProbeGate  # a call up, as in `at`

        if self.probe is None:
            raise MisuseError(
                f"vector {self.name!r} carries no probe: fit one with `steerkit extract --as probe`"
            )
        return ProbeGate(self.probe) if threshold is None else ProbeGate(self.probe, threshold=threshold)

    def with_calibration(self, records: Sequence[CalibrationRecord]) -> SteeringVector:
        """The same vector with these calibrated strengths on record."""
        return replace(self, metadata=self.metadata.model_copy(update={"calibration": tuple(records)}))

    def with_probe(self, probe: Probe | None) -> SteeringVector:
        """The same vector with this probe to travel with it."""
        return replace(self, probe=probe)

    def renamed(self, name: str) -> SteeringVector:
        """The same vector under another name."""
        return replace(self, metadata=self.metadata.model_copy(update={"name": name}))

    def __add__(self, other: SteeringVector) -> SteeringVector:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        if (
            self.metadata.fingerprint != other.metadata.fingerprint
            or self.direction.shape != other.direction.shape
        ):
            raise ModelMismatchError(
                f"{self.name!r} is for {self.metadata.model} and {other.name!r} for {other.metadata.model}: "
                "only vectors of one model can be added"
            )
        return self._combined(self.direction + other.direction, f"({self.name}+{other.name})")

    def __mul__(self, factor: float) -> SteeringVector:
        return self._combined(self.direction * float(factor), f"{factor:g}*{self.name}")

    __rmul__ = __mul__

    def __neg__(self) -> SteeringVector:
        return self._combined(-self.direction, f"-{self.name}")

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return self + -other

    def _combined(self, direction: Tensor, name: str) -> SteeringVector:
        metadata = self.metadata.model_copy(
            update={
                "name": name,
                "positive": "",
                "scaling": "combined",
                "separability": None,
                "baseline_separability": None,
                "agreement": None,
                "alignment": None,
                "calibration": None,
            }
        )
        return SteeringVector(direction, metadata, activation_norm=self.activation_norm)

    def check_model(
        self, fingerprint: str, n_layers: int, d_model: int, name: str, *, exact: bool = True
    ) -> None:
        """Raise ModelMismatchError unless this vector was made for the model so described.

        With `exact=False` the same shape with other weights passes.
        """
        if (self.n_layers, self.d_model) != (n_layers, d_model):
            raise ModelMismatchError(
                f"vector {self.name!r} is for {self.metadata.model} ({self.n_layers} layers, width "
                f"{self.d_model}), but {name} has {n_layers} layers, width {d_model}: extract one from {name}"
            )
        ours, theirs = self.metadata.fingerprint, fingerprint
        if ours.split(":")[0] != theirs.split(":")[0]:
            raise ModelMismatchError(
                f"vector {self.name!r} is for {self.metadata.model} ({ours.split(':')[0]}), but {name} is "
                f"{theirs.split(':')[0]}: extract one from {name}"
            )
        if exact and ours != theirs:
            raise ModelMismatchError(
                f"vector {self.name!r} was extracted from other weights ({self.metadata.model}) than those of "
                f"{name}: extract it again, or pass --allow-mismatch if the difference is meant"
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the vector to `path`, whole or not at all.

        Raises MisuseError where `path` is a folder or a device, SteerkitError where it cannot be written.
        """
        path = Path(path)
        tensors = {"direction": self.direction}
        tensors |= {name: t for name in OPTIONAL_TENSORS if (t := getattr(self, name)) is not None}
        header = {HEADER_KEY: self.metadata.model_dump_json()}
        if self.probe is not None:
            tensors |= self.probe.tensors()
            header |= self.probe.header()
        with replacing(path, "the vector") as scratch:
            try:
                save_file(tensors, scratch, metadata=header)
            except SafetensorError as error:  # its own kind, for a full disk too
                raise OSError(str(error)) from error
        return path


def load_vector(reference: str | os.PathLike[str]) -> SteeringVector:
    """Read a vector from a file, or a published one by its name.

    Raises MisuseError where there is no such file or name, InputError where the file is damaged.
    """
    path = _resolve(reference)
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} is larger than 1 GiB: that is no steering vector")
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}): extract the vector again"
        ) from error
    if HEADER_KEY not in header or "direction" not in tensors:
        raise InputError(
            f"{path} is a safetensors file but not a steerkit vector: it lacks the header or 'direction'"
        )
    try:
        metadata = VectorMetadata.model_validate_json(header[HEADER_KEY])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "header"
        raise InputError(f"{path}: the vector's metadata is damaged at {where!r}: {first['msg']}") from error
    if metadata.format_version > FORMAT_VERSION:
        raise InputError(
            f"{path} has vector format {metadata.format_version}; this steerkit reads up to {FORMAT_VERSION}"
        )
    optional = {name: tensors.get(name) for name in OPTIONAL_TENSORS}
    try:
        return SteeringVector(
            tensors["direction"], metadata, **optional, probe=probe_from(tensors, header, path)
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def load_gate(reference: str | os.PathLike[str]) -> Probe | SteeringVector:
    """What a spec's `gate=` names: the probe in a file where it holds one, else the vector.

    Raises MisuseError where there is no such file or name, InputError where the file is damaged.
    """
    path = _resolve(reference)
    return load_probe(path) if holds_probe(path) else load_vector(path)


def published_vectors() -> dict[str, Path]:
    """Vectors that travel with the package, by name; in a checkout, those of its top-level folder `vectors`."""
    folder = Path(str(resources.files("steerkit"))) / "published"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def _resolve(reference: str | os.PathLike[str]) -> Path:
    path = Path(reference)
    if path.is_file():
        return path
    known = published_vectors()
    if str(reference) in known:
        return known[str(reference)]
    if path.is_dir():
        raise MisuseError(f"{path} is a folder: name the .safetensors file in it")
    names = ", ".join(known) or "none"
    raise MisuseError(
        f"no vector file {str(reference)!r}; published vectors: {names}; make one with `steerkit extract`"
    )
