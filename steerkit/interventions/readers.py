"""Readers: what is read of every token of a row, prompt and completion alike, as frozen data.

A reader gives a number a token. There are four kinds:

`VectorReader`   the component of the state along a vector, at a layer: unit(v) · h
`ProbeReader`    the probability that a probe gives the state, at a layer
`FeatureReader`  the activation of a sparse autoencoder's feature, at its layer
`NamedReader`    a registered function of states, or of the logits that a token was chosen from

    @reader("norm", of="states")
    def norm(states):
        \"\"\"Euclidean norm of the state.\"\"\"
        return states.float().norm(dim=-1)

1. States are read as the place is given them, before the steerings of that very place edit them, as a gate reads them:
   what is read is what the layers below, steered or not, made of the text.
2. A function of states takes `[…, width]` to `[…]`; one of logits takes `[…, vocabulary]`, and the tokens `[…]` that
   came next, to `[…]`. Logits are the model's own, before rules, temperature and penalties. Both run where the
   tensors are.
3. A reading of states is that of the token at its position; a reading of logits that of the token which they chose, so
   the first token of a prompt has none.
4. A reader refers to vectors and probes as interventions do: `spec` and `to_json` round-trip, and the digest covers
   what is read, not names.
"""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_whole
from steerkit.core.registry import READERS
from steerkit.core.sites import RESID_POST, SITES, Place, SiteName
from steerkit.interventions.base import (
    Names,
    json_reference,
    quoted,
    reference,
    spec_of,
    without_names,
    written_text,
)

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.interventions.probe import Probe
    from steerkit.interventions.vector import SteeringVector

Source = Literal["states", "logits"]


@dataclass(frozen=True)
class RegisteredReader:
    """A function that reads, what it reads, and the name that it goes by."""

    name: str
    function: Callable[..., Tensor]
    of: Source

    @property
    def doc(self) -> str:
        """What the function says of itself."""
        return self.function.__doc__ or ""


def reader(name: str, *, of: Source) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function under `name`: of states `[…, width]`, or of logits `[…, vocabulary]` and tokens `[…]`.

    It returns a number for each, `[…]`; where it returns anything else, using it raises MisuseError.
    """

    def declare(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(function)
        def one_number_a_token(given: Tensor, *chosen: Tensor) -> Tensor:
            found = function(given, *chosen)
            if getattr(found, "shape", None) != given.shape[:-1]:
                got = (
                    f"shape {tuple(found.shape)}" if hasattr(found, "shape") else f"a {type(found).__name__}"
                )
                wanted = f"shape {tuple(given.shape[:-1])}"
                raise MisuseError(f"the reader {name!r} gave {got}, and a number a token is {wanted} here")
            return found

        READERS.add(name, RegisteredReader(name, one_number_a_token, of))
        return function

    return declare


class Reader(ABC):
    """Something that is read of every token; see the module's contract."""

    place: Place | None  # None: read of the logits

    @property
    @abstractmethod
    def label(self) -> str:
        """A short name for tables."""

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The vectors and probes that it needs."""
        return ()

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; vectors and probes stand in it as `{"name", "sha256"}`."""

    @abstractmethod
    def head(self, names: Names) -> str:
        """Return what a spec string names: a vector or probe as `names` calls it, or a registered reader."""

    @abstractmethod
    def options(self) -> list[tuple[str, str]]:
        """Return what else a spec string says, as keys and values."""

    def spec(self, names: Names) -> str:
        """Return the canonical spec string, in which `names` says how vectors and probes are called."""
        return spec_of(self.head(names), self.options())

    def fields(self, key: str, names: Names) -> list[tuple[str, str]]:
        """Return its part of another spec string under a key: `key=HEAD`, and each option as `key_option`."""
        return [(key, self.head(names)), *((f"{key}_{option}", value) for option, value in self.options())]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over all that decides what is read, the contents of vectors and probes included."""
        return hashlib.sha256(json.dumps(without_names(self.to_json())).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reader) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __str__(self) -> str:
        return self.spec(reference)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


class LinearReader(Reader):
    """A reader whose number is `finish(weight · h + bias)`: a batch reads all of them in one product."""

    place: Place

    @property
    @abstractmethod
    def linear(self) -> tuple[Tensor, float]:
        """The weight `[width]`, float32 on the CPU, and the bias."""

    def finish(self, values: Tensor) -> Tensor:
        """What the sums `[…]` are as readings."""
        return values


@dataclass(frozen=True, eq=False, repr=False)
class VectorReader(LinearReader):
    """The component of the state along a vector's direction at `layer`, unit(v) · h, at the vector's site."""

    vector: SteeringVector
    layer: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", check_whole("a layer", self.layer))
        self.vector.check_layer(self.layer)
        if not self.vector.direction[self.layer].any():
            raise MisuseError(f"{self.vector.name!r} has no direction at layer {self.layer} to read along")

    @property
    def place(self) -> Place:  # type: ignore[override]
        """Where it reads."""
        return Place(self.layer, self.vector.site)

    @property
    def label(self) -> str:
        """The vector's name and the layer."""
        return f"{self.vector.name} at {self.layer}"

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The vector."""
        return (self.vector,)

    @property
    def linear(self) -> tuple[Tensor, float]:
        """The unit direction, and no bias."""
        direction = self.vector.direction[self.layer]
        return direction / direction.norm(), 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": "vector", "vector": json_reference(self.vector), "layer": self.layer}

    def head(self, names: Names) -> str:
        """Return the vector's name."""
        return _head(names(self.vector))

    def options(self) -> list[tuple[str, str]]:
        """Return the layer."""
        return [("layer", str(self.layer))]


