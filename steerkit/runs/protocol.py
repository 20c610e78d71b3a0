"""The protocol of a run: what must be equal for two records to be compared.

The grid and the items are not part of it: a record is identified by cell, item and sample, so both may be
extended. Software versions, the scoring rules, batch size and command line are recorded, and never a
reason to refuse.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from steerkit.core.errors import MisuseError, ProtocolMismatchError
from steerkit.engines.base import Decoding

SCORERS = ("abstention", "answers", "degeneration", "lengths", "perplexity", "reply", "score")
PACKAGES = ("steerkit", "torch", "transformers")


@dataclass(frozen=True)
class Protocol:
    """Everything besides cells and items that decides what a completion and its scores are.

    `suite_digest` is that of the whole suite, before any split or limit. `template_digest` says how prompts
    are rendered. `vectors` maps each vector's name, random controls included, to its digest: a name means one
    direction throughout a run, and names may be added. So with the probes of gates, which are named there too, and
    with `decorations`, by name.
    """

    suite: str
    suite_digest: str
    split: str
    model: str
    fingerprint: str
    template_digest: str
    dtype: str
    decoding: Decoding = field(default_factory=Decoding)
    samples: int = 1
    system: str | None = None
    vectors: Mapping[str, str] = field(default_factory=dict)
    decorations: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise MisuseError(
                f"samples counts completions per prompt and cell, at least 1, got {self.samples}"
            )

    def continuing(self, recorded: Protocol) -> Protocol:
        """This protocol and what the recorded run names besides; ProtocolMismatchError says what differs."""
        ours, theirs = self._comparable(recorded), recorded._comparable(self)
        differing = [
            f"{name} was {theirs[name]!r}, now {ours[name]!r}" for name in ours if ours[name] != theirs[name]
        ]
        if differing:
            raise ProtocolMismatchError(
                f"this run was begun under another protocol: {'; '.join(differing)}; "
                "ask for the same again, or start a new run with another --out"
            )
        return dataclasses.replace(
            self,
            vectors={**recorded.vectors, **self.vectors},
            decorations={**recorded.decorations, **self.decorations},
        )

    def _comparable(self, other: Protocol) -> dict[str, Any]:
        """Dotted field name -> value, with only those vectors and decorations that the other names too."""
        fields = dataclasses.asdict(self)
        fields |= {f"decoding.{name}": value for name, value in fields.pop("decoding").items()}
        for named in ("vectors", "decorations"):
            ours, theirs = fields.pop(named), getattr(other, named)
            fields |= {f"{named}.{name}": ours[name] for name in sorted(ours.keys() & theirs.keys())}
        return fields


@dataclass(frozen=True)
class Environment:
    """What carried out a run: recorded for the reader, never compared. `command` is how to start it again."""

    versions: Mapping[str, str]
    batch_size: int | None = None
    command: str | None = None

    @classmethod
    def current(cls, batch_size: int | None = None, command: str | None = None) -> Environment:
        """The environment of this process."""
        versions = {package: _version(package) for package in PACKAGES}
        versions |= {"python": platform.python_version(), "scoring rules": _scoring_digest()}
        return cls(versions, batch_size, command)

    def version_changes(self, recorded: Environment) -> list[str]:
        """One line for each package whose version differs from the recorded one."""
        return [
            f"{package} was {recorded.versions[package]}, now {version}"
            for package, version in self.versions.items()
            if recorded.versions.get(package, version) != version
        ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except (
        importlib.metadata.PackageNotFoundError
    ):  # steerkit itself, run from a checkout that is not installed
        return "not installed"


def _scoring_digest() -> str:
    """Digest of the source of the scorers that records keep: two runs that differ in it may score differently."""
    scorers = (resources.files("steerkit.scoring") / f"{name}.py" for name in SCORERS)
    return hashlib.sha256(b"".join(scorer.read_bytes() for scorer in scorers)).hexdigest()[:12]
