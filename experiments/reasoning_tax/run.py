"""What reasoning fine-tuning costs, what steering gives back, and what thinking is worth.

    python -m experiments.reasoning_tax.run --adapters FOLDER [--data FOLDER] [--part back] [--threads 2] [--out runs]

FOLDER of `--adapters` holds what `train` wrote: `long`, and the controls `short`, `none` and `long-idk` as far as they
are there. FOLDER of `--data` holds `selfaware/` and `umwp/`. The parts, in their order:

    before    the base and each variant, unsteered, as they are and told that they may say "I don't know"
    back      the long variant steered towards what it lost, ungated and gated
    worth     what its chains are worth: faithfulness, instruction following, twins
    routing   a router on frozen weights: answer at once, think, or abstain

Each goes on where it was stopped. What a part has measured so far is kept as its section, and results.md is put
together from the sections that are there, so it always says what is not measured yet.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from experiments.reasoning_tax import results
from experiments.reasoning_tax.back import paid_back
from experiments.reasoning_tax.before import before_and_after
from experiments.reasoning_tax.routing import routing
from experiments.reasoning_tax.setting import TUNED, Setting, Write
from experiments.reasoning_tax.worth import worth
from steerkit.core.errors import MisuseError
from steerkit.core.files import replacing

HERE = Path(__file__).parent

STUDIED = ("long", "short", "none", "long-idk")  # variants of the first set of questions

Part = Callable[[Setting, Sequence[str], Write], None]
PARTS: dict[str, tuple[str, Part]] = {
    "before": ("Before and after", before_and_after),
    "back": ("Paid back", lambda setting, _, write: paid_back(setting, write)),
    "worth": ("What the chain is worth", worth),
    "routing": ("Whether to think", lambda setting, _, write: routing(setting, write)),
}


def main() -> None:
    """Measure what is not there yet and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder with selfaware/ and umwp/; left out without it")
    parser.add_argument("--part", choices=PARTS, action="append", help="repeat for several; all if left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int, help="at most so many items of a split: a trial, kept apart")
    parser.add_argument("--out", type=Path, default=HERE / "runs")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    out = asked.out / "trial" if asked.limit else asked.out
    setting = Setting(asked.adapters, out, asked.data, asked.dtype, asked.limit)
    page = out / "results.md" if asked.limit else HERE / "results.md"
    measure(setting, asked.part or list(PARTS), page)
    print(page.read_text(encoding="utf-8"))


def measure(setting: Setting, parts: Sequence[str], page: Path) -> None:
    """Carry out the parts, and write the page anew whenever one has come further."""
    variants = [name for name in STUDIED if (setting.adapters / name / "adapter_config.json").is_file()]
    if TUNED not in variants:
        raise MisuseError(f"{setting.adapters} has no adapter {TUNED!r}: train it first (README.md)")
    absent = [name for name in STUDIED if name not in variants]
    for part in PARTS:
        if part in parts:
            section = section_file(setting, part)

            def write(text: str, section: Path = section) -> None:
                section.parent.mkdir(parents=True, exist_ok=True)
                with replacing(section, "the section") as scratch:
                    scratch.write_text(text, encoding="utf-8")
                put_together(setting, absent, page)

            PARTS[part][1](setting, variants, write)


def put_together(setting: Setting, absent: Sequence[str], page: Path) -> None:
    """Write the page from the sections that are there."""
    sections = [results.heading(setting.dtype, setting.tokens, absent)]
    for part, (title, _) in PARTS.items():
        file = section_file(setting, part)
        sections.append(
            file.read_text(encoding="utf-8") if file.is_file() else f"## {title}\n\nNot measured yet."
        )
    with replacing(page, "the results") as scratch:
        scratch.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def section_file(setting: Setting, part: str) -> Path:
    """Where a part's section is kept."""
    return setting.out / "sections" / f"{part}.md"


if __name__ == "__main__":
    main()
