"""Probe: at every layer a logistic reading of the unsteered state, with what is needed not to misapply it.

It answers, before the first token is written, whether a prompt calls for a behaviour: P(positive) =
sigmoid(weight[l] · h + bias[l]) for the state h at the last prompt token, at its site of block l. On disk it is two
tensors and one entry of a safetensors header, so it lies in a file of its own or beside a vector's tensors;
`load_probe` reads both. Where it was found to be a coin on some kinds of question, it brings two tensors more, which
tell those kinds by the same state: a gate stays shut on them.
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
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.files import fault_of, read_tensors, write_tensors
from steerkit.core.registry import VIEWS
from steerkit.core.sites import RESID_POST
from steerkit.interventions.base import log_odds_of
from steerkit.interventions.drift import DriftReference, drift_from
from steerkit.interventions.layer_tensors import LayerMetadata, LayerTensors
from steerkit.interventions.probe_report import GateReport, ThresholdBound

FORMAT_VERSION = (
    2  # of probes that keep a gate shut, which older readers would open; the others are of version 1
)
HEADER_KEY = "steerkit.probe"
WEIGHT, BIAS = "gate_weight", "gate_bias"
SHUT_WEIGHT, SHUT_BIAS = "gate_shut_weight", "gate_shut_bias"
EVEN_ODDS = 0.5
COMPLETION = "completion"  # the aggregation of a probe that was fitted on states of completions


class ProbeThreshold(BaseModel):
    """The probability from which a gate fires, chosen so that it fires for few that it should leave alone.

    `budget` is the largest false positive rate that was allowed on the items that chose it; the two rates are
    what the threshold reached there: the share of negative (answerable) items for which the gate fires, and of
    positive ones. `data`, `data_digest` and `count` say which items those were. `bound` is what holds of the false
    positives with confidence, where it was asked for.
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
    bound: ThresholdBound | None = None


class ProbeMetadata(LayerMetadata):
    """What a probe says of itself.

    Per layer, on examples that the fit and the calibration did not see: `auroc`, the mean over the folds of
    the chance that a positive example scores above a negative one; `brier`, the mean squared error of the
    probability; `ece`, the expected calibration error over ten equal bins. `baseline_auroc` is what words alone
    (TF-IDF) reach on the same folds. `aggregation` is `prompt` for a probe of the last prompt token, `completion` for
    one of tokens that the model wrote. `layer` is the one with the best `auroc`; `regularisation` the C of
    the logistic regression. `threshold` applies unless another is named: the first of `thresholds`, or even odds.
    `shut_kinds` are the kinds of question on which a gate is kept shut, read at `shut_layer`; `report` is what
    `gate fit` measured. `active_above` makes the probe the encoder of an autoencoder's feature: weight · h + bias is
    then the feature's activation where it is above that, and elsewhere the feature is silent (`FeatureReader`).
    """

    format_version: int = 1
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
    shut_kinds: tuple[str, ...] = ()
    shut_layer: int | None = None
    active_above: float | None = Field(default=None, ge=0)
    report: GateReport | None = None
    steerkit_version: str = ""

    @property
    def threshold(self) -> float:
        """The probability from which the probe fires by default."""
        return self.thresholds[0].threshold if self.thresholds else EVEN_ODDS


@dataclass(frozen=True, eq=False)
class ShutReading:
    """Tells by the state at one layer whether a question is of a kind on which the gate is a coin.

    It is taken for one where `weight` `[width]` · h + `bias` `[1]` > 0.
    """

    weight: Tensor
    bias: Tensor

    def of(self, states: Tensor) -> Tensor:
        """Whether to keep the gate shut, bool `[...]` for states `[..., width]`."""
        return states.float() @ self.weight.to(states.device) + self.bias.to(states.device)[0] > 0


