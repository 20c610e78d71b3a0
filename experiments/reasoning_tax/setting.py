"""What all parts of the study share: models, suites with their sizes, the two conditions, and how cells are measured.

Everything here was fixed before a reasoning model was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import Progress

import steerkit as sk
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.suites.suite import Suite

BASE = "smollm2-135m-instruct"
TUNED = "long"
TOKENS = 512  # the longest chain that was trained on has fewer
LEVELS = "brevity"  # the suite whose accuracy says whether the training taught what it was for

# The base hardly ever abstains unless it is told that it may: 0.04 on our suite, 0.00 on UMWP, 0.25 on SelfAware
# (experiments/abstention_tradeoff). So every abstention suite is asked twice, and SelfAware, where there is most to
# lose, is the primary one, in both conditions; the others are reported beside it whatever they say.
PRIMARY = "selfaware"
TOLD = sk.parse("dont-know-instruction")
CONDITIONS: Mapping[str, tuple[sk.Intervention, ...]] = {"as it is": (), "told": (TOLD,)}

Write = Callable[[str], None]  # takes a part's section as far as it has come


@dataclass(frozen=True)
class Questions:
    """A suite, and how many items of each split are asked: a balanced and fixed choice, the same for every model.

    `file` is the data set's in the folder of `--data`; None for a built-in suite. `told`: asked in both conditions.
    """

    report: int
    choose: int = 0
    fit: int = 0
    file: str | None = None
    told: bool = True


# A chain has about 200 tokens, and a core writes some 450 a second: 100 completions of the long model take half a
# minute on two. These sizes bring all parts to about three quarters of an hour there; a share has an interval of
# about 10 points to either side.
SUITES: Mapping[str, Questions] = {
    "selfaware": Questions(report=160, choose=60, fit=300, file="selfaware/SelfAware.json"),
    "abstention": Questions(report=120, choose=60, fit=162),
    "brevity": Questions(report=180, choose=90, fit=150, told=False),
    "umwp": Questions(report=60, file="umwp/StandardDataset.jsonl"),
}
# Of a bundled reasoner, which was measured later: intervals of about 6 points to either side.
LARGER: Mapping[str, Questions] = {
    "selfaware": replace(SUITES["selfaware"], report=320, choose=120),
    "abstention": replace(SUITES["abstention"], report=304, choose=120),
    "brevity": replace(SUITES["brevity"], report=300, choose=120, fit=200),
    "umwp": replace(SUITES["umwp"], report=300),
}


@dataclass(frozen=True)
class Setting:
    """Where things are, and how the models run.

    `tuned` is the reasoning model: a variant in `adapters`, or a bundled model's name.
    """

    adapters: Path | None
    out: Path
    data: Path | None = None
    dtype: str = "bfloat16"
    limit: int | None = None
    base: str = BASE
    tokens: int = TOKENS
    tuned: str = TUNED

    def model(self, name: str) -> sk.LanguageModel:
        """The base, a variant, or a bundled model."""
        if name == "base":
            return sk.load_model(self.base, dtype=self.dtype)
        return sk.load_model(name if self.adapters is None else self.adapters / name, dtype=self.dtype)

    @property
    def questions(self) -> Mapping[str, Questions]:
        """The suites and how much of each is asked: more of a bundled reasoner."""
        return SUITES if self.adapters is not None else LARGER

    @property
    def suites(self) -> list[str]:
        """The suites that can be asked here, the primary one first."""
        return [name for name, asked in SUITES.items() if asked.file is None or self.data is not None]

    def reference(self, suite: str) -> str:
        """What `load_suite` takes."""
        file = SUITES[suite].file
        if file is None:
            return suite
        assert self.data is not None
        return f"{suite}:{self.data / file}"

    def size(self, suite: str, split: str) -> int:
        """How many items of a split are asked."""
        most: int = getattr(self.questions[suite], split)
        return min(most, self.limit or most)

    def items(self, suite: str, split: str) -> Suite:
        """The items that are asked."""
        return sk.load_suite(self.reference(suite)).split(split).limit(self.size(suite, split))

    def measured(
        self,
        lm: sk.LanguageModel,
        cells: Sequence[Cell],
        out: Path,
        suite: Suite | str,
        split: str,
        limit: int | None = None,
        tokens: int | None = None,
        decoding: sk.Decoding | None = None,
        samples: int = 1,
    ) -> sk.Run:
        """The cells on a suite's split, with a progress bar; what is recorded already is not run again."""
        with Progress() as bar:
            task = bar.add_task("/".join(out.relative_to(self.out).parts))
            return sk.sweep(
                lm,
                cells,
                sk.Measurement(
                    suite, split, limit, decoding or sk.Decoding(tokens or self.tokens), samples=samples
                ),
                out=out,
                allow_mismatch=True,  # the base's vector on the fine-tuned model is one of the questions
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )

    def plain(
        self, lm: sk.LanguageModel, name: str, suite: str, split: str, more: Sequence[Cell] = ()
    ) -> sk.Run:
        """A model without any steering on a suite, in the suite's conditions; `more` cells beside them."""
        cells = [plain_cell(how) for how in conditions(suite)]
        out = self.plain_folder(name, suite, split)
        reference, size = self.reference(suite), self.size(suite, split)
        return self.measured(lm, [*cells, *more], out, reference, split, size)

    def plain_folder(self, name: str, suite: str, split: str) -> Path:
        """Where `plain` keeps its run."""
        return self.out / "plain" / split / suite / name


def conditions(suite: str) -> list[str]:
    """The conditions in which a suite is asked."""
    return list(CONDITIONS) if SUITES[suite].told else [next(iter(CONDITIONS))]


def plain_cell(condition: str) -> Cell:
    """A model without any steering, in a condition."""
    return Cell(CONDITIONS[condition])


def records_of(run: sk.Run, cell: Cell) -> Iterator[Record]:
    """The records of one cell, in the order of their items."""
    return iter(sorted(run.records([cell.id]), key=lambda record: record.item))


def by_item(records: Iterator[Record]) -> dict[str, Record]:
    """Records of one cell by their items."""
    return {record.item: record for record in records}


def kept(path: Path, make: Callable[[], sk.SteeringVector]) -> sk.SteeringVector:
    """The vector in a file, made and named after it where it is not there yet."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        make().renamed(path.stem).save(path)
    return sk.load_vector(path)
