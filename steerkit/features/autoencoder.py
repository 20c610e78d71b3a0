"""Sparse autoencoders as SAELens writes them: a folder with `cfg.json` and `sae_weights.safetensors`, read without it.

With x a state at the autoencoder's place and x' = x - b_dec, or x where the decoder's bias is not taken off first:

    standard   a = ReLU(x' W_enc + b_enc)
    jumprelu   the same where the sum is above each feature's threshold, else 0 (arXiv 2407.14435)
    gated      the magnitude where the gate is open, else 0 (arXiv 2404.16014); a threshold, as both are sums of x' w
    topk       the k largest of all the sums, those below 0 as 0 (arXiv 2406.04093)

and x is reconstructed as a W_dec + b_dec. All but `topk` come down to one threshold a feature, so a feature is known by
itself: `feature` gives it as a steering vector, its decoder row, which brings its encoder with it, and `FeatureReader`
reads that. What a `cfg.json` asks for and is not done here is refused: leaving it out would give other activations.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerkit import __version__
from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.files import read_tensors, read_text
from steerkit.core.numbers import check_whole
from steerkit.core.sites import Place, SiteName
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.vector import SteeringVector, VectorMetadata

if TYPE_CHECKING:
    from steerkit.models import LanguageModel

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = ("standard", "jumprelu", "gated", "topk")
HOOK = re.compile(r"blocks\.(\d+)\.(?:hook_)?(resid_pre|resid_post|attn_out|mlp_out)(?:\.hook_out)?")
# What changes activations, and the one value of each with which they are those above.
PLAIN: dict[str, tuple[object, ...]] = {
    "normalize_activations": ("none", None),
    "reshape_activations": ("none", None),
    "rescale_acts_by_decoder_norm": (False, None),
    "finetuning_scaling_factor": (False, None),
}
METHOD = "sparse autoencoder's feature"


@dataclass(frozen=True, eq=False, repr=False)
class Autoencoder:
    """A sparse autoencoder of `n_features` features at one place of a model, float32 on the CPU.

    `encoder` and `decoder` are `[n_features, width]`, a row a feature; `encoder_bias` and `threshold` `[n_features]`,
    with the decoder's bias folded in where it is taken off the state; `decoder_bias` `[width]`. `k` is of `topk` alone.
    """

    name: str
    place: Place
    encoder: Tensor
    encoder_bias: Tensor
    threshold: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    k: int | None = None
    trained_on: str = ""

    @property
    def n_features(self) -> int:
        """How many features it has."""
        return self.encoder.shape[0]

    @property
    def width(self) -> int:
        """Width of the states that it reads."""
        return self.encoder.shape[1]

    def encode(self, states: Tensor) -> Tensor:
        """Return the activations `[..., n_features]`, float32, of states `[..., width]`."""
        found = states.float() @ self.encoder.T.to(states.device) + self.encoder_bias.to(states.device)
        if self.k is None:
            return found.where(found > self.threshold.to(states.device), found.new_zeros(()))
        values, places = found.topk(self.k, dim=-1)
        return torch.zeros_like(found).scatter(-1, places, values.relu())

    def decode(self, activations: Tensor) -> Tensor:
        """Return the states `[..., width]` that activations `[..., n_features]` stand for."""
        device = activations.device
        return activations @ self.decoder.to(device) + self.decoder_bias.to(device)

    def feature(self, index: int, lm: LanguageModel, name: str | None = None) -> SteeringVector:
        """Return a feature as a steering vector for `lm`: its decoder row, at the autoencoder's place alone.

        Strength 1 adds what an activation of 1 stands for. The vector brings its encoder as its probe, for
        `FeatureReader` and `clamp_feature`; not for `topk`, whose features are active or not by all the others.
        Raises MisuseError for an index that there is not, ModelMismatchError for a model of another size.
        """
        if not 0 <= check_whole("a feature's index", index) < self.n_features:
            raise MisuseError(
                f"feature {index!r} is out of range: {self.name} has 0 to {self.n_features - 1}"
            )
        self.check(lm)
        row = self._in_place(self.decoder[index], lm.n_layers)
        if not row.any():
            raise MisuseError(
                f"feature {index} of {self.name} has a decoder row of zeros, along which nothing moves"
            )
        facts: dict[str, Any] = {
            "name": name or f"{self.name}/{index}",
            "model": lm.name,
            "fingerprint": lm.fingerprint,
            "kept_digest": lm.kept_digest,
            "dtype": str(lm.dtype).removeprefix("torch."),
            "site": self.place.site,
            "steerkit_version": __version__,
        }
        metadata = VectorMetadata(**facts, method=METHOD, aggregation="none", scaling="trained")
        probe = None
        if self.k is None:
            bias = torch.zeros(lm.n_layers)
            bias[self.place.layer] = self.encoder_bias[index]
            above = float(self.threshold[index])
            encoder = ProbeMetadata(**facts, aggregation="none", layer=self.place.layer, active_above=above)
            probe = Probe(self._in_place(self.encoder[index], lm.n_layers), bias, encoder)
        return SteeringVector(row, metadata, probe=probe)

    def check(self, lm: LanguageModel) -> None:
        """Raise ModelMismatchError unless `lm` has the autoencoder's layer, as wide as its states."""
        layer, site = self.place
        if layer >= lm.n_layers or lm.width(site) != self.width:
            raise ModelMismatchError(
                f"{self.name} is of {site} of layer {layer}, width {self.width}, and {lm.name} has "
                f"{lm.n_layers} layers of width {lm.d_model}: take the model that it was trained on"
                f"{f', {self.trained_on}' if self.trained_on else ''}"
            )

    def _in_place(self, row: Tensor, n_layers: int) -> Tensor:
        """A row `[width]` at the autoencoder's layer of `[n_layers, width]` zeros."""
        found = torch.zeros(n_layers, self.width)
        found[self.place.layer] = row
        return found

    def __repr__(self) -> str:
        return f"Autoencoder({self.name!r}, {self.n_features} features of {self.place}, width {self.width})"


