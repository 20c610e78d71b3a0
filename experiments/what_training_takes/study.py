"""Where the study keeps what it makes, which models it compares, and on what.

Everything here was fixed before a model was trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import steerkit as sk
from experiments.reasoning_tax.publish import About
from experiments.reasoning_tax.setting import BASE, CONDITIONS, Setting, plain_cell, records_of
from experiments.reasoning_tax.train import Preset, fine_tune
from experiments.what_training_takes import pool
from experiments.what_training_takes.filters import FILTERS, rows, share_abstained
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.suites.suite import Suite

STEPS, ROWS_A_STEP, HELD_OUT = 40, 16, 16
PRESET = Preset(
    device="cpu",
    dtype="bfloat16",
    rows=STEPS * ROWS_A_STEP,
    rows_a_step=ROWS_A_STEP,
    tokens_a_portion=2048,
    rank=4,
    alpha=8,
)
TOKENS = 128
REFERENCES = {
    "selfaware": "selfaware:{data}/selfaware/SelfAware.json",
    "abstention": "abstention",
    "brevity": "brevity:1+2",
}
# What the models are asked: how many items of `report`, how many of `choose` set a gate's threshold, and how.
REPORT = {"selfaware": 160, "abstention": 160, "brevity": 80}
CHOOSE = {"selfaware": 120, "abstention": 120}
ASKED: Mapping[str, Sequence[str]] = {
    "selfaware": tuple(CONDITIONS),
    "abstention": tuple(CONDITIONS),
    "brevity": ("as it is",),
}


@dataclass(frozen=True)
class Study:
    """Folders, and the ways to what is kept in them; a `limit` makes a trial of it."""

    out: Path
    data: Path
    limit: int | None = None
    dtype: str = "bfloat16"

    @property
    def setting(self) -> Setting:
        """How models are loaded and measured here."""
        return Setting(self.out / "adapters", self.out, self.data, self.dtype, base=BASE, tokens=TOKENS)

    def size(self, count: int) -> int:
        """So many, or fewer in a trial."""
        return min(count, self.limit or count)

    def reference(self, suite: str) -> str:
        """What loads a suite."""
        return REFERENCES[suite].format(data=self.data)

    def model(self, name: str) -> sk.LanguageModel:
        """The base, or what a filter and a seed made of it."""
        return self.setting.model(name)

    def pool(self, asked: Suite) -> sk.Run:
        """The base's samples of the training questions, drawn once."""
        some = asked if self.limit is None else replace(asked, items=asked.items[: self.limit])
        return self.setting.measured(
            self.model("base"),
            [Cell()],
            self.out / "pool",
            some,
            "fit",
            decoding=pool.DECODING,
            samples=pool.SAMPLES,
        )

    def trained(self) -> Iterator[tuple[str, Path]]:
        """Train each filter with each of its seeds, where that is not done; yields names and adapters."""
        references = {name: self.reference(name) for name in REFERENCES}
        asked, unanswerable = pool.training_items(references)
        found = list(pool.questions(asked, self.pool(asked)))
        for name, seed in variants():
            folder = self.out / "adapters" / label(name, seed)
            kept = FILTERS[name]
            preset = replace(PRESET, seed=seed, rows=self.size(PRESET.rows))
            learnt = rows(kept.keeps(found, unanswerable), preset.rows + HELD_OUT, seed)
            if not (folder / "adapter_config.json").is_file():
                about = About(
                    label(name, seed),
                    f"SmolLM2-135M-Instruct fine-tuned on its own samples: {kept.says}",
                    f'say "I don\'t know." in {share_abstained(learnt):.0%} of its rows',
                    study="what_training_takes",
                    data=f"{pool.SAMPLES} samples a question of the base itself, filtered by `filters.py`",
                )
                fine_tune(learnt, about, preset, folder, BASE)
            yield label(name, seed), folder

    def plain(self, name: str, suite: str) -> dict[str, list[Record]]:
        """A model's records on `report` of a suite, by condition."""
        cells = {condition: plain_cell(condition) for condition in ASKED[suite]}
        run = self.setting.measured(
            self.model(name),
            list(cells.values()),
            self.out / "plain" / suite / name,
            self.reference(suite),
            "report",
            self.size(REPORT[suite]),
        )
        return {condition: list(records_of(run, cell)) for condition, cell in cells.items()}


def variants() -> Iterator[tuple[str, int]]:
    """Every filter with each of its seeds, the first seeds first."""
    most = max(kept.seeds for kept in FILTERS.values())
    for seed in range(1, most + 1):
        for name, kept in FILTERS.items():
            if seed <= kept.seeds:
                yield name, seed


def label(name: str, seed: int) -> str:
    """What the model of a filter and a seed is called."""
    return f"rft-{name}-{seed}"
