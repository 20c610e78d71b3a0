"""What reasoning fine-tuning costs, what steering gives back, and what thinking is worth.

    python -m experiments.reasoning_tax.run --adapters FOLDER [--data FOLDER] [--part back] [--threads 2] [--out runs]
    python -m experiments.reasoning_tax.run --model smollm2-135m-reasoner-2 …

FOLDER of `--adapters` holds what `train` wrote: `long`, and the controls `short`, `none` and `long-idk` as far as they
are there. Instead of it `--model` names a bundled reasoner, of which more is asked and which has a page of its own.
FOLDER of `--data` holds `selfaware/` and `umwp/`. The parts, in their order:

    before    the base and each variant, unsteered, as they are and told that they may say "I don't know"
    back      the reasoning model steered towards what it lost, ungated and gated
    again     a rule that spares over-abstention, on items of SelfAware that no other part asks
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
from experiments.reasoning_tax.again import asked_again
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
    "again": ("Paid back, asked again", lambda setting, _, write: asked_again(setting, write)),
    "worth": ("What the chain is worth", worth),
    "routing": ("Whether to think", lambda setting, _, write: routing(setting, write)),
}


def main() -> None:
    """Measure what is not there yet and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked_of = parser.add_mutually_exclusive_group(required=True)
    asked_of.add_argument("--adapters", type=Path, help="folder of the variants that were trained")
    asked_of.add_argument("--model", help="a bundled reasoner")
    parser.add_argument("--data", type=Path, help="folder with selfaware/ and umwp/; left out without it")
    parser.add_argument("--part", choices=PARTS, action="append", help="repeat for several; all if left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int, help="at most so many items of a split: a trial, kept apart")
    parser.add_argument("--out", type=Path, default=HERE / "runs")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    out = asked.out / asked.model if asked.model else asked.out
    out = out / "trial" if asked.limit else out
    setting = Setting(asked.adapters, out, asked.data, asked.dtype, asked.limit, tuned=asked.model or TUNED)
    name = f"results-{asked.model}.md" if asked.model else "results.md"
    page = (out if asked.limit else HERE) / name
    measure(setting, asked.part or list(PARTS), page)
    print(page.read_text(encoding="utf-8"))


def measure(setting: Setting, parts: Sequence[str], page: Path) -> None:
    """Carry out the parts, and write the page anew whenever one has come further."""
    variants, absent = models_of(setting)
    for part in PARTS:
        if part in parts:
            section = section_file(setting, part)

            def write(text: str, section: Path = section) -> None:
                section.parent.mkdir(parents=True, exist_ok=True)
                with replacing(section, "the section") as scratch:
                    scratch.write_text(text, encoding="utf-8")
                put_together(setting, absent, page)

            PARTS[part][1](setting, variants, write)


def models_of(setting: Setting) -> tuple[list[str], list[str]]:
    """The models beside the base that can be asked, and the variants that were not trained.

    Raises MisuseError where the variant that is studied is not there.
    """
    if setting.adapters is None:
        return [setting.tuned], []
    there = [name for name in STUDIED if (setting.adapters / name / "adapter_config.json").is_file()]
    if setting.tuned not in there:
        raise MisuseError(f"{setting.adapters} has no adapter {setting.tuned!r}: train it first (README.md)")
    return there, [name for name in STUDIED if name not in there]


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
