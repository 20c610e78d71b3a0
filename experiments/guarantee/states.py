"""What the study reads: labelled questions, and the model's states at the last token of each prompt, captured once."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

import steerkit as sk
from steerkit.core.files import replacing
from steerkit.extraction.pairs import Example, labelled_prompts
from steerkit.extraction.probe_fit import prompt_states
from steerkit.suites.splits import split_of_group

FILES = {"SelfAware": "selfaware/SelfAware.json", "UMWP": "umwp/StandardDataset.jsonl"}


@dataclass(frozen=True)
class Questions:
    """Examples (positive: should be abstained from) with their states `[n, n_layers, d_model]` float32."""

    name: str
    examples: tuple[Example, ...]
    states: NDArray[np.float32]

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Whether each should be abstained from, `[n]`."""
        return np.array([example.positive for example in self.examples])

    @property
    def groups(self) -> NDArray[np.int64]:
        """The number of each one's group, `[n]`."""
        return np.unique([example.group for example in self.examples], return_inverse=True)[1]

    def where(self, keep: NDArray[np.bool_]) -> Questions:
        """Those of some rows."""
        rows = np.flatnonzero(keep)
        return Questions(self.name, tuple(self.examples[row] for row in rows), self.states[rows])

    def on_fit(self) -> NDArray[np.bool_]:
        """Whether each lies in the split `fit`: a quarter of the groups, from which detectors are fitted."""
        return np.array([split_of_group(example.group) == "fit" for example in self.examples])


def read(
    name: str, data: Path, cache: Path, model: str, dtype: str, limits: dict[str, int] | None = None
) -> Questions:
    """A set by its name, with its states; they are captured now where `cache` has none.

    `limits` are the most questions of each split (`Suite.limit`).
    """
    suite = sk.load_suite("abstention" if name == "ours" else f"{name.lower()}:{data / FILES[name]}")
    if limits:
        parts = [suite.split(split).limit(most).items for split, most in limits.items()]
        suite = replace(suite, items=tuple(itertools.chain(*parts)))
    prompts = labelled_prompts(suite)
    path = cache / f"{model}-{name}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        states = torch.from_numpy(prompt_states(sk.load_model(model, dtype=dtype), prompts))
        ids = {"ids": json.dumps([example.id for example in prompts.examples])}
        with replacing(path, "the states", "name another --cache") as scratch:
            save_file({"states": states.to(torch.bfloat16)}, scratch, ids)
    with safe_open(path, "pt") as file:
        place = {each: row for row, each in enumerate(json.loads(file.metadata()["ids"]))}
        states = file.get_tensor("states")
    rows = [place[example.id] for example in prompts.examples]
    return Questions(name, prompts.examples, states[rows].float().numpy())
