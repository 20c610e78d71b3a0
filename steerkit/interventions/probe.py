"""Probe: at every layer a logistic reading of the unsteered state, with what is needed not to misapply it.

It answers, before the first token is written, whether a prompt calls for a behaviour: P(positive) =
sigmoid(weight[l] · h + bias[l]) for the state h at the last prompt token, output of block l. On disk it is two
tensors and one entry of a safetensors header, so it lies in a file of its own or beside a vector's tensors;
`load_probe` reads both.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.files import replacing

FORMAT_VERSION = 1
HEADER_KEY = "steerkit.probe"
WEIGHT, BIAS = "gate_weight", "gate_bias"
LARGEST_FILE = 1 << 30
EVEN_ODDS = 0.5


class ProbeThreshold(BaseModel):
    """The probability from which a gate fires, chosen so that it fires for few that it should leave alone.

    `budget` is the largest false positive rate that was allowed on the items that chose it; the two rates are
    what the threshold reached there: the share of negative (answerable) items for which the gate fires, and of
    positive ones. `data`, `data_digest` and `count` say which items those were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: float = Field(ge=0, le=1)
    threshold: float = Field(gt=0, lt=1)
    layer: int = Field(ge=0)
    choose_false_positive_rate: float = Field(ge=0, le=1)
    choose_true_positive_rate: float = Field(ge=0, le=1)
    data: str = ""
    data_digest: str = ""
    count: int = Field(default=0, ge=0)


