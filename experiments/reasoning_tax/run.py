"""What reasoning fine-tuning costs, what steering gives back, and whether to think at all.

    python -m experiments.reasoning_tax.run --adapters FOLDER [--data FOLDER] [--threads 2] [--out runs]

FOLDER of `--adapters` holds what `train` wrote: `long`, and the controls `short`, `none` and `long-idk` as far as they
are there. FOLDER of `--data` holds `selfaware/` and `umwp/`.

1. Before and after: the base and each variant, unsteered, on `report` of the brevity and the abstention suite (and of
   SelfAware and UMWP); changes are paired with the base, item by item.
2. Paid back: on the long variant, vectors from itself and from the base, ungated and under its own probe, beside an
   instruction and a bias. Cells are chosen on `choose` by the rules below and measured once on `report`.
3. Whether to think: a router on frozen weights (see `routing`).

Resumable; results.md is written from the run directories.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.progress import Progress

import steerkit as sk
from experiments.abstention_tradeoff.run import choices, controls, fitted_probe
from experiments.reasoning_tax import results, routing
from experiments.reasoning_tax.data import VARIANTS
from steerkit.errors import MisuseError
from steerkit.pairs import ContrastPairs
from steerkit.sweeps.grid import Cell, build_grid, distinct
from steerkit.sweeps.run import measure_cells

HERE = Path(__file__).parent
BASE = "smollm2-135m-instruct"
TUNED = "long"
TOKENS = 512  # the longest chain that was trained on has fewer
PUBLIC = {"selfaware": "selfaware/SelfAware.json", "umwp": "umwp/StandardDataset.jsonl"}
PUBLIC_ITEMS = 300
LAYERS = (10, 14, 18)
STRENGTHS = (0.5, 1.0, 1.5)
BUDGETS = (0.05, 0.2)
DECORATIONS = ("dont-know-instruction", "refusal-bias@bias=4")
AFTER_CHAIN = "Okay, let me think about this.\n</think>\n"


@dataclass(frozen=True)
class Setting:
    """Where things are, and how the models run."""

    adapters: Path
    out: Path
    data: Path | None
    dtype: str
    limit: int | None

    def model(self, name: str) -> sk.LanguageModel:
        """The base, or a variant."""
        return sk.load_model(BASE if name == "base" else self.adapters / name, dtype=self.dtype)

    @property
    def suites(self) -> dict[str, tuple[str, int | None]]:
        """Each suite's reference and how many items of it are taken."""
        found: dict[str, tuple[str, int | None]] = {
            "brevity": ("brevity", self.limit),
            "abstention": ("abstention", self.limit),
        }
        if self.data is not None:
            most = min(PUBLIC_ITEMS, self.limit or PUBLIC_ITEMS)
            found |= {name: (f"{name}:{self.data / file}", most) for name, file in PUBLIC.items()}
        return found


def main() -> None:
    """Measure what is not there yet and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder with selfaware/ and umwp/; left out without it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int, help="at most so many items of a split, for a trial")
    parser.add_argument("--out", type=Path, default=HERE / "runs")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    setting = Setting(asked.adapters, asked.out, asked.data, asked.dtype, asked.limit)
    variants = [name for name in VARIANTS if (asked.adapters / name / "adapter_config.json").is_file()]
    if TUNED not in variants:
        raise MisuseError(f"{asked.adapters} has no adapter {TUNED!r}: train it first (README.md)")
    parts = [
        results.heading(setting.dtype, TOKENS, [name for name in VARIANTS if name not in variants]),
        before_and_after(setting, variants),
        paid_back(setting),
        routing.study(setting.model(TUNED), setting.out / "routing", TOKENS, setting.limit),
    ]
    text = "\n\n".join(parts) + "\n"
    (asked.out / "results.md" if asked.limit else HERE / "results.md").write_text(text, encoding="utf-8")
    print(text)


def before_and_after(setting: Setting, variants: Sequence[str]) -> str:
    """The base and the variants on each suite."""
    runs: dict[str, dict[str, sk.Run]] = {}
    for name in ("base", *variants):
        lm = setting.model(name)
        for suite, (reference, limit) in setting.suites.items():
            out = setting.out / "plain" / suite / name
            runs.setdefault(suite, {})[name] = measured(lm, [Cell()], out, reference, "report", limit)
    return results.before_and_after(runs)


def paid_back(setting: Setting) -> str:
    """The long variant, steered back."""
    lm = setting.model(TUNED)
    folder = setting.out / "back"
    vectors = [
        kept(folder / "own.safetensors", lambda: sk.extract(lm, sk.load_pairs("abstention"))),
        kept(
            folder / "own-answer.safetensors",
            lambda: sk.extract(lm, after_a_chain(sk.load_pairs("abstention"))),
        ),
        kept(
            folder / "base.safetensors",
            lambda: sk.extract(setting.model("base"), sk.load_pairs("abstention")),
        ),
    ]
    probe = fitted_probe(lm, folder / "probe.safetensors", BUDGETS)
    gates = [sk.ProbeGate(probe, t.layer, t.threshold) for t in probe.metadata.thresholds]
    cells = distinct(
        cell
        for vector in vectors
        for cell in build_grid(
            [vector],
            LAYERS,
            STRENGTHS,
            ("answer",) if vector.name == "own-answer" else ("completion",),
            control_strengths=(),
            gates=[None, *gates],
            decorations=[sk.parse_decoration(name) for name in DECORATIONS],
        )
    )
    wide = measured(lm, cells, folder / "choose", "abstention", "choose", setting.limit)
    picked = choices(wide.summary(), cells)
    chosen = [cell for cell in picked.values() if cell is not None]
    shown = distinct([Cell(), *chosen, *controls(chosen)])
    narrow = measured(lm, shown, folder / "report", "abstention", "report", setting.limit)
    before = sk.open_run(setting.out / "plain" / "abstention" / "base")
    return results.paid_back(picked, narrow, before)


def kept(path: Path, make: Callable[[], sk.SteeringVector]) -> sk.SteeringVector:
    """The vector in a file, made and named after it where it is not there yet."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        make().renamed(path.stem).save(path)
    return sk.load_vector(path)


def after_a_chain(pairs: ContrastPairs) -> ContrastPairs:
    """The pairs with their completions where a reasoning model answers: behind a chain, the same on both sides."""
    moved = (
        replace(pair, positive=AFTER_CHAIN + pair.positive, negative=AFTER_CHAIN + pair.negative)
        for pair in pairs.pairs
    )
    return ContrastPairs(f"{pairs.name}, after a chain", tuple(moved))


def measured(
    lm: sk.LanguageModel, cells: Sequence[Cell], out: Path, suite: str, split: str, limit: int | None
) -> sk.Run:
    """The cells on a suite's split, with a progress bar; what is recorded already is not run again."""
    with Progress() as bar:
        task = bar.add_task("/".join(out.parts[-2:]))
        return measure_cells(
            lm,
            cells,
            out=out,
            suite=suite,
            split=split,
            limit=limit,
            max_new_tokens=TOKENS,
            allow_mismatch=True,  # the base's vector on the fine-tuned model is one of the questions
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


if __name__ == "__main__":
    main()
