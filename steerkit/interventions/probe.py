"""Probe: at every layer a logistic reading of the unsteered state, with what is needed not to misapply it.

It answers, before the first token is written, whether a prompt calls for a behaviour: P(positive) =
sigmoid(weight[l] · h + bias[l]) for the state h at the last prompt token, at its site of block l. On disk it is two
tensors and one entry of a safetensors header, so it lies in a file of its own or beside a vector's tensors;
`load_probe` reads both.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.files import fault_of, read_tensors, write_tensors
from steerkit.core.sites import RESID_POST
from steerkit.interventions.base import log_odds_of
from steerkit.interventions.layer_tensors import LayerMetadata, LayerTensors

FORMAT_VERSION = 1
HEADER_KEY = "steerkit.probe"
WEIGHT, BIAS = "gate_weight", "gate_bias"
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


class ProbeMetadata(LayerMetadata):
    """What a probe says of itself.

    Per layer, on examples that the fit and the calibration did not see: `auroc`, the mean over the folds of
    the chance that a positive example scores above a negative one; `brier`, the mean squared error of the
    probability; `ece`, the expected calibration error over ten equal bins. `baseline_auroc` is what words alone
    (TF-IDF) reach on the same folds. `layer` is the one with the best `auroc`; `regularisation` the C of the
    logistic regression. `threshold` applies unless another is named: the first of `thresholds`, or even odds.
    """

    format_version: int = FORMAT_VERSION
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


@dataclass(frozen=True, eq=False, repr=False)
class Probe(LayerTensors):
    """P(positive) = sigmoid(weight[l] · h + bias[l]) for the unsteered state h at the last prompt token.

    `weight` `[n_layers, width]` and `bias` `[n_layers]`, float32 on the CPU, take the state as it is at the site of
    block l: standardisation and calibration are folded in. Raises InputError where the tensors do not fit together.
    """

    weight: Tensor
    bias: Tensor
    metadata: ProbeMetadata

    noun: ClassVar[str] = "probe"
    again: ClassVar[str] = "fit one on"

    def __post_init__(self) -> None:
        if self.weight.ndim != 2:
            raise InputError(f"a probe is [n_layers, width], got shape {list(self.weight.shape)}")
        self.keep("weight", self.weight.shape)
        self.keep("bias", self.weight.shape[:1])
        layers = [self.metadata.layer, *(threshold.layer for threshold in self.metadata.thresholds)]
        if max(layers) >= self.n_layers:
            raise InputError(f"probe {self.name!r} names layer {max(layers)} but has {self.n_layers} layers")

    @property
    def rows(self) -> Tensor:
        """The weights `[n_layers, width]`."""
        return self.weight

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of weight, bias and site: two probes with one digest read alike."""
        site = "" if self.site == RESID_POST else self.site
        shape = site.encode() + json.dumps(list(self.weight.shape)).encode()
        return hashlib.sha256(shape + self.weight.numpy().tobytes() + self.bias.numpy().tobytes()).hexdigest()

    def logit(self, layer: int, states: Tensor) -> Tensor:
        """Log-odds of the behaviour, float32, for states `[..., width]` of any dtype and device -> `[...]`."""
        self.check_layer(layer)
        return states.float() @ self.weight[layer].to(states.device) + self.bias[layer].to(states.device)

    def probability(self, layer: int, states: Tensor) -> Tensor:
        """P(positive) for states `[..., width]` -> `[...]`; calibrated for the base rate of the fitted data."""
        return self.logit(layer, states).sigmoid()

    def fires(self, layer: int, states: Tensor, threshold: float | None = None) -> Tensor:
        """Whether P(positive) is at least `threshold` (default: the probe's own), bool `[...]`.

        Compared as log-odds, where nothing saturates.
        """
        least = self.metadata.threshold if threshold is None else threshold
        return self.logit(layer, states) >= log_odds_of(least)

    def with_threshold(self, threshold: ProbeThreshold) -> Probe:
        """The same probe with one more threshold, which becomes the default."""
        thresholds = (threshold, *self.metadata.thresholds)
        return replace(self, metadata=self.metadata.model_copy(update={"thresholds": thresholds}))

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
        return write_tensors(Path(path), self.tensors(), self.header(), "probe")

    def __repr__(self) -> str:
        return f"Probe({self.name!r}, for {self.metadata.model}, layer {self.metadata.layer}{self.where})"


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
        raise InputError(f"{where}: the probe's metadata is {fault_of(error, 'header')}") from error


def load_probe(path: Probe | str | os.PathLike[str]) -> Probe:
    """Read a probe from a file of its own, or from a vector's file that holds one; a probe is returned as it is.

    Raises MisuseError where there is no such file or no probe in it, InputError where it is damaged.
    """
    if isinstance(path, Probe):
        return path
    path = Path(path)
    if not path.is_file():
        raise MisuseError(f"no probe file {str(path)!r}; make one with `steerkit extract --as probe`")
    header, tensors = read_tensors(path, "probe")
    probe = probe_from(tensors, header, path)
    if probe is None:
        raise MisuseError(f"{path} holds no probe; make one with `steerkit extract --as probe`")
    return probe
