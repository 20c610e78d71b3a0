"""The word problems of the study: which levels take part, and suites of them that are large enough to report on.

All are the brevity suite's. Its easiest level has no more than some 200 problems whose twins differ, so it is grown by
other seeds: the built-in suite first, then of each further seed what has not been asked yet. An item's split is a
function of its group, and no prompt is there twice, so what is in `choose` is in no other split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from steerkit.core.errors import MisuseError
from steerkit.runs.record import Record
from steerkit.suites import brevity
from steerkit.suites.items import SuiteItem
from steerkit.suites.splits import split_of

BUILT_IN = 150  # problems a level in the built-in suite
MOST_SEEDS = 100


def answerable(items: Iterable[SuiteItem]) -> tuple[SuiteItem, ...]:
    """The items that have an answer, each by itself.

    Without its twin an item keeps its group, hence its split: a group is called after its first id, which is the
    answerable one's.
    """
    return tuple(replace(item, twin=None) for item in items if item.should_abstain is False)


def twins(items: Iterable[SuiteItem]) -> tuple[SuiteItem, ...]:
    """The items that have a twin: each problem with an answer, and the same without a number that it needs."""
    return tuple(item for item in items if item.twin is not None)


def level_of(item_id: str) -> int:
    """The level of an item, `brevity-LEVEL-PLACE`."""
    return int(item_id.split("-")[1])


def accuracy_by_level(records: Iterable[Record]) -> dict[int, tuple[float, int]]:
    """For each level the share of correct answers, and of how many."""
    verdicts: defaultdict[int, list[bool]] = defaultdict(list)
    for record in records:
        verdicts[level_of(record.item)].append(bool(record.scores["correct"]))
    return {level: (sum(right) / len(right), len(right)) for level, right in sorted(verdicts.items())}


def qualifying(accuracies: Mapping[int, tuple[float, int]], least: float) -> tuple[int, ...]:
    """The levels whose accuracy is at least `least`; perhaps none."""
    return tuple(level for level, (accuracy, _) in accuracies.items() if accuracy >= least)


def grown(levels: Sequence[int], report_items: int) -> list[SuiteItem]:
    """The suite of these levels with at least `report_items` answerable items in the split `report`.

    Raises MisuseError where so many problems cannot be told apart.
    """
    kept: list[SuiteItem] = []
    seen: set[str] = set()
    for seed in range(MOST_SEEDS):
        for problem, twin in _problems(seed, levels):
            if problem.prompt in seen:
                continue
            if twin is not None and twin.prompt in seen:
                problem, twin = replace(problem, twin=None), None
            new = [problem] if twin is None else [problem, twin]
            kept += new
            seen |= {item.prompt for item in new}
        if sum(split_of(item) == "report" for item in answerable(kept)) >= report_items:
            return kept
    raise MisuseError(f"levels {list(levels)} have no {report_items} problems to report on that differ")


def _problems(seed: int, levels: Sequence[int]) -> Iterator[tuple[SuiteItem, SuiteItem | None]]:
    """The built-in suite of another seed, each problem with its twin if it has one, numbered behind earlier seeds."""
    made = {item.id: item for item in brevity.generate(seed, levels=levels)}
    for item in made.values():
        if item.should_abstain is False:
            twin = made.get(item.twin) if item.twin else None
            yield _numbered(item, seed), twin and _numbered(twin, seed)


def _numbered(item: SuiteItem, seed: int) -> SuiteItem:
    """The item with the ids, its own and its twin's, of a place that no earlier seed has."""

    def moved(name: str) -> str:
        suite, level, place = name.split("-")
        return f"{suite}-{level}-{int(place[:-1]) + seed * BUILT_IN:04d}{place[-1]}"

    return replace(item, id=moved(item.id), twin=item.twin and moved(item.twin))
