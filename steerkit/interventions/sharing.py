"""Vectors that are shared, as files: pulled from the hub with their cards, and verified."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from steerkit.core.errors import MisuseError
from steerkit.core.files import replacing
from steerkit.interventions.hub import CARD, hub_name, pull, read_card
from steerkit.interventions.layer_tensors import ModelFacts
from steerkit.interventions.store import recommended_use
from steerkit.interventions.vector import SteeringVector, load_vector, resolve_file


@dataclass(frozen=True)
class Verified:
    """A vector that was checked. `card` says what it was held against, `source` where on the hub it is, if it is."""

    vector: str
    file: str
    model: str
    fingerprint: str
    sha256: str
    recommended: str
    card: str
    source: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return its fields."""
        return asdict(self)


def verify(reference: str, model: ModelFacts | None = None) -> Verified:
    """Check a vector in a file, or of a name on the hub, against its card, and against `model` where one is given.

    A file's card is the Markdown file of its name beside it, or `README.md` in its folder, if it has front matter of
    ours. Raises InputError where they do not belong together, ModelMismatchError for a vector of another model, and
    what `load_vector` raises.
    """
    named = None if Path(reference).is_file() else hub_name(reference)
    if named is not None:
        pulled = pull(named)
        return _verified(load_vector(pulled.file), pulled.file, model, "agrees", f"{pulled.name}")
    path = resolve_file(reference)
    for card in (path.with_suffix(".md"), path.parent / CARD):
        entry = read_card(card, str(card)) if card.is_file() else None
        if entry is not None and (card.name != CARD or entry.file == path.name):
            entry.check(path, str(path))
            return _verified(load_vector(path), path, model, f"{card} agrees")
    return _verified(load_vector(path), path, model, "none beside it")


def pull_to(reference: str, out: Path | None = None, model: ModelFacts | None = None) -> Verified:
    """Fetch a vector of the hub to a file, by default `NAME.safetensors`, and its card to the `.md` beside it.

    Raises MisuseError for what is no name on the hub, and where another file is in the default place; otherwise what
    `verify` raises. Nothing is written that was not checked.
    """
    named = hub_name(reference)
    if named is None:
        raise MisuseError(f"{reference!r} is no name on the hub: write owner/name or owner/name@revision")
    pulled = pull(named)
    place = out or Path(f"{named.repo.partition('/')[2]}.safetensors")
    checked = _verified(load_vector(pulled.file), place, model, "agrees", str(pulled.name), pulled.file)
    if out is None and place.exists() and _sha256(place) != pulled.entry.sha256:
        raise MisuseError(f"{place} is there already with other contents: name another place (out)")
    for source, target in ((pulled.file, place), (pulled.card, place.with_suffix(".md"))):
        with replacing(target, "the vector") as scratch:
            shutil.copyfile(source, scratch)
    return checked


def _verified(
    vector: SteeringVector,
    path: Path,
    model: ModelFacts | None,
    card: str,
    source: str | None = None,
    contents: Path | None = None,
) -> Verified:
    if model is not None:
        vector.check(model)
    data, use = vector.metadata, recommended_use(vector)
    return Verified(
        vector.name,
        str(path),
        data.model,
        data.fingerprint,
        _sha256(contents or path),
        " ; ".join(map(str, use)),
        card,
        source,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
