"""What the second reasoner's chains are worth, and what its training took: results-second-reasoner.md.

    python -m experiments.reasoning_tax.second_reasoner --adapters FOLDER [--data FOLDER] [--threads 2] [--out runs]

FOLDER of `--adapters` holds what `train` wrote: `closable-2`, which went on from `long-2`, and the control `none-2-on`,
which went on from `none-2` for as many steps on the same questions. FOLDER of `--data` holds `selfaware/`. The parts,
each of which goes on where it was stopped:

    worth    500 problems a level of the brevity suite, none of whose templates was trained on: the chains against the
             same model with its thinking closed at once, and against the same base that was trained on answers alone
    tax      SelfAware in both conditions: the base, the first reasoner and the second
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import steerkit as sk
from experiments.reasoning_tax.chains import END_OF_THINKING
from experiments.reasoning_tax.results import compared, estimate, number, table
from experiments.reasoning_tax.setting import CONDITIONS, PRIMARY, Setting, plain_cell, records_of
from steerkit.core.files import replacing
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.suites.brevity import generate
from steerkit.suites.brevity_templates import LEVELS as SUITE
from steerkit.suites.splits import split_of
from steerkit.suites.suite import Suite

HERE = Path(__file__).parent
PAGE = "results-second-reasoner.md"
THINKING, HALFWAY, ANSWERING, FIRST = "closable-2", "long-2", "none-2-on", "smollm2-135m-reasoner"

# Fixed before the first training. Half of a suite's items are its `report`, so more are made than are asked.
SUITE_SEED, MADE, ASKED, LEVELS = 2, 1100, 500, (2, 3, 4)
TOKENS = 400  # a chain that has not closed by then counts as never closed
TAX_ITEMS = 320
GAIN, CHAIN, UNCLOSED = 0.15, 100, 0.02  # what is asked of the chains on two levels at least

THINKS = Cell()
CLOSED = Cell((sk.ThinkingBudget(0),))


LENGTHS = ("tokens of a chain", "tokens in all where closed")


@dataclass(frozen=True)
class Way:
    """A way of answering: whose model, and under which cell."""

    model: str
    cell: Cell


CHAINS = "with its chain"
CONTROLS = ("thinking closed at once", "trained on answers alone")
WAYS: Mapping[str, Way] = {
    CHAINS: Way(THINKING, THINKS),
    CONTROLS[0]: Way(THINKING, CLOSED),
    CONTROLS[1]: Way(ANSWERING, THINKS),
    "halfway, with its chain": Way(HALFWAY, THINKS),
    "halfway, closed at once": Way(HALFWAY, CLOSED),
}


def main() -> None:
    """Measure what is not there yet and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder with selfaware/; the tax is left out without it")
    parser.add_argument("--part", choices=PARTS, action="append", help="repeat for several; all if left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int, help="at most so many items of a level: a trial, kept apart")
    parser.add_argument("--out", type=Path, default=HERE / "runs")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    out = asked.out / "trial" if asked.limit else asked.out
    setting = Setting(asked.adapters, out, asked.data, asked.dtype, asked.limit)
    page = out / PAGE if asked.limit else HERE / PAGE
    measure(setting, asked.part or list(PARTS), page)
    print(page.read_text(encoding="utf-8"))


def measure(setting: Setting, parts: Iterable[str], page: Path) -> None:
    """Carry out the parts, and put the page together from the sections that are there."""
    for part in parts:
        if part == "tax" and setting.data is None:
            continue
        section = _section(setting, part)
        section.parent.mkdir(parents=True, exist_ok=True)
        text = PARTS[part](setting)
        with replacing(section, "the section") as scratch:
            scratch.write_text(text, encoding="utf-8")
    found = [_section(setting, part) for part in PARTS]
    sections = [file.read_text(encoding="utf-8") for file in found if file.is_file()]
    with replacing(page, "the results") as scratch:
        scratch.write_text("\n\n".join([heading(setting), *sections]) + "\n", encoding="utf-8")


def heading(setting: Setting) -> str:
    """What was run."""
    return (
        "# The second reasoner\n\n"
        f"Written by `second_reasoner.py`: {setting.dtype}, greedy. In brackets 95% intervals, bootstrap over items; "
        "in parentheses the change against a table's first line, paired item by item."
    )


def worth(setting: Setting) -> str:
    """The section on the levels of the brevity suite."""
    asked = Suite("brevity, answerable", tuple(evaluated(setting.limit or ASKED)))
    records = _written(setting, asked, "worth")
    sections = [
        "## What the chains are worth",
        f"At most {TOKENS} tokens, {setting.limit or ASKED} problems a level, none of whose templates was trained on. "
        "Gain: accuracy with the chain less that of the better control, paired item by item; behind it its interval "
        "where templates are resampled instead of items, which says how far it holds for other templates. Reached: "
        f"a gain of at least {GAIN} whose interval is above 0, {CHAIN} tokens a chain or more, at most {UNCLOSED:.0%} "
        "never closed. Halfway is the first training, which taught no answering behind closed thinking: it thinks on "
        "behind the marker, which is why the second one teaches that, on what this table showed of it.",
        _gains(records, {level: f"brevity-{level}-" for level in LEVELS}, _suite_template),
    ]
    return "\n\n".join(sections)


def tax(setting: Setting) -> str:
    """The section on SelfAware."""
    models = {"base": "base", "first reasoner": FIRST, "second reasoner": THINKING}
    count = min(TAX_ITEMS, setting.limit or TAX_ITEMS)
    parts = [f"## The tax on SelfAware\n\n{count} items of `report`, at most {setting.tokens} tokens."]
    runs = {}
    for label, name in models.items():
        runs[label] = setting.measured(
            _model(setting, name),
            [plain_cell(how) for how in CONDITIONS],
            setting.out / "second-reasoner" / "tax" / label.replace(" ", "-"),
            setting.reference(PRIMARY),
            "report",
            count,
        )
    for how in CONDITIONS:
        rows = compared({label: records_of(run, plain_cell(how)) for label, run in runs.items()})
        unclosed = ", ".join(
            f"{label} {number(_share_open(records_of(runs[label], plain_cell(how))))}"
            for label in models
            if label != "base"
        )
        parts.append(f"### {how}\n\n{table(rows)}\n\nChains that never close: {unclosed}.")
    return "\n\n".join(parts)


PARTS: Mapping[str, Callable[[Setting], str]] = {"worth": worth, "tax": tax}


def evaluated(most: int) -> Iterator[sk.SuiteItem]:
    """Answerable problems of the brevity suite's split `report`, `most` a level, from a seed of their own."""
    for level in LEVELS:
        made = (item for item in generate(SUITE_SEED, MADE, [level]) if not item.should_abstain)
        yield from islice((item for item in made if split_of(item) == "report"), most)


def _written(setting: Setting, suite: Suite, part: str) -> dict[str, list[Record]]:
    """What each way wrote on the suite's items, in the order of the items."""
    found: dict[str, list[Record]] = {}
    for model in dict.fromkeys(way.model for way in WAYS.values()):
        some = {label: way.cell for label, way in WAYS.items() if way.model == model}
        run = setting.measured(
            _model(setting, model),
            list(some.values()),
            setting.out / "second-reasoner" / part / model,
            suite,
            "report",
            tokens=TOKENS,
        )
        found |= {label: list(records_of(run, cell)) for label, cell in some.items()}
    return found


@functools.cache
def _model(setting: Setting, name: str) -> sk.LanguageModel:
    return sk.load_model(name, dtype=setting.dtype) if name == FIRST else setting.model(name)


def _gains(
    records: Mapping[str, list[Record]], kinds: Mapping[int, str], template_of: Callable[[str], str]
) -> str:
    """A line for each kind of item: accuracies, the gain over the better control, how long and how often open."""
    columns = ("items", *records, "gain", "resampled by template", *LENGTHS, "never closed", "reached")
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for kind, prefix in kinds.items():
        some = {label: _starting(written, prefix) for label, written in records.items()}
        rows = compared(some)
        better = max(CONTROLS, key=lambda label: rows[label].levels["accuracy"].value)
        pair = {better: some[better], CHAINS: some[CHAINS]}
        gain = compared(pair)[CHAINS].changes["accuracy"]
        grouped = {
            label: [replace(r, group=template_of(r.item)) for r in these] for label, these in pair.items()
        }
        wider = compared(grouped)[CHAINS].changes["accuracy"]
        tokens, unclosed = rows[CHAINS].levels["thinking_tokens"], _share_open(some[CHAINS])
        closed = rows[CONTROLS[0]].levels["tokens"]
        met = gain.value >= GAIN and gain.low > 0 and tokens.value >= CHAIN and unclosed <= UNCLOSED
        cells = (
            str(len(some[CHAINS])),
            *(estimate(rows[label].levels["accuracy"]) for label in records),
            estimate(gain, "+"),
            f"[{number(wider.low, '+')}, {number(wider.high, '+')}]",
            estimate(tokens),
            estimate(closed),
            f"{unclosed:.3f}",
            "yes" if met else "no",
        )
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _starting(records: Iterable[Record], prefix: str) -> list[Record]:
    return [record for record in records if record.item.startswith(prefix)]


def _suite_template(item: str) -> str:
    """The template of a problem of the brevity suite, which takes them in turn."""
    _, level, place = item.rstrip("au").split("-")
    return f"{level}-{int(place) % len(SUITE[int(level)])}"


def _share_open(records: Iterable[Record]) -> float:
    """The share of completions whose thinking never closes."""
    return float(np.mean([END_OF_THINKING.strip() not in record.completion for record in records]))


def _section(setting: Setting, part: str) -> Path:
    return setting.out / "second-reasoner" / "sections" / f"{part}.md"


if __name__ == "__main__":
    main()
