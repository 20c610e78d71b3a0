"""SteeringVector: one direction per layer, with everything that is needed not to misapply it.

On disk it is a single `.safetensors` file whose header carries the metadata, so the tensor cannot part from
the statement of which model, which site, which template and which pairs it came from.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from steerkit.core.characters import is_unicode
from steerkit.core.contents import IMPORT
from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.core.files import fault_of, read_tensors, write_tensors
from steerkit.core.numbers import check_number, check_several, check_whole
from steerkit.core.registry import VIEWS
from steerkit.core.sites import RESID_POST, Z
from steerkit.interventions.base import Intervention
from steerkit.interventions.following import Following
from steerkit.interventions.gate import Gate, ProbeGate
from steerkit.interventions.hub import SCHEME, hub_name, pull
from steerkit.interventions.layer_tensors import LayerMetadata, LayerTensors
from steerkit.interventions.probe import HEADER_KEY as PROBE_KEY
from steerkit.interventions.probe import Probe, probe_from
from steerkit.interventions.steering import Positions, Scope, Steering

if TYPE_CHECKING:
    from steerkit.analysis.run import Run

FORMAT_VERSION = 1
HEADER_KEY = "steerkit"
OPTIONAL_TENSORS = ("mean_positive", "mean_negative", "activation_norm")
SELF = "self"
KL_TOLERANCE = 1e-9  # nats: targets are written by hand
# What of a vector's metadata was measured on its direction, and so holds for no other.
MEASURED = ("separability", "baseline_separability", "agreement", "alignment", "calibration", "recommended")

Scaling = Literal["gap", "norm", "trained", "combined"]


class CalibrationRecord(BaseModel):
    """One calibrated strength as a vector's metadata keeps it: what was asked, on what, and what was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    strength: float
    operation: str = "add"
    scope: str = "completion"
    target: float | None = None
    half_life: float | None = None
    positions: str = "every"
    statistic: str
    target_kl: float
    measured_kl: float
    interval: tuple[float, float] | None
    rollout_kl: float | None
    tokens: int
    prompts: int
    prompts_digest: str

    @property
    def asked(self) -> tuple[object, ...]:
        """What the strength was looked for: another record with the same is a newer or an older one."""
        return (*self.how, self.statistic, self.target_kl, self.strength > 0)

    @property
    def how(self) -> tuple[object, ...]:
        """How the strength is applied: layers, operation, scope, target, half-life and positions."""
        return (self.layer,), self.operation, self.scope, self.target, self.half_life, self.positions


class VectorMetadata(LayerMetadata):
    """What a vector file says of itself.

    `separability` and `agreement` are per layer: held-out AUROC of the two sides projected on a direction
    fitted without them, and the mean cosine of each pair's difference to the mean of the others.
    `alignment` is how much the direction promotes the tokens that positive completions begin with, in standard
    deviations over the vocabulary.
    `baseline_separability` is the AUROC that words alone (TF-IDF) reach on the same folds.
    `calibration` holds the strengths that were found to meet a KL target; see `steerkit.calibration`.
    `recommended` is how the vector is best used, by the rule that chose it: interventions in their JSON form, in which
    a reference named `self` is this vector, or its own probe.
    `scaling`: `gap`, strength 1 moves the state by the mean gap of the two sides along the direction; `norm`,
    it has the norm of the vector that it controls; `trained`, as an optimiser or another tool left it, zero at
    layers where there is none; `combined`, the result of vector algebra.
    `heads`: at site `z`, how many attention heads' outputs stand side by side in a state.
    """

    format_version: int = FORMAT_VERSION
    method: str
    aggregation: str
    scaling: Scaling = "gap"
    template_digest: str = ""
    pairs_digest: str = ""
    pairs_count: int = 0
    heads: int | None = None
    separability: tuple[float, ...] | None = None
    baseline_separability: float | None = None
    agreement: tuple[float, ...] | None = None
    alignment: tuple[float, ...] | None = None
    calibration: tuple[CalibrationRecord, ...] | None = None
    recommended: tuple[dict[str, Any], ...] = ()
    steerkit_version: str = ""

    def derived(self, **changed: object) -> VectorMetadata:
        """Return the metadata of another direction made from this one: `changed` set, what was measured left out."""
        defaults = {name: type(self).model_fields[name].default for name in MEASURED}
        return self.model_copy(update=defaults | changed)


