"""What vectors and probes have in common: a row of numbers a layer, for one model."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.numbers import check_whole
from steerkit.core.sites import RESID_POST, SiteName, Z


class LayerMetadata(BaseModel):
    """What the header of every file of tensors by layer begins with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    name: str
    model: str
    fingerprint: str
    kept_digest: str = (
        ""  # of what the model has in common with its quantised forms, see `models.fingerprint`
    )
    dtype: str = ""  # number format of the states that it was made of
    positive: str = ""
    site: SiteName = RESID_POST
    layer_convention: str = "layer l is decoder block l, counted from 0, and the site says where in it"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, for {self.model}; model_dump() has all of it)"


class ModelFacts(Protocol):
    """What has to be known of a model to tell whether a vector is for it; a loaded or a served model knows it."""

    @property
    def name(self) -> str:
        """Its name, as a user would give it."""

    @property
    def fingerprint(self) -> str:
        """Architecture, sizes and a digest of the weights."""

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    def width(self, site: SiteName) -> int:
        """Width of the states at a site. Raises MisuseError where that is not known."""

    @property
    def quantised_from(self) -> str:
        """Of a quantised model, the digest that it has in common with its float weights; else empty."""


@dataclass(frozen=True)
class Described:
    """A model by its facts alone."""

    name: str
    fingerprint: str
    n_layers: int
    d_model: int
    quantised_from: str = ""

    def width(self, site: SiteName) -> int:
        """Width of the states at a site of the residual stream. Raises MisuseError for any other site."""
        return stream_width(self, site)


def stream_width(model: ModelFacts, site: SiteName) -> int:
    """Return the width of the states at a site of a model that is not loaded.

    Raises MisuseError for the heads' outputs, whose width sizes alone do not tell.
    """
    if site == Z:
        raise MisuseError(f"how wide {model.name} is at {site!r} is known once it is loaded in transformers")
    return model.d_model


@functools.cache
def _say_once(line: str) -> None:
    warnings.warn(line, stacklevel=3)


class LayerTensors:
    """The base of `SteeringVector` and `Probe`. `noun` is what messages call it, `again` how to get another."""

    noun: ClassVar[str]
    again: ClassVar[str]
    metadata: Any

    @property
    def rows(self) -> Tensor:
        """The tensor `[n_layers, width]`."""
        raise NotImplementedError

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the contents: what has one digest acts alike."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Its own name, as spec strings and tables show it."""
        return str(self.metadata.name)

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks of the model that it belongs to."""
        return self.rows.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the states at its site: that of the residual stream, but for the heads' outputs."""
        return self.rows.shape[1]

    @property
    def site(self) -> SiteName:
        """Where in a block its states are."""
        site: SiteName = self.metadata.site
        return site

    @property
    def where(self) -> str:
        """The site as messages say it, ` at z`; nothing for the default one."""
        return "" if self.site == RESID_POST else f" at {self.site}"

    def check_layer(self, layer: int) -> None:
        """Raise MisuseError unless the model that this belongs to has the layer."""
        if not 0 <= check_whole("a layer", layer) < self.n_layers:
            raise MisuseError(
                f"layer {layer!r} is out of range: {self.metadata.model}, which {self.noun} {self.name!r} is for, has "
                f"layers 0 to {self.n_layers - 1}"
            )

    def check(self, model: ModelFacts, *, exact: bool = True) -> None:
        """Raise ModelMismatchError unless this was made for `model`; with `exact=False` other weights pass.

        Another architecture or width never does. Other weights that are the same but for quantisation pass with a
        warning, once: that nothing but rounding lies between them is likely, not certain (`models.fingerprint`), and
        what the rounding does to effects and calibrated strengths is not known here.
        """
        ours, theirs = self.metadata.fingerprint, model.fingerprint
        mine, other = ours.split(":")[0], theirs.split(":")[0]
        alike = self.n_layers == model.n_layers and mine == other
        width = model.width(self.site) if alike else model.d_model
        if not alike or self.d_model != width:
            raise ModelMismatchError(
                f"{self.noun} {self.name!r} is for {self.metadata.model} ({mine}, {self.n_layers} layers, width "
                f"{self.d_model}{self.where}), but {model.name} is {other} with {model.n_layers} layers, width {width}"
                f"{self.where if alike else ''}: {self.again} {model.name}"
            )
        if exact and ours != theirs:
            if model.quantised_from and model.quantised_from == self.metadata.kept_digest:
                _say_once(
                    f"{self.noun} {self.name!r} was made on the weights of {self.metadata.model}, and {model.name} has "
                    "them quantised otherwise: its effect and calibrated strengths may differ here, so calibrate again "
                    "(docs/placement.md)"
                )
                return
            if model.quantised_from and not self.metadata.kept_digest:
                raise ModelMismatchError(
                    f"{model.name} is quantised, and {self.noun} {self.name!r} does not say which quantised forms of "
                    f"{self.metadata.model} it fits: {self.again} {model.name}, or allow the mismatch if the float "
                    "weights are the same"
                )
            made, held = self.metadata.dtype, str(getattr(model, "dtype", "")).removeprefix("torch.")
            if made != held and "float16" in (made, held):
                raise ModelMismatchError(
                    f"{self.noun} {self.name!r} was made at {made or 'another number format'}, and {model.name} is at "
                    f"{held or 'another'}: float16 rounds weights so that it cannot be told whether they are the same; "
                    "load the model at that format or bfloat16, or allow the mismatch if they are"
                )
            raise ModelMismatchError(
                f"{self.noun} {self.name!r} is for other weights ({self.metadata.model}) than those of {model.name}: "
                f"{self.again} {model.name}, or allow the mismatch if it is meant"
            )

    def keep(self, field: str, shape: torch.Size) -> None:
        """Put a tensor field on the CPU in float32. Raises InputError for another shape, NaN or Inf."""
        tensor = getattr(self, field)
        if tensor.shape != shape:
            raise InputError(f"{field} has shape {list(tensor.shape)}, expected {list(shape)}")
        kept = tensor.detach().to("cpu", torch.float32).contiguous()
        if not torch.isfinite(kept).all():
            raise InputError(f"{field} of {self.noun} {self.name!r} holds NaN or Inf: make it again")
        object.__setattr__(self, field, kept)
