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

from steerkit import __version__
from steerkit.core.errors import MisuseError, ProtocolMismatchError
from steerkit.core.prompts import TemplateOption
from steerkit.core.registry import PLUGINS
from steerkit.engines.base import Decoding
from steerkit.interventions.base import without_names
from steerkit.models.markers import DEFAULT, ThinkingMarkers
from steerkit.reading.reduction import check_reduction

PACKAGES = ("steerkit", "torch", "transformers")


@dataclass(frozen=True)
class Protocol:
    """Everything besides cells and items that decides what a completion and its scores are.

    `suite_digest` is that of the whole suite, before any split or limit. `template_digest` says how prompts are
    rendered, `template_options` what went to the chat template beside the messages, `markers` between which texts the
    model thinks. `scorers` are the names of those whose scores the records hold. `readers` are the JSON forms of what
    is read of each row, vectors and probes by digest, and `reading` says what the records keep of it, as in
    `steerkit.reading.reduction`.
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
    markers: ThinkingMarkers = DEFAULT
    scorers: tuple[str, ...] = ()
    template_options: Mapping[str, TemplateOption] = field(default_factory=dict)
    readers: tuple[Mapping[str, Any], ...] = ()
    reading: str | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise MisuseError(
                f"samples counts completions per prompt and cell, at least 1, got {self.samples}"
            )
        if self.reading is not None:
            check_reduction(self.reading)

    def check_continues(self, recorded: Protocol) -> None:
        """Raise ProtocolMismatchError, naming what differs, unless this is the recorded protocol."""
        ours, theirs = self._fields(), recorded._fields()
        names = dict.fromkeys([*ours, *theirs])  # an option of the template may be on one side alone
        differing = [
            f"{name} was {theirs.get(name)!r}, now {ours.get(name)!r}"
            for name in names
            if ours.get(name) != theirs.get(name)
        ]
        if without_names(self.readers) != without_names(recorded.readers):
            was, now = (", ".join(map(reader_name, p.readers)) or "none" for p in (recorded, self))
            differing.append(f"readers was {was}, now {now}")
        if differing:
            raise ProtocolMismatchError(
                f"this run was begun under another protocol: {'; '.join(differing)}; "
                "ask for the same again, or start a new run with another folder (out)"
            )

    def _fields(self) -> dict[str, Any]:
        """Its fields by dotted name."""
        fields = dataclasses.asdict(self)
        del fields["readers"]  # which are the same by contents, whatever they are called
        for name in ("decoding", "markers", "template_options"):
            fields |= {f"{name}.{part}": value for part, value in fields.pop(name).items()}
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
        plugins = (entry.dist for entry in importlib.metadata.entry_points(group=PLUGINS))
        packages = [*PACKAGES, *sorted({plugin.name for plugin in plugins if plugin is not None})]
        versions = {package: _version(package) for package in packages}
        versions |= {"python": platform.python_version(), "scoring rules": _scoring_digest()}
        return cls(versions, batch_size, command)

    def version_changes(self, recorded: Environment) -> list[str]:
        """One line for each package whose version differs from the recorded one."""
        return [
            f"{package} was {recorded.versions[package]}, now {version}"
            for package, version in self.versions.items()
            if recorded.versions.get(package, version) != version
        ]


def reader_name(form: Mapping[str, Any]) -> str:
    """Return how a recorded reader is named: its name or its vector's, the layer, and the beginning of the digest."""
    part = form.get(form["kind"])
    name = form["reader"] if part is None else part["name"]
    layer = "" if form.get("layer") is None else f"@layer={form['layer']}"
    return f"{name}{layer}" + ("" if part is None else f" (sha256:{part['sha256'][:12]})")


def _version(package: str) -> str:
    return __version__ if package == "steerkit" else importlib.metadata.version(package)


def _scoring_digest() -> str:
    """Digest of the source and phrases of all that scores: two runs that differ in it may score differently."""
    package = resources.files("steerkit")
    folders = (package / "scoring", package / "data" / "scoring")
    sources = sorted((f.name, f.read_bytes()) for folder in folders for f in folder.iterdir() if f.is_file())
    return hashlib.sha256(repr(sources).encode()).hexdigest()[:12]