@dataclass(frozen=True, eq=False, repr=False)
class Probe(LayerTensors):
    """P(positive) = sigmoid(weight[l] · h + bias[l]) for the unsteered state h at the last prompt token.

    `weight` `[n_layers, width]` and `bias` `[n_layers]`, float32 on the CPU, take the state as it is at the site of
    block l: standardisation and calibration are folded in. With `shut_weight` `[width]` and `shut_bias` `[1]`, a gate
    stays shut on the kinds that they tell (`metadata.shut_kinds`), whatever the probability; the probability itself,
    which readers show, is as it is. `drift` notices
    questions unlike those of a bound. Raises InputError where the tensors do not fit together.
    """

    weight: Tensor
    bias: Tensor
    metadata: ProbeMetadata
    shut_weight: Tensor | None = None
    shut_bias: Tensor | None = None
    drift: DriftReference | None = None

    noun: ClassVar[str] = "probe"
    again: ClassVar[str] = "fit one on"

    def __post_init__(self) -> None:
        if self.weight.ndim != 2:
            raise InputError(f"a probe is [n_layers, width], got shape {list(self.weight.shape)}")
        self.keep("weight", self.weight.shape)
        self.keep("bias", self.weight.shape[:1])
        if (self.shut_weight is None) != (self.metadata.shut_layer is None):
            raise InputError(f"probe {self.name!r} lacks a part of what keeps its gate shut: write it again")
        if self.shut_weight is not None:
            self.keep("shut_weight", self.weight.shape[1:])
            self.keep("shut_bias", torch.Size([1]))
        layers = [self.metadata.layer, *(threshold.layer for threshold in self.metadata.thresholds)]
        layers += [] if self.metadata.shut_layer is None else [self.metadata.shut_layer]
        if max(layers) >= self.n_layers:
            raise InputError(f"probe {self.name!r} names layer {max(layers)} but has {self.n_layers} layers")

    @property
    def rows(self) -> Tensor:
        """The weights `[n_layers, width]`."""
        return self.weight

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of weight, bias and site, of what keeps a gate shut, and of where a feature is active.

        Two probes with one digest read alike.
        """
        site = "" if self.site == RESID_POST else self.site
        shape = site.encode() + json.dumps(list(self.weight.shape)).encode()
        contents = shape + self.weight.numpy().tobytes() + self.bias.numpy().tobytes()
        if self.shut is not None:
            contents += f"shut at {self.metadata.shut_layer}".encode()
            contents += self.shut.weight.numpy().tobytes() + self.shut.bias.numpy().tobytes()
        if self.metadata.active_above is not None:
            contents += f"active above {self.metadata.active_above!r}".encode()
        return hashlib.sha256(contents).hexdigest()

    @property
    def shut(self) -> ShutReading | None:
        """What tells the kinds on which the gate is kept shut; None where there are none."""
        if self.shut_weight is None or self.shut_bias is None:
            return None
        return ShutReading(self.shut_weight, self.shut_bias)

    def logit(self, layer: int, states: Tensor) -> Tensor:
        """Log-odds of the behaviour, float32, for states `[..., width]` of any dtype and device -> `[...]`."""
        self.check_layer(layer)
        return states.float() @ self.weight[layer].to(states.device) + self.bias[layer].to(states.device)

    def probability(self, layer: int, states: Tensor) -> Tensor:
        """P(positive) for states `[..., width]` -> `[...]`; calibrated for the base rate of the fitted data."""
        return self.logit(layer, states).sigmoid()

    def opening(self, layer: int, states: Tensor) -> Tensor:
        """Log-odds as a gate takes them, `[...]` for states `[..., width]`: -inf where it is kept shut.

        Raises MisuseError at another layer than that at which the kinds are told.
        """
        log_odds = self.logit(layer, states)
        if self.shut is None:
            return log_odds
        self.check_gate_layer(layer)
        return log_odds.masked_fill(self.shut.of(states), -math.inf)

    def check_prompts(self) -> None:
        """Raise MisuseError for a probe that was fitted on completions, and says nothing of prompts."""
        if self.metadata.aggregation == COMPLETION:
            raise MisuseError(
                f"probe {self.name!r} was fitted on completions, and what reads here reads prompts: give it to a "
                "reader (ProbeReader), or fit one on prompts"
            )

    def check_gate_layer(self, layer: int) -> None:
        """Raise MisuseError unless a gate can read at the layer."""
        self.check_prompts()
        self.check_layer(layer)
        if self.metadata.shut_layer not in (None, layer):
            raise MisuseError(
                f"probe {self.name!r} tells the kinds on which it keeps a gate shut at layer "
                f"{self.metadata.shut_layer}, not at {layer}: leave the gate's layer out"
            )

    def fires(self, layer: int, states: Tensor, threshold: float | None = None) -> Tensor:
        """Whether a gate opens from P(positive) `threshold` on (default: the probe's own), bool `[...]`.

        Compared as log-odds, where nothing saturates. Raises as `opening`.
        """
        least = self.metadata.threshold if threshold is None else threshold
        return self.opening(layer, states) >= log_odds_of(least)

    def with_threshold(self, threshold: ProbeThreshold) -> Probe:
        """The same probe with one more threshold, which becomes the default."""
        thresholds = (threshold, *self.metadata.thresholds)
        return replace(self, metadata=self.metadata.model_copy(update={"thresholds": thresholds}))

    def tensors(self) -> dict[str, Tensor]:
        """The probe's tensors under the names that they have in a file."""
        found = {WEIGHT: self.weight, BIAS: self.bias}
        if self.shut is not None:
            found |= {SHUT_WEIGHT: self.shut.weight, SHUT_BIAS: self.shut.bias}
        return found if self.drift is None else found | self.drift.tensors()

    def header(self) -> dict[str, str]:
        """The probe's entry in a safetensors header."""
        return {HEADER_KEY: self.metadata.model_dump_json()}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the probe to a file of its own, whole or not at all.

        Raises MisuseError where `path` is a folder or a device, SteerkitError where it cannot be written.
        """
        return write_tensors(Path(path), self.tensors(), self.header(), "probe")

    def _repr_html_(self) -> str:
        return str(VIEWS["probe"](self))

    def __repr__(self) -> str:
        return f"Probe({self.name!r}, for {self.metadata.model}, layer {self.metadata.layer}{self.where})"


def probe_from(tensors: Mapping[str, Tensor], header: Mapping[str, str], where: object) -> Probe | None:
    """The probe among a safetensors file's tensors and header entries, or None where it holds none.

    `where` names the file in messages. Raises InputError where the probe is damaged or only half there.
    """
    parts = [HEADER_KEY in header, WEIGHT in tensors, BIAS in tensors]
    if not any(parts):
        return None
    if not all(parts) or (SHUT_WEIGHT in tensors) != (SHUT_BIAS in tensors):
        raise InputError(f"{where} holds only part of a probe: write it again")
    try:
        metadata = ProbeMetadata.model_validate_json(header[HEADER_KEY])
        if metadata.format_version > FORMAT_VERSION:
            raise InputError(
                f"{where} has probe format {metadata.format_version}; this steerkit reads up to {FORMAT_VERSION}"
            )
        return Probe(
            tensors[WEIGHT],
            tensors[BIAS],
            metadata,
            tensors.get(SHUT_WEIGHT),
            tensors.get(SHUT_BIAS),
            drift_from(tensors),
        )
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