@dataclass(frozen=True, eq=False, repr=False)
class SteeringVector(LayerTensors):
    """A direction `[n_layers, width]` float32 on the CPU, from the negative to the positive side.

    It was read, and acts, at its `site`, which is `width` wide. `mean_positive` and `mean_negative` are the two sides'
    mean states `[n_layers, width]`; `activation_norm` `[n_layers]` is the mean norm of the states over the pairs'
    tokens, the first position left out. A vector without them steers all the same; it only reports less. `probe` is
    a gate that travels with the vector; see `steerkit.interventions.steering.ProbeGate`.
    """

    direction: Tensor
    metadata: VectorMetadata
    mean_positive: Tensor | None = None
    mean_negative: Tensor | None = None
    activation_norm: Tensor | None = None
    probe: Probe | None = None

    noun: ClassVar[str] = "vector"
    again: ClassVar[str] = "extract one from"

    def __post_init__(self) -> None:
        if self.direction.ndim != 2:
            raise InputError(f"a direction is [n_layers, width], got shape {list(self.direction.shape)}")
        self.keep("direction", self.direction.shape)
        for field in OPTIONAL_TENSORS:
            if getattr(self, field) is not None:
                self.keep(field, self.direction.shape[: 1 if field == "activation_norm" else 2])

    @property
    def rows(self) -> Tensor:
        """The direction `[n_layers, width]`."""
        return self.direction

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the direction and its site: two vectors with one digest steer alike."""
        site = "" if self.site == RESID_POST else self.site
        shape = json.dumps(list(self.direction.shape)).encode()
        return hashlib.sha256(site.encode() + shape + self.direction.numpy().tobytes()).hexdigest()

    def at(
        self,
        layer: int | Sequence[int],
        strength: float = 1.0,
        *,
        kl: float | None = None,
        operation: str = "add",
        scope: Scope = "completion",
        target: float | None = None,
        half_life: float | None = None,
        positions: Positions = "every",
        follows: Following | None = None,
        gate: Gate | None = None,
    ) -> Steering:
        """Return this vector applied at one layer or several; see `Steering` for the meaning of each field.

        With `kl` (nats per token) the strength is the one that calibration found to meet it there. Raises MisuseError
        where there is none, and for a strength that follows a reader, which no calibration is of.
        """
        layers = check_several("a layer", layer)
        if kl is not None:
            if follows is not None:
                raise MisuseError(
                    "a strength that follows a reader has no KL on record: give strength, not kl"
                )
            kl = check_number("kl", kl)
            strength = self._calibrated(kl, (layers, operation, scope, target, half_life, positions))
        return Steering(
            self,
            layers,
            strength,
            operation=operation,
            scope=scope,
            target=target,
            half_life=half_life,
            positions=positions,
            follows=follows,
            gate=gate,
        )

    def _calibrated(self, kl: float, how: tuple[object, ...]) -> float:
        """The strength at which the mean KL is `kl`, of a steering that applies as `how` says."""
        records = self.metadata.calibration or ()
        fitting = [
            record.strength
            for record in records
            if record.how == how and record.statistic == "mean" and abs(record.target_kl - kl) <= KL_TOLERANCE
        ]
        if fitting:
            return max(fitting)  # towards the positive side, where both directions were calibrated
        known = ", ".join(f"layer {r.layer} at {r.target_kl:g} ({r.operation}, {r.scope})" for r in records)
        raise MisuseError(
            f"vector {self.name!r} has no strength on record for a mean KL of {kl:g} and what is asked for here; "
            f"calibrated are: {known or 'none'}"
        )

    def random_control(self, seed: int = 0) -> SteeringVector:
        """A random direction with this vector's norm at every layer: what a push of this size does by itself.

        Drawn from `seed` and this vector's contents, so that a control's own control is another direction.
        """
        seed = check_whole("a seed", seed)
        drawn_from = hashlib.sha256(f"{seed}:{self.digest}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(drawn_from[:8]))
        noise = torch.randn(self.direction.shape, generator=generator)
        if self.metadata.heads is not None:  # of a vector for one head, a control for the same head
            acts = self._by_head().any(dim=-1, keepdim=True)
            noise = (noise.view_as(self._by_head()) * acts).flatten(1)
        unit = noise / noise.norm(dim=-1, keepdim=True).clamp_min(torch.finfo().tiny)
        name = f"random({self.name})" if seed == 0 else f"random({self.name},{seed})"
        metadata = self.metadata.derived(name=name, method="random", scaling="norm", positive="")
        direction = unit * self.direction.norm(dim=-1, keepdim=True)
        return SteeringVector(direction, metadata, activation_norm=self.activation_norm)

    def head(self, head: int) -> SteeringVector:
        """Return the part of a vector at `z` that belongs to one attention head, counted from 0; the rest is zero.

        Raises MisuseError for a vector at another site, or a head that there is not.
        """
        heads = self.metadata.heads
        if self.site != Z or heads is None:
            raise MisuseError(
                f"vector {self.name!r} is at {self.site}, and heads stand side by side at z alone"
            )
        if not 0 <= head < heads:
            raise MisuseError(
                f"head {head!r} is out of range: {self.metadata.model} has heads 0 to {heads - 1}"
            )
        direction = torch.zeros_like(self._by_head())
        direction[:, head] = self._by_head()[:, head]
        return self._combined(direction.flatten(1), f"{self.name}.head{head}")

    def _by_head(self) -> Tensor:
        """The direction as `[n_layers, head, width of one]`."""
        return self.direction.view(self.n_layers, self.metadata.heads or 1, -1)

    def relative_dose(self, layer: int, strength: float) -> float | None:
        """|strength| · ||v|| / ||h|| at one layer: the push relative to the states that it pushes."""
        if self.activation_norm is None or not self.activation_norm[layer]:
            return None
        return abs(strength) * float(self.direction[layer].norm() / self.activation_norm[layer])

    def strength_of(self, layer: int, dose: float) -> float:
        """Return the positive strength with this relative dose at one layer: what compares vectors of unlike lengths.

        Raises MisuseError where the vector does not know the norm of the states, or is zero there.
        """
        own = self.relative_dose(layer, 1.0)
        if not own:
            raise MisuseError(
                f"vector {self.name!r} has no relative dose at layer {layer}: it lacks a direction or the states' norm"
            )
        return dose / own

    def gated(self, threshold: float | None = None) -> ProbeGate:
        """Return the gate that travels with this vector, for `at(..., gate=...)`. Raises MisuseError without one."""
        if self.probe is None:
            raise MisuseError(
                f"vector {self.name!r} carries no probe: fit one with `steerkit extract --as probe`"
            )
        return ProbeGate(self.probe) if threshold is None else ProbeGate(self.probe, threshold=threshold)

    def with_calibration(self, records: Sequence[CalibrationRecord]) -> SteeringVector:
        """Return the same vector with these calibrated strengths on record."""
        return replace(self, metadata=self.metadata.model_copy(update={"calibration": tuple(records)}))

    def recommending(self, *use: Intervention) -> SteeringVector:
        """Return the same vector with `use` as its recommended use; this vector and its probe stand in it as `self`.

        Raises MisuseError where it needs another vector or probe, which would not travel along.
        """
        own = {part.digest for part in (self, self.probe) if part is not None}
        if others := {part.name for each in use for part in each.tensors if part.digest not in own}:
            raise MisuseError(
                f"a vector recommends itself and its own probe alone, and not {', '.join(others)}"
            )
        found = tuple(_with_self(intervention.to_json(), own) for intervention in use)
        return replace(self, metadata=self.metadata.model_copy(update={"recommended": found}))

    def with_probe(self, probe: Probe | None) -> SteeringVector:
        """Return the same vector with this probe to travel with it."""
        return replace(self, probe=probe)

    def renamed(self, name: str) -> SteeringVector:
        """Return the same vector under another name."""
        return replace(self, metadata=self.metadata.model_copy(update={"name": name}))

    __array_ufunc__ = None  # a NumPy number times a vector is a vector, and no array of objects

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
        if self.site != other.site:
            raise MisuseError(
                f"{self.name!r} is at {self.site} and {other.name!r} at {other.site}: steer with both instead"
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
        metadata = self.metadata.derived(name=name, positive="", scaling="combined")
        return SteeringVector(direction, metadata, activation_norm=self.activation_norm)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the vector to `path`, whole or not at all.

        Raises MisuseError where `path` is a folder or a device or the vector's name is not Unicode, SteerkitError where
        it cannot be written.
        """
        if not is_unicode(self.name):
            raise MisuseError(f"the vector's name {self.name!r} is not Unicode: give it another")
        path = Path(path)
        tensors = {"direction": self.direction}
        tensors |= {name: t for name in OPTIONAL_TENSORS if (t := getattr(self, name)) is not None}
        header = {HEADER_KEY: self.metadata.model_dump_json()}
        if self.probe is not None:
            tensors |= self.probe.tensors()
            header |= self.probe.header()
        return write_tensors(path, tensors, header, "vector")

    def push_to_hub(
        self,
        repo: str,
        *,
        run: Run | str | os.PathLike[str] | None = None,
        card: str | os.PathLike[str] | None = None,
        licence: str | None = None,
        private: bool = False,
        message: str | None = None,
    ) -> str:
        """Publish the vector as `owner/name` on the Hugging Face hub and return its name with the commit.

            vector.push_to_hub("me/abstain", run="runs/report", licence="apache-2.0")

        The card says how it is used and what it was made of; what the recommended use does and costs stands in it where
        a `run` measured it, which must hold that cell. `card` is a Markdown file to take instead. The repository is
        made if there is none. Raises MisuseError for a name or a run that cannot be meant, SteerkitError where the hub
        refuses or cannot be reached.
        """
        from steerkit.report.publish import push_to_hub  # a lazy call up: it is read as one sentence

        return push_to_hub(self, repo, run=run, card=card, licence=licence, private=private, message=message)

    def _repr_html_(self) -> str:
        return str(VIEWS["vector"](self))

    def __repr__(self) -> str:
        made = f"{self.metadata.method}, {self.n_layers} layers, width {self.d_model}{self.where}"
        return f"SteeringVector({self.name!r}, for {self.metadata.model}, {made})"