def load_autoencoder(reference: Autoencoder | str | os.PathLike[str]) -> Autoencoder:
    """Read a sparse autoencoder from a folder that SAELens wrote, or a published one by its name.

    Raises MisuseError where there is neither, InputError where the folder is damaged or asks for what is not done here.
    """
    if isinstance(reference, Autoencoder):
        return reference
    published = published_autoencoders()
    folder = published.get(str(reference), Path(reference))
    if not (folder / CONFIG).is_file():
        raise MisuseError(
            f"no autoencoder {str(reference)!r}: name a folder with {CONFIG} and {WEIGHTS}, or a published one: "
            f"{', '.join(published) or 'none'}"
        )
    config = _config(folder / CONFIG)
    place, trained_on = _place(config, folder)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} has no {WEIGHTS}: fetch it beside its {CONFIG}")
    tensors = read_tensors(folder / WEIGHTS, "autoencoder")[1]
    return _assembled(folder, config, tensors, place, trained_on)


def published_autoencoders() -> dict[str, Path]:
    """Autoencoders that travel with the package, by name; in a checkout, those of `vectors/autoencoders`."""
    folder = Path(str(resources.files("steerkit"))) / "published" / "autoencoders"
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG}"))}


def _config(path: Path) -> dict[str, Any]:
    """What `cfg.json` says, found to ask for nothing that is not done here."""
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no object: it is not an autoencoder's options")
    # SAELens wrote flat files, with `activation_fn_str`, up to version 5, and keeps some options apart since.
    metadata = found.get("metadata")
    config = {**(metadata if isinstance(metadata, dict) else {}), **found}
    config.setdefault("architecture", "standard")
    if config["architecture"] not in ARCHITECTURES:
        raise InputError(
            f"{path}: an autoencoder of architecture {config['architecture']!r} is not read here, only of "
            f"{', '.join(ARCHITECTURES)}"
        )
    activation = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    if activation == "topk":
        config["architecture"] = "topk"
        config.setdefault("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    elif activation not in ("relu", None):
        raise InputError(
            f"{path}: its activation function {activation!r} is not computed here, only relu and topk"
        )
    for option, plain in PLAIN.items():
        if config.get(option) not in plain:
            raise InputError(
                f"{path}: {option} {config[option]!r} is not done here; fold it into the weights with SAELens, and save"
            )
    return config


def _place(config: dict[str, Any], folder: Path) -> tuple[Place, str]:
    """Where it reads, and the model that it was trained on."""
    hook = str(config.get("hook_name", ""))
    found = HOOK.fullmatch(hook)
    if found is None:
        raise InputError(
            f"{folder / CONFIG}: {hook!r} is no place that is steered here: blocks.LAYER.hook_ and resid_pre, "
            "resid_post, attn_out or mlp_out"
        )
    site: SiteName = found[2]  # type: ignore[assignment]  # one of those that the pattern names
    return Place(int(found[1]), site), str(config.get("model_name") or "")


def _assembled(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], place: Place, trained_on: str
) -> Autoencoder:
    """The autoencoder of these tensors, whose shapes fit together."""
    architecture = config["architecture"]
    try:
        width, n_features = (check_whole(option, config.get(option), 1) for option in ("d_in", "d_sae"))
        k = check_whole("k", config.get("k"), 1) if architecture == "topk" else None
    except MisuseError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from error
    if k is not None and k > n_features:
        raise InputError(f"{folder / CONFIG}: k is {k}, and there are {n_features} features")

    def tensor(name: str, *shape: int) -> Tensor:
        if name not in tensors:
            raise InputError(
                f"{folder / WEIGHTS} has no {name}, which an autoencoder of kind {architecture} has"
            )
        found = tensors[name]
        if tuple(found.shape) != shape:
            raise InputError(
                f"{folder / WEIGHTS}: {name} has shape {list(found.shape)}, and {CONFIG} means {list(shape)}"
            )
        if not (found.is_floating_point() and torch.isfinite(found).all()):
            raise InputError(f"{folder / WEIGHTS}: {name} holds what is no finite number")
        return found.float()

    encoder = tensor("W_enc", width, n_features).T.contiguous()
    decoder_bias = tensor("b_dec", width)
    taken_off = decoder_bias if config.get("apply_b_dec_to_input", True) else torch.zeros(width)
    threshold = torch.zeros(n_features)
    if architecture == "gated":
        scale = tensor("r_mag", n_features).exp()
        bias, gate = tensor("b_mag", n_features), tensor("b_gate", n_features)
        threshold = bias - scale * gate  # the gate x'w + b_gate > 0, said of the magnitude
        encoder = encoder * scale[:, None]
    else:
        bias = tensor("b_enc", n_features)
        if architecture == "jumprelu":
            threshold = tensor("threshold", n_features)
    return Autoencoder(
        name=folder.resolve().name,
        place=place,
        encoder=encoder,
        encoder_bias=bias - encoder @ taken_off,
        threshold=threshold.clamp_min(0.0),
        decoder=tensor("W_dec", n_features, width),
        decoder_bias=decoder_bias,
        k=k,
        trained_on=trained_on,
    )
