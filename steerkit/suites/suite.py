"""A suite: named items, its splits, and fair small samples of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import resources
from itertools import chain, zip_longest
from pathlib import Path

from steerkit.core.errors import MisuseError
from steerkit.suites import brevity, instructions, public, twins
from steerkit.suites.brevity_templates import LEVELS
from steerkit.suites.items import SuiteItem, load_items
from steerkit.suites.splits import SPLITS, hash_position, split_of

GENERATED = {"brevity": brevity.generate, "instructions": instructions.generate, "twins": twins.generate}
BUILT_IN = ("abstention", *GENERATED)


@dataclass(frozen=True, slots=True)
class Suite:
    """A named set of items. Raises MisuseError where two of them have one id: records go by it."""

    name: str
    items: tuple[SuiteItem, ...]

    def __post_init__(self) -> None:
        item_id, count = Counter(item.id for item in self.items).most_common(1)[0] if self.items else ("", 0)
        if count > 1:
            raise MisuseError(
                f"suite {self.name} has {count} items with the id {item_id!r}: give each its own"
            )

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[SuiteItem]:
        return iter(self.items)

    @property
    def digest(self) -> str:
        """SHA-256 of the items, whatever their order; the name has no part in it."""
        rows = [asdict(item) for item in sorted(self.items, key=lambda item: item.id)]
        canonical = json.dumps(rows, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def split(self, name: str) -> Suite:
        """The items of one split. Raises MisuseError for an unknown split, or one that holds no item."""
        if name not in SPLITS:
            raise MisuseError(f"unknown split {name!r}: choose one of {', '.join(SPLITS)}")
        kept = tuple(item for item in self.items if split_of(item) == name)
        if not kept:
            counts = Counter(map(split_of, self.items))
            sizes = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
            raise MisuseError(f"suite {self.name} has no item in split {name!r} ({sizes}): add items")
        return replace(self, items=kept)

    def limit(self, n: int) -> Suite:
        """At most `n` items, a mixture of all scenarios and of both answerable and unanswerable.

        Twins come or stay away together, so the result may be one short of `n`; a smaller limit gives a
        subset of what a larger one gives. Raises MisuseError where not even one group of items fits.
        """
        kept: list[SuiteItem] = []
        for group in self._mixture():
            if len(kept) + len(group) > n:
                break
            kept += group
        if not kept:
            raise MisuseError(f"a limit of {n} leaves nothing of suite {self.name}: give at least 2")
        return replace(self, items=tuple(kept))

    def _mixture(self) -> Iterator[list[SuiteItem]]:
        """All groups: round-robin over scenario and answerability, in each by a fixed pseudo-random order."""
        groups: defaultdict[str, list[SuiteItem]] = defaultdict(list)
        for item in self.items:
            groups[item.group].append(item)
        strata: defaultdict[str, list[str]] = defaultdict(list)
        for group in sorted(groups, key=lambda group: hash_position("order", group)):
            kinds = sorted(f"{item.scenario} {item.should_abstain}" for item in groups[group])
            strata[" ".join(kinds)].append(group)
        rounds = zip_longest(*(strata[stratum] for stratum in sorted(strata)))
        return (groups[group] for group in chain.from_iterable(rounds) if group is not None)


def load_suite(name_or_path: str | os.PathLike[str]) -> Suite:
    """A built-in suite by name, a `.jsonl` file of items, or a public set as `NAME` (fetched) or `NAME:PATH`.

    `brevity:1` or `brevity:1+2` keeps to those levels, and so with `instructions` and `twins`.

    Raises MisuseError for an unknown name or a missing file, InputError for damaged contents, SteerkitError
    where a download fails.
    """
    reference = os.fspath(name_or_path)
    if reference == "abstention":
        data = resources.files("steerkit") / "data" / "suites" / "abstention.jsonl"
        with resources.as_file(data) as path:
            return Suite(reference, load_items(path))
    name, colon, path_in_name = reference.partition(":")
    if name in GENERATED:
        levels = _levels(reference, path_in_name) if colon else LEVELS
        return Suite(reference, tuple(GENERATED[name](levels=levels)))
    if name in public.PUBLIC_SETS:
        if colon and not path_in_name:
            raise MisuseError(f"{reference!r} names no file: give {name}:PATH")
        return Suite(name, public.load_public(name, path_in_name or None))
    if reference.endswith(".jsonl"):
        return Suite(Path(reference).stem, load_items(reference))
    known = ", ".join((*BUILT_IN, *public.PUBLIC_SETS))
    raise MisuseError(
        f"unknown suite {reference!r}: name one of {known}, a NAME:PATH, or a .jsonl file of items"
    )


def _levels(reference: str, text: str) -> list[int]:
    """The levels of `1+2`."""
    parts = text.split("+")
    if not all(part.isdecimal() for part in parts):
        raise MisuseError(f"{reference} names no levels: write brevity:1 or brevity:1+2")
    return [int(part) for part in parts]