def _with_self(value: Any, own: set[str]) -> Any:
    """A JSON form in which references to the vector's own tensors are by the name `self`, without a digest."""
    if not isinstance(value, dict):
        return value
    if value.get("sha256") in own:
        return {"name": SELF}
    return {key: _with_self(part, own) for key, part in value.items()}


def load_vector(reference: SteeringVector | str | os.PathLike[str]) -> SteeringVector:
    """Read a vector from a file, a published one by its name, or `owner/name[@revision]` from the Hugging Face hub.

    A vector is returned as it is. What comes from the hub is checked against its card; see `interventions.hub`. Raises
    MisuseError where there is no such file or name, InputError where the file is damaged or not what its card says,
    SteerkitError where the hub cannot be reached.
    """
    if isinstance(reference, SteeringVector):
        return reference
    path = resolve_file(reference)
    header, tensors = read_tensors(path, "vector")
    if HEADER_KEY not in header or "direction" not in tensors:
        holds = "a probe" if PROBE_KEY in header else "tensors of another kind"
        raise InputError(
            f"{path} is a safetensors file but not a steerkit vector: it holds {holds}; {IMPORT}"
        )
    try:
        metadata = VectorMetadata.model_validate_json(header[HEADER_KEY])
    except ValidationError as error:
        raise InputError(f"{path}: the vector's metadata is {fault_of(error, 'header')}") from error
    if metadata.format_version > FORMAT_VERSION:
        raise InputError(
            f"{path} has vector format {metadata.format_version}; this steerkit reads up to {FORMAT_VERSION}"
        )
    optional = {name: tensors.get(name) for name in OPTIONAL_TENSORS}
    try:
        probe = probe_from(tensors, header, path)
        return SteeringVector(tensors["direction"], metadata, **optional, probe=probe)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def published_vectors() -> dict[str, Path]:
    """Vectors that travel with the package, by name; in a checkout, those of its top-level folder `vectors`."""
    folder = Path(str(resources.files("steerkit"))) / "published"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def resolve_file(reference: str | os.PathLike[str]) -> Path:
    """Return the file of a vector or probe, of a published one, or of one on the hub, fetched and checked.

    Raises MisuseError where there is none, and what `hub.pull` raises.
    """
    if not isinstance(reference, str | os.PathLike):
        raise MisuseError(f"a vector is one, or a file or the name of one, got {type(reference).__name__}")
    path, on_hub = Path(reference), hub_name(reference) if isinstance(reference, str) else None
    if path.is_file():
        if on_hub is not None:
            warnings.warn(f"{path} is a file here, and is read; {SCHEME}{on_hub} is the hub's", stacklevel=3)
        return path
    known = published_vectors()
    if str(reference) in known:
        return known[str(reference)]
    if on_hub is not None and not path.is_dir():
        return pull(on_hub).file
    if path.is_dir():
        raise MisuseError(f"{path} is a folder: name the .safetensors file in it")
    names = ", ".join(known) or "none"
    head, at, options = str(reference).rpartition("@")
    if at and (head in known or Path(head).is_file()):
        raise MisuseError(
            f"{head!r} is a vector, and {at + options!r} says how to apply it: give that apart, as layers"
        )
    raise MisuseError(
        f"no vector file {str(reference)!r}; published vectors: {names}; make one with `steerkit extract`"
    )