@dataclass(frozen=True, eq=False, repr=False)
class ProbeReader(LinearReader):
    """The probability that a probe gives the state at `layer`, by default the probe's own."""

    probe: Probe
    layer: int = -1

    def __post_init__(self) -> None:
        given = self.probe.metadata.layer if self.layer == -1 else self.layer
        object.__setattr__(self, "layer", check_whole("a layer", given))
        self.probe.check_layer(self.layer)

    @property
    def place(self) -> Place:  # type: ignore[override]
        """Where it reads."""
        return Place(self.layer, self.probe.site)

    @property
    def label(self) -> str:
        """The probe's name and the layer."""
        return f"{self.probe.name} at {self.layer}"

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The probe."""
        return (self.probe,)

    @property
    def linear(self) -> tuple[Tensor, float]:
        """The probe's weight and bias at the layer."""
        return self.probe.weight[self.layer], float(self.probe.bias[self.layer])

    def finish(self, values: Tensor) -> Tensor:
        """Probabilities of log-odds."""
        return values.sigmoid()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": "probe", "probe": json_reference(self.probe), "layer": self.layer}

    def head(self, names: Names) -> str:
        """Return the probe's name."""
        return _head(names(self.probe))

    def options(self) -> list[tuple[str, str]]:
        """Return the layer, and that a probe is meant: a vector that brings its probe may have the same name."""
        return [("as", "probe"), ("layer", str(self.layer))]