class ProbeMetadata(BaseModel):
    """What a probe says of itself.

    Per layer, on examples that the fit and the calibration did not see: `auroc`, the mean over the folds of
    the chance that a positive example scores above a negative one; `brier`, the mean squared error of the
    probability; `ece`, the expected calibration error over ten equal bins. `baseline_auroc` is what words alone
    (TF-IDF) reach on the same folds. `layer` is the one with the best `auroc`; `regularisation` the C of the
    logistic regression. `threshold` applies unless another is named: the first of `thresholds`, or even odds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    name: str
    model: str
    fingerprint: str
    positive: str = ""
    site: str = "resid_post"
    layer_convention: str = "layer l is the output of decoder block l, counted from 0"
    aggregation: str = "prompt"
    template_digest: str = ""
    data: tuple[str, ...] = ()
    data_digest: str = ""
    data_count: int = 0
    regularisation: float | None = None
    calibration: Literal["platt", "none"] = "none"
    auroc: tuple[float, ...] | None = None
    brier: tuple[float, ...] | None = None
    ece: tuple[float, ...] | None = None
    baseline_auroc: float | None = None
    layer: int = Field(ge=0)
    thresholds: tuple[ProbeThreshold, ...] = ()
    steerkit_version: str = ""

    @property
    def threshold(self) -> float:
        """The probability from which the probe fires by default."""
        return self.thresholds[0].threshold if self.thresholds else EVEN_ODDS


@dataclass(frozen=True, eq=False)
class Probe:
    """P(positive) = sigmoid(weight[l] · h + bias[l]) for the unsteered state h at the last prompt token.

    `weight` `[n_layers, d_model]` and `bias` `[n_layers]`, float32 on the CPU, take the state as it leaves block
    l: standardisation and calibration are folded in. Raises InputError where the tensors do not fit together.
    """

    weight: Tensor
    bias: Tensor
    metadata: ProbeMetadata

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise InputError(
                f"a probe is [n_layers, d_model] with one bias a layer, got {list(self.weight.shape)} and "
                f"{list(self.bias.shape)}"
            )
        for name in ("weight", "bias"):
            kept = getattr(self, name).detach().to("cpu", torch.float32).contiguous()
            if not torch.isfinite(kept).all():
                raise InputError(f"the {name} of probe {self.name!r} holds NaN or Inf: fit it again")
            object.__setattr__(self, name, kept)
        layers = [self.metadata.layer, *(threshold.layer for threshold in self.metadata.thresholds)]
        if max(layers) >= self.n_layers:
            raise InputError(f"probe {self.name!r} names layer {max(layers)} but has {self.n_layers} layers")

    @property
    def name(self) -> str:
        """The probe's own name, as records show it."""
        return self.metadata.name

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks of the model that the probe belongs to."""
        return self.weight.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.weight.shape[1]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of weight and bias: two probes with one digest read alike."""
        shape = json.dumps(list(self.weight.shape)).encode()
        return hashlib.sha256(shape + self.weight.numpy().tobytes() + self.bias.numpy().tobytes()).hexdigest()

    def logit(self, layer: int, states: Tensor) -> Tensor:
        """Log-odds of the behaviour, float32, for states `[..., d_model]` of any dtype and device -> `[...]`."""
        self.check_layer(layer)
        return states.float() @ self.weight[layer].to(states.device) + self.bias[layer].to(states.device)

    def probability(self, layer: int, states: Tensor) -> Tensor:
        """P(positive) for states `[..., d_model]` -> `[...]`; calibrated for the base rate of the fitted data."""
        return self.logit(layer, states).sigmoid()

    def fires(self, layer: int, states: Tensor, threshold: float | None = None) -> Tensor:
        """Whether P(positive) is at least `threshold` (default: the probe's own), bool `[...]`.

        Compared as log-odds, where nothing saturates.
        """
        return self.logit(layer, states) >= log_odds_of(
            self.metadata.threshold if threshold is None else threshold
        )

    def with_threshold(self, threshold: ProbeThreshold) -> Probe:
        """The same probe with one more threshold, which becomes the default."""
        thresholds = (threshold, *self.metadata.thresholds)
        return replace(self, metadata=self.metadata.model_copy(update={"thresholds": thresholds}))

    def check_layer(self, layer: int) -> None:
        """Raise MisuseError unless the probe's model has this layer."""
        if not 0 <= layer < self.n_layers:
            raise MisuseError(f"probe {self.name!r} has layers 0 to {self.n_layers - 1}, not {layer}")

    def check_model(
        self, fingerprint: str, n_layers: int, d_model: int, name: str, *, exact: bool = True
    ) -> None:
        """Raise ModelMismatchError unless this probe was fitted on the model so described.

        With `exact=False` the same shape with other weights passes.
        """
        ours = self.metadata.fingerprint
        same_architecture = ours.split(":")[0] == fingerprint.split(":")[0]
        if (self.n_layers, self.d_model) != (n_layers, d_model) or not same_architecture:
            raise ModelMismatchError(
                f"probe {self.name!r} is for {self.metadata.model} ({ours.split(':')[0]}, {self.n_layers} layers, "
                f"width {self.d_model}), but {name} is {fingerprint.split(':')[0]} with {n_layers} layers, width "
                f"{d_model}: fit one on {name}"
            )
        if exact and ours != fingerprint:
            raise ModelMismatchError(
                f"probe {self.name!r} was fitted on other weights ({self.metadata.model}) than those of {name}: fit "
                "it again, or pass --allow-mismatch if the difference is meant"
            )

    def tensors(self) -> dict[str, Tensor]:
        """The probe's tensors under the names that they have in a file."""
        return {WEIGHT: self.weight, BIAS: self.bias}

    def header(self) -> dict[str, str]:
        """The probe's entry in a safetensors header."""
        return {HEADER_KEY: self.metadata.model_dump_json()}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the probe to a file of its own, whole or not at all.

        Raises MisuseError where `path` is a folder or a device, SteerkitError where it cannot be written.
        """
        path = Path(path)
        with replacing(path, "the probe") as scratch:
            try:
                save_file(self.tensors(), scratch, metadata=self.header())
            except SafetensorError as error:  # its own kind, for a full disk too
                raise OSError(str(error)) from error
        return path


def log_odds_of(probability: float) -> float:
    """log(p / (1 - p)). Raises MisuseError unless p lies between 0 and 1, both excluded."""
    if not 0 < probability < 1:
        raise MisuseError(f"a probe's threshold is a probability between 0 and 1, got {probability}")
    return math.log(probability) - math.log1p(-probability)


def probe_from(tensors: Mapping[str, Tensor], header: Mapping[str, str], where: object) -> Probe | None:
    """The probe among a safetensors file's tensors and header entries, or None where it holds none.

    `where` names the file in messages. Raises InputError where the probe is damaged or only half there.
    """
    parts = [HEADER_KEY in header, WEIGHT in tensors, BIAS in tensors]
    if not any(parts):
        return None
    if not all(parts):
        raise InputError(f"{where} holds only part of a probe: write it again")
    try:
        metadata = ProbeMetadata.model_validate_json(header[HEADER_KEY])
        if metadata.format_version > FORMAT_VERSION:
            raise InputError(
                f"{where} has probe format {metadata.format_version}; this steerkit reads up to {FORMAT_VERSION}"
            )
        return Probe(tensors[WEIGHT], tensors[BIAS], metadata)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "header"
        raise InputError(f"{where}: the probe's metadata is damaged at {place!r}: {first['msg']}") from error


def load_probe(path: str | os.PathLike[str]) -> Probe:
    """Read a probe from a file of its own, or from a vector's file that holds one.

    Raises MisuseError where there is no such file or no probe in it, InputError where it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise MisuseError(f"no probe file {str(path)!r}; make one with `steerkit extract --as probe`")
    tensors, header = _read(path)
    probe = probe_from(tensors, header, path)
    if probe is None:
        raise MisuseError(f"{path} holds no probe; make one with `steerkit extract --as probe`")
    return probe


def holds_probe(path: Path) -> bool:
    """Whether the file is a readable safetensors file with a probe's entry in its header."""
    return HEADER_KEY in _read(path)[1]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A safetensors file's probe tensors, as far as there are any, and its header."""
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} is larger than 1 GiB: that is no probe")
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            names = set(file.keys()) & {WEIGHT, BIAS}
            return {name: file.get_tensor(name) for name in names}, header
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}): fit the probe again"
        ) from error
