"""A suite: named items, its splits, and fair small samples of it. `@suite` gives one a name that every verb knows.

    @suite("riddles", scorers=["answers", "lengths", "degeneration"])
    def riddles() -> Iterable[SuiteItem]:
        return [SuiteItem("egg", "A box without hinges, key or lid?", answers=("egg",))]

A function that takes one argument is given, as text, what stands behind the colon in `NAME:ARGUMENT`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

from steerkit.core.errors import MisuseError
from steerkit.core.numbers import check_whole
from steerkit.core.registry import SUITES, summary_of
from steerkit.suites.items import SuiteItem, load_items
from steerkit.suites.splits import SPLITS, hash_position, split_of

ALWAYS = ("lengths", "degeneration")


@dataclass(frozen=True, slots=True)
class Suite:
    """A named set of items. Raises MisuseError where two of them have one id: records go by it.

    `scorers` are the names of those that make sense for the items. By default: abstention where an item says whether
    it should be abstained from, answers where one has any, lengths and degeneration always.
    """

    name: str
    items: Sequence[SuiteItem]
    scorers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        object.__setattr__(self, "scorers", tuple(self.scorers) or _fitting_scorers(self.items))
        item_id, count = Counter(item.id for item in self.items).most_common(1)[0] if self.items else ("", 0)
        if count > 1:
            raise MisuseError(
                f"suite {self.name} has {count} items with the id {item_id!r}: give each its own"
            )

    def __repr__(self) -> str:
        return f"Suite({self.name}: {len(self)} items, scored by {', '.join(self.scorers)})"

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
        n = check_whole("a limit", n)
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


@dataclass(frozen=True)
class NamedSuite:
    """What `@suite` declares: the function that gives the items, and the names of the scorers that suit them."""

    name: str
    function: Callable[..., Iterable[SuiteItem]]
    scorers: tuple[str, ...] = ()

    @property
    def doc(self) -> str:
        """What the function says of itself, in a line."""
        return summary_of(self.function)

    @functools.cached_property
    def argument(self) -> str | None:
        """The name of what may stand behind the colon; None where nothing may."""
        return next(iter(inspect.signature(self.function).parameters), None)

    def load(self, given: str | None = None) -> Suite:
        """The suite, `given` what stands behind the colon of its name. Raises MisuseError where that is wrong.

        An argument is part of the suite's name, but for a path: a name holds on any machine.
        """
        if given is None:
            return Suite(self.name, tuple(self.function()), self.scorers)
        if self.argument is None:
            raise MisuseError(f"suite {self.name} takes no argument: leave out {f':{given}'!r}")
        if not given:
            raise MisuseError(
                f"{f'{self.name}:'!r} names no {self.argument}: give {self.name}:{self.argument.upper()}"
            )
        name = self.name if self.argument == "path" else f"{self.name}:{given}"
        return Suite(name, tuple(self.function(given)), self.scorers)


def suite(
    name: str, *, scorers: Sequence[str] = ()
) -> Callable[[Callable[..., Iterable[SuiteItem]]], Callable[..., Iterable[SuiteItem]]]:
    """Register what the decorated function returns as the suite `name`; the function stays as it is.

    `scorers` as for `Suite`. Raises MisuseError for a name that is malformed or taken.
    """

    def declare(function: Callable[..., Iterable[SuiteItem]]) -> Callable[..., Iterable[SuiteItem]]:
        SUITES.add(name, NamedSuite(name, function, tuple(scorers)))
        return function

    return declare


def load_suite(reference: Suite | str | os.PathLike[str]) -> Suite:
    """Return a suite by its name, as `NAME:ARGUMENT`, or from a `.jsonl` file of items; a Suite is returned as it is.

    `brevity:1` or `brevity:1+2` keeps to those levels, and so with `instructions` and `twins`; `gsm8k` is fetched,
    `gsm8k:PATH` reads a file.

    Raises MisuseError for an unknown name or a missing file, InputError for damaged contents, SteerkitError
    where a download fails.
    """
    if isinstance(reference, Suite):
        return reference
    if not isinstance(reference, str | os.PathLike):
        raise MisuseError(
            f"a suite is one, its name, or a .jsonl file of items, got {type(reference).__name__}"
        )
    text = os.fspath(reference)
    name, colon, argument = text.partition(":")
    if name in SUITES:
        named: NamedSuite = SUITES[name]
        return named.load(argument if colon else None)
    if text.lower().endswith(".jsonl"):
        return Suite(Path(text).stem, load_items(text))
    raise MisuseError(
        f"unknown suite {text!r}: name one of {', '.join(sorted(SUITES))}, a NAME:PATH, or a .jsonl file of items"
    )


def _fitting_scorers(items: Iterable[SuiteItem]) -> tuple[str, ...]:
    items = tuple(items)
    abstention = ("abstention",) if any(item.should_abstain is not None for item in items) else ()
    answers = ("answers",) if any(item.answers for item in items) else ()
    return (*abstention, *answers, *ALWAYS)
