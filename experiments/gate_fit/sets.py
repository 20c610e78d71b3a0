"""What the study reads: three sets of labelled questions with their kinds, and the model's state at each prompt's end.

States are captured once, in one forward pass a prompt, and kept in a folder; every analysis after that takes minutes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

import steerkit as sk
from steerkit.core.files import replacing
from steerkit.extraction.pairs import LabelledPrompt, LabelledPrompts
from steerkit.extraction.probe_fit import prompt_states
from steerkit.suites.items import SuiteItem
from steerkit.suites.splits import split_of

MODEL = "smollm2-135m-instruct"
SETS = ("ours", "SelfAware", "UMWP")
LIMITS = {
    "fit": 600,
    "choose": 400,
    "report": 1000,
}  # questions of a split; the sets' own order decides which
# Why a problem cannot be answered (Sun et al. 2024, arXiv 2403.03558, table 1), by the number in the file.
UMWP_KINDS = {
    1: "key information missing",
    2: "ambiguous key information",
    3: "unrealistic conditions",
    4: "unrelated object",
    5: "question missing",
}


@dataclass(frozen=True)
class Questions:
    """Labelled questions with the states `[n, n_layers, d_model]` at the last prompt token, in one order."""

    data: LabelledPrompts
    splits: NDArray[np.str_]
    states: NDArray[np.float32]

    def rows(self, keep: NDArray[np.bool_] | Sequence[int]) -> Questions:
        """Those of some rows."""
        rows = np.arange(len(self.data))[keep]
        prompts = tuple(self.data.prompts[row] for row in rows)
        return Questions(replace(self.data, prompts=prompts), self.splits[rows], self.states[rows])


def read(name: str, data: Path, cache: Path) -> Questions:
    """A set with its states, captured now where `cache` has none."""
    items = _items(name, data)
    kinds = _umwp_kinds(data) if name == "UMWP" else {}
    prompts = tuple(
        LabelledPrompt(
            item.id,
            item.prompt,
            bool(item.should_abstain),
            item.group,
            kind=kinds.get(item.group, item.scenario or ""),
        )
        for item in items
    )
    # `LabelledPrompts.examples` puts the positive ones first, and so do the states.
    ordered = tuple(sorted(prompts, key=lambda prompt: not prompt.label))
    splits = {item.id: split_of(item) for item in items}
    labelled = LabelledPrompts(name, ordered)
    return Questions(
        labelled, np.array([splits[each.id] for each in ordered]), _states(name, labelled, cache)
    )


def _items(name: str, data: Path) -> list[SuiteItem]:
    references = {
        "ours": "abstention",
        "SelfAware": f"selfaware:{data / 'selfaware' / 'SelfAware.json'}",
        "UMWP": f"umwp:{data / 'umwp' / 'StandardDataset.jsonl'}",
    }
    suite = sk.load_suite(references[name])
    return [item for split, limit in LIMITS.items() for item in suite.split(split).limit(limit)]


def _umwp_kinds(data: Path) -> dict[str, str]:
    """The kind of each group of UMWP: that of its unanswerable twin."""
    kinds = {}
    for line in (data / "umwp" / "StandardDataset.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["category"] is not None:
            pair = [f"umwp-{row['id']}", *(f"umwp-{other}" for other in row["relevant_ids"])]
            kinds[min(pair)] = UMWP_KINDS[row["category"]]
    return kinds


def _states(name: str, data: LabelledPrompts, cache: Path) -> NDArray[np.float32]:
    path = cache / f"{MODEL}-{name}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        lm = sk.load_model(MODEL, dtype="bfloat16")
        states = torch.from_numpy(prompt_states(lm, data)).to(torch.bfloat16)  # as the blocks gave them
        with replacing(path, "the states") as scratch:
            save_file({"states": states}, scratch, {"ids": json.dumps([each.id for each in data])})
    with safe_open(path, "pt") as file:
        ids = {each: row for row, each in enumerate(json.loads(file.metadata()["ids"]))}
        states = file.get_tensor("states")
    return states[[ids[each.id] for each in data]].float().numpy()