@dataclass(frozen=True, eq=False, repr=False)
class FeatureReader(ProbeReader):
    """The activation of a sparse autoencoder's feature, whose encoder the probe is, in the decoder row's units.

    It is weight · h + bias where that is above the feature's threshold, else 0: a ReLU, or a JumpReLU. A feature that
    was loaded as a vector brings the probe with it. Raises MisuseError for a probe that is no feature's encoder.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probe.metadata.active_above is None:
            raise MisuseError(
                f"probe {self.probe.name!r} is no feature of an autoencoder, and has no activation: read it as a probe"
            )
        if self.layer != self.probe.metadata.layer:
            raise MisuseError(
                f"feature {self.probe.name!r} is of layer {self.probe.metadata.layer}, and is read there alone"
            )

    @property
    def active_above(self) -> float:
        """What the encoder gives has to be above this for the feature to be active."""
        above = self.probe.metadata.active_above
        return 0.0 if above is None else above

    def finish(self, values: Tensor) -> Tensor:
        """Activations of what the encoder gives."""
        return values.where(values > self.active_above, values.new_zeros(()))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": "feature", "probe": json_reference(self.probe)}

    def options(self) -> list[tuple[str, str]]:
        """Return that a feature is meant; its layer is its own."""
        return [("as", "feature")]


@dataclass(frozen=True, eq=False, repr=False)
class NamedReader(Reader):
    """A registered function: of the states at a layer and site, or of the logits, which takes neither."""

    name: str
    layer: int | None = None
    site: SiteName = RESID_POST

    def __post_init__(self) -> None:
        of = self.registered.of
        if of == "logits" and self.layer is not None:
            raise MisuseError(f"the reader {self.name!r} reads logits, and takes no layer")
        if of == "states":
            if self.layer is None:
                raise MisuseError(
                    f"the reader {self.name!r} reads states: give a layer, as {self.name}@layer=14"
                )
            object.__setattr__(self, "layer", check_whole("a layer", self.layer, 0))
        if self.site not in SITES:
            raise MisuseError(f"site is one of {', '.join(SITES)}, got {self.site!r}")

    @property
    def registered(self) -> RegisteredReader:
        """What is registered under the name. Raises MisuseError where nothing is."""
        found: RegisteredReader = READERS[self.name]
        return found

    @property
    def place(self) -> Place | None:  # type: ignore[override]
        """Where it reads states, None where it reads logits."""
        return None if self.layer is None else Place(self.layer, self.site)

    @property
    def label(self) -> str:
        """The name, and the layer where there is one."""
        return self.name if self.layer is None else f"{self.name} at {self.layer}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": "registered", "reader": self.name, "layer": self.layer, "site": self.site}

    def head(self, names: Names) -> str:
        """Return the registered name."""
        del names
        return self.name

    def options(self) -> list[tuple[str, str]]:
        """Return the layer, and the site where it is not `resid_post`; of a reader of logits nothing."""
        if self.layer is None:
            return []
        site = [("site", self.site)] * (self.site != RESID_POST)
        return [("layer", str(self.layer)), *site]


def _head(name: str) -> str:
    """The name of a vector or probe in a spec string, in quotes where it is also a registered reader's."""
    return written_text(name) if name in READERS else quoted(name)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reader read of a row, a number a token, `prompt` and `completion` in the order of their tokens.

    None where there is none: the first token of a prompt was chosen from no logits.
    """

    reader: Reader
    prompt: tuple[float | None, ...]
    completion: tuple[float | None, ...]

    def __repr__(self) -> str:
        return f"Reading({self.reader}, {len(self.prompt)} tokens of the prompt, {len(self.completion)} behind it)"


def as_readers(given: Any) -> tuple[Reader, ...]:
    """Return the readers that are given, one or several, each a reader or the name of a registered one of logits.

    Raises MisuseError for anything else, and for one that is given twice.
    """
    if given is None:
        return ()
    lone = isinstance(given, Reader | str) or not isinstance(given, Iterable)
    found = tuple(
        NamedReader(each) if isinstance(each, str) else each for each in ((given,) if lone else given)
    )
    for each in found:
        if not isinstance(each, Reader):
            advice = ": write VectorReader(vector, layer)" if hasattr(each, "at") else ""
            raise MisuseError(
                f"a reader is a reader or a registered one's name, got {type(each).__name__}{advice}"
            )
    if len(set(found)) < len(found):
        raise MisuseError("a reader is given twice: leave one out")
    return found


@reader("log-probability", of="logits")
def log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of the token, in nats."""
    nats = logits.float()
    return nats.gather(-1, tokens[..., None]).squeeze(-1) - nats.logsumexp(-1)


@reader("entropy", of="logits")
def entropy(logits: Tensor, tokens: Tensor) -> Tensor:  # noqa: ARG001
    """Entropy of the distribution that the token came from, in nats."""
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


@reader("margin", of="logits")
def margin(logits: Tensor, tokens: Tensor) -> Tensor:  # noqa: ARG001
    """Difference of the two largest log-probabilities, in nats."""
    first, second = logits.float().topk(2, dim=-1).values.unbind(-1)
    return first - second
