"""Store: where the vectors and probes that an intervention names come from; and interventions from their JSON form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from steerkit.core.errors import InputError, MisuseError
from steerkit.core.registry import LOGIT_RULES
from steerkit.interventions.base import Intervention, Json, Tensors, reference
from steerkit.interventions.following import FOLLOWINGS, Following
from steerkit.interventions.gate import DetectorGate, Gate, PositionGate, ProbeGate
from steerkit.interventions.layer_tensors import LayerTensors
from steerkit.interventions.policies import Trigger
from steerkit.interventions.probe import HEADER_KEY, Probe, load_probe
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.readers import FeatureReader, NamedReader, ProbeReader, Reader, VectorReader
from steerkit.interventions.steering import Steering
from steerkit.interventions.vector import SELF, SteeringVector, load_vector, published_vectors, resolve_file

DIGEST = "sha256:"
SHORTEST_DIGEST = 8

T = TypeVar("T", bound=LayerTensors)
Parts = SteeringVector | Probe | Iterable[SteeringVector | Probe]
Key = tuple[str, str]  # digest and name: what has the same contents may go by several names


class Store:
    """Vectors and probes by name and by digest, and by file or published name where `files` are allowed.

    A probe that travels with a vector is in the store with it. A name that two of them share is ambiguous and has to
    be given as `sha256:…`.
    """

    def __init__(self, parts: Parts = (), *, files: bool = True) -> None:
        self._files = files
        self._vectors: dict[Key, SteeringVector] = {}
        self._probes: dict[Key, Probe] = {}
        for part in [parts] if isinstance(parts, SteeringVector | Probe) else parts:
            self.add(part)

    def add(self, part: SteeringVector | Probe) -> None:
        """Put a vector, with the probe that travels with it, or a probe into the store."""
        if isinstance(part, Probe):
            self._probes.setdefault((part.digest, part.name), part)
            return
        self._vectors.setdefault((part.digest, part.name), part)
        if part.probe is not None:
            self.add(part.probe)

    def vector(self, name: str) -> SteeringVector:
        """Return the vector of this name, `sha256:…`, file or published name. Raises MisuseError without one."""
        found = _found(name, self._vectors, "vector")
        return found or (load_vector(name) if self._files else self._missing(name))

    def gate(self, name: str) -> SteeringVector | Probe:
        """Return the probe of this name, `sha256:…`, file or published name, or the vector where it holds no probe."""
        found = _found(name, self._probes, "probe") or _found(name, self._vectors, "vector")
        return found or (_gate_in_file(name) if self._files else self._missing(name))

    def name_of(self, part: Tensors) -> str:
        """Return how a spec string names a vector or probe of this store: by name where that is enough."""
        known: Iterable[Key] = self._probes if isinstance(part, Probe) else self._vectors
        alike = {digest for digest, name in known if name == part.name}
        return reference(part, alike <= {part.digest})

    def by_digest(self, digest: str, kind: type[T]) -> T:
        """Return the vector or probe of these contents, whatever it is called. Raises MisuseError without one."""
        known: Mapping[Key, Any] = self._probes if issubclass(kind, Probe) else self._vectors
        alike: list[T] = [part for (other, _), part in known.items() if other == digest]
        return alike[0] if alike else self._missing(DIGEST + digest)

    def _missing(self, name: str) -> NoReturn:
        known = ", ".join(part.name for part in (*self._vectors.values(), *self._probes.values()))
        raise MisuseError(f"no vector or probe {name!r}; there are {known or 'none'}")


def _found(name: str, known: Mapping[Key, T], noun: str) -> T | None:
    matching = {digest: part for (digest, other), part in known.items() if other == name}
    if not matching and name.startswith(DIGEST):
        digest = name.removeprefix(DIGEST)
        if len(digest) < SHORTEST_DIGEST:
            raise MisuseError(f"{name!r} is too short a digest: give at least {SHORTEST_DIGEST} digits")
        matching = {key: part for (key, _), part in known.items() if key.startswith(digest)}
    if len(matching) > 1:
        digests = ", ".join(DIGEST + key[:12] for key in matching)
        raise MisuseError(f"{len(matching)} {noun}s are called {name!r}: say which, as {digests}")
    return next(iter(matching.values()), None)


def _gate_in_file(name: str) -> SteeringVector | Probe:
    """The probe in a file where it holds one, else the vector; a published probe also by its own name."""
    published = published_vectors()
    for path in published.values() if name not in published else ():
        probe = load_vector(path).probe
        if probe is not None and probe.name == name:
            return probe
    path = resolve_file(name)
    from steerkit.core.files import read_tensors

    return load_probe(path) if HEADER_KEY in read_tensors(path, "probe")[0] else load_vector(path)


def as_store(vectors: Store | Parts | None) -> Store:
    """Return a store: the one given, or one of these vectors and probes and of all files."""
    return vectors if isinstance(vectors, Store) else Store(vectors or ())


def tensors_of(interventions: Iterable[Intervention]) -> list[SteeringVector | Probe]:
    """Return every vector and probe that the interventions need, each once under each of its names."""
    parts = (part for each in interventions for part in each.tensors)
    return list({(part.digest, part.name): part for part in parts}.values())


def from_json(form: Json, vectors: Store | Parts | None = None) -> Intervention:
    """Return the intervention of a JSON form, its vectors and probes taken from `vectors` by digest.

    Raises InputError for a form that is none, MisuseError where a vector is missing or a value means nothing.
    """
    store = as_store(vectors)
    fields = dict(form)
    kind = fields.pop("kind", None)
    try:
        fields["gate"] = _gate(fields.get("gate"), store)
        if kind == "steering":
            fields["layers"] = tuple(fields["layers"])
            if "follows" in fields:
                fields["follows"] = _following(fields["follows"], store)
            return Steering(store.by_digest(fields.pop("vector")["sha256"], SteeringVector), **fields)
        if kind == "prompt":
            return PromptEdit(**fields)
        if kind == "rule":
            made = LOGIT_RULES[fields.pop("rule")]
            if "when" in fields:
                when = dict(fields["when"])
                fields["when"] = Trigger(reader_from_json(when.pop("reader"), store), **when)
            settings = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
            rule: Intervention = made(**settings)
            return rule
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"an intervention's JSON form is incomplete or has other fields: {error}") from error
    raise InputError(f"an intervention is of kind steering, prompt or rule, got {kind!r}")


def reader_from_json(form: Json, vectors: Store | Parts | None = None) -> Reader:
    """Return the reader of a JSON form, its vector or probe taken from `vectors` by digest.

    Raises InputError for a form that is none, MisuseError where a vector or probe is missing.
    """
    store = as_store(vectors)
    try:
        match form["kind"]:
            case "vector":
                return VectorReader(store.by_digest(form["vector"]["sha256"], SteeringVector), form["layer"])
            case "probe":
                return ProbeReader(store.by_digest(form["probe"]["sha256"], Probe), form["layer"])
            case "feature":
                return FeatureReader(store.by_digest(form["probe"]["sha256"], Probe))
            case "registered":
                return NamedReader(form["reader"], form["layer"], form["site"])
    except (KeyError, TypeError) as error:
        raise InputError(f"a reader's JSON form is incomplete or has other fields: {error}") from error
    raise InputError(f"a reader is of kind vector, probe, feature or registered, got {form['kind']!r}")


def recommended_use(vector: SteeringVector) -> tuple[Intervention, ...]:
    """Return the vector's recommended use; empty where its metadata has none."""
    own: list[SteeringVector | Probe] = [vector] if vector.probe is None else [vector, vector.probe]
    store = Store(own, files=False)
    return tuple(from_json(_bound(form, vector), store) for form in vector.metadata.recommended)


def _bound(value: Any, vector: SteeringVector, key: str = "") -> Any:
    """A recommended use with this vector, and its probe, in the place of `self`."""
    if not isinstance(value, dict):
        return value
    if value == {"name": SELF}:
        part = vector.probe if key == "probe" else vector
        if part is None:
            raise InputError(f"vector {vector.name!r} recommends a gate of its own and carries no probe")
        return {"name": part.name, "sha256": part.digest}
    return {name: _bound(part, vector, name) for name, part in value.items()}


def _following(form: Json, store: Store) -> Following:
    fields = dict(form)
    reader = reader_from_json(fields.pop("reader"), store)
    return FOLLOWINGS[fields.pop("kind")](reader, **fields)


def _gate(form: Json | None, store: Store) -> Gate | None:
    if form is None:
        return None
    match form["kind"]:
        case "probe":
            return ProbeGate(
                store.by_digest(form["probe"]["sha256"], Probe), form["layer"], form["threshold"]
            )
        case "detector":
            return DetectorGate(form["detector"], form["threshold"])
        case "position":
            return PositionGate(store.by_digest(form["vector"]["sha256"], SteeringVector), form["threshold"])
    raise InputError(f"a gate is of kind probe, detector or position, got {form['kind']!r}")
