"""What the study reads: four sets of questions, each in its splits, and the model's states at several positions.

States are captured once and kept in a folder, so that every analysis after the first run takes seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import load_file, save_file

import steerkit as sk
from steerkit.core.files import replacing
from steerkit.core.prompts import EncodedText, common_prefix_length
from steerkit.engines.forward import right_padded, run
from steerkit.extraction.capture import capture
from steerkit.extraction.pairs import Example
from steerkit.models.sites import on_blocks
from steerkit.suites import brevity
from steerkit.suites.items import SuiteItem
from steerkit.suites.suite import Suite

CHUNK = 64  # texts that are captured together, behind the template's opening, which they share
WORKING = {"after 16 tokens of working": 16, "after 48 tokens of working": 48}
LAST, MEAN = "last prompt token", "mean over the question"
READINGS = (LAST, MEAN, *WORKING)
TWIN_SEEDS = range(1, 5)  # 250 pairs each; seed 0 is the brevity suite itself, which chooses and reports

# Most items of each split; the sets' own order decides which (`Suite.limit`).
LIMITS = {"fit": 4000, "choose": 300, "report": 600}


@dataclass(frozen=True)
class Labelled:
    """Items of one split with their states `[n, n_layers, d_model]` float32 at one reading position."""

    items: tuple[SuiteItem, ...]
    states: torch.Tensor

    @functools.cached_property
    def labels(self) -> NDArray[np.bool_]:
        """Whether each item should be abstained from."""
        return np.array([bool(item.should_abstain) for item in self.items])

    @functools.cached_property
    def groups(self) -> NDArray[np.str_]:
        """Each item's group: twins share theirs."""
        return np.array([item.group for item in self.items])

    @functools.cached_property
    def examples(self) -> list[Example]:
        """The items as examples to fit on."""
        return [Example(i.id, i.prompt, None, bool(i.should_abstain), i.group, None) for i in self.items]

    def first(self, n: int) -> Labelled:
        """The first `n` items in the order of `Suite.limit`, twins together."""
        kept = {item.id for item in Suite("subset", self.items).limit(n)}
        rows = [row for row, item in enumerate(self.items) if item.id in kept]
        return Labelled(tuple(self.items[row] for row in rows), self.states[rows])


def union(*parts: Labelled) -> Labelled:
    """Several sets as one."""
    return Labelled(
        tuple(item for part in parts for item in part.items), torch.cat([part.states for part in parts])
    )


class States:
    """The sets' items and their states, captured at first use and read from `cache` ever after."""

    def __init__(self, data: Path, cache: Path, model: str, dtype: str) -> None:
        self._data, self._cache, self._model, self._dtype = data, cache, model, dtype

    @functools.cached_property
    def lm(self) -> sk.LanguageModel:
        """The model, loaded when something has to be captured."""
        return sk.load_model(self._model, dtype=self._dtype)

    @functools.cache  # noqa: B019  (one object a run)
    def suite(self, name: str) -> Suite:
        """A set by the name that the tables use."""
        match name:
            case "ours":
                return sk.load_suite("abstention")
            case "SelfAware":
                return sk.load_suite(f"selfaware:{self._data / 'selfaware' / 'SelfAware.json'}")
            case "UMWP":
                return sk.load_suite(f"umwp:{self._data / 'umwp' / 'StandardDataset.jsonl'}")
            case _:
                return Suite(name, tuple(item for item in sk.load_suite("brevity") if item.twin))

    def items(self, name: str, split: str) -> tuple[SuiteItem, ...]:
        """At most LIMITS[split] labelled items of one split; the twins to fit on come from other seeds."""
        if (name, split) == ("twins", "fit"):
            return Suite(name, tuple(more_twins({item.prompt for item in self.suite(name)}))).items
        return self.suite(name).split(split).limit(LIMITS[split]).items

    @functools.cache  # noqa: B019  (one object a run)
    def read(self, name: str, split: str) -> Labelled:
        """One split of one set with its states at the last prompt token."""
        items = self.items(name, split)
        stored = self._stored(name, split, items, LAST, self._last_tokens)
        return Labelled(items, stored[LAST])

    def positions(self, name: str, split: str, limit: int) -> dict[str, Labelled]:
        """The first `limit` items of a split (twins together) with their states at each position of READINGS."""
        items = Suite(name, self.items(name, split)).limit(limit).items
        stored = self._stored(name, split, items, "positions", self._all_positions)
        return {reading: Labelled(items, stored[reading]) for reading in READINGS}

    def _stored(
        self,
        name: str,
        split: str,
        items: tuple[SuiteItem, ...],
        what: str,
        captured: Callable[[str, Sequence[SuiteItem]], dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        digest = Suite(name, items).digest[:12]
        stem = f"{name}-{split}-{what}-{self._model}-{self._dtype}-{digest}".replace(" ", "_")
        path = self._cache / f"{stem}.safetensors"
        if not path.exists():
            states = captured(name, items)
            with replacing(path, "the states", "name another --cache") as scratch:
                save_file(states, scratch)
        return load_file(path)

    def _last_tokens(self, name: str, items: Sequence[SuiteItem]) -> dict[str, torch.Tensor]:
        texts = [self.lm.renderer.encode_prompt(item.prompt) for item in items]
        opening = min(common_prefix_length(texts[0], text) for text in texts)
        states = torch.empty(len(texts), self.lm.n_layers, self.lm.d_model)
        for rows in _chunks(texts, f"{name}, {LAST}"):
            encoded = [EncodedText(tuple(texts[row]), opening) for row in rows]
            states[rows] = capture(self.lm, encoded, "last").states.cpu()
        return {LAST: states}

    def _all_positions(self, name: str, items: Sequence[SuiteItem]) -> dict[str, torch.Tensor]:
        """One pass over prompt and working reads every position; a working that ended early, its last token."""
        lm = self.lm
        prompts = [lm.renderer.encode_prompt(item.prompt) for item in items]
        opening = min(common_prefix_length(prompts[0], prompt) for prompt in prompts)
        workings = self._workings(name, items)
        texts = [prompt + working for prompt, working in zip(prompts, workings, strict=True)]
        shape = (len(texts), lm.n_layers, lm.d_model)
        states = {reading: torch.empty(shape) for reading in READINGS}

        def read(rows: list[int], layer: int, hidden: torch.Tensor) -> None:
            for row, positions in zip(rows, hidden.float(), strict=True):
                end = len(prompts[row])
                states[LAST][row, layer] = positions[end - 1]
                states[MEAN][row, layer] = positions[opening:end].mean(dim=0)
                for reading, tokens in WORKING.items():
                    states[reading][row, layer] = positions[min(end + tokens, len(texts[row])) - 1]

        for rows in _chunks(texts, f"{name}, working read"):
            reads = {layer: functools.partial(read, rows, layer) for layer in range(lm.n_layers)}
            with torch.inference_mode(), on_blocks(lm.blocks, reads):
                run(lm, right_padded([texts[row] for row in rows], lm))
        return states

    def _workings(self, name: str, items: Sequence[SuiteItem]) -> list[list[int]]:
        """The token ids of each item's greedy completion, unsteered, as long as the longest reading wants."""
        decoding = sk.Decoding(max(WORKING.values()))
        requests = [sk.Request(item.prompt, decoding=decoding, key=row) for row, item in enumerate(items)]
        workings: list[list[int]] = [[] for _ in items]
        completions = sk.TransformersEngine(self.lm).generate(requests)
        for completion in track(completions, f"{name}, working", total=len(items)):
            workings[completion.request.key] = list(completion.token_ids)
        return workings


def _chunks(texts: Sequence[Sequence[int]], doing: str) -> Iterator[list[int]]:
    """Row numbers by length, CHUNK at a time, with a progress bar."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    yield from track([order[start : start + CHUNK] for start in range(0, len(order), CHUNK)], doing)


def more_twins(taken: set[str]) -> Iterator[SuiteItem]:
    """Answerable and unanswerable twins from TWIN_SEEDS, those with a prompt that is `taken` left out."""
    seen = set(taken)
    for seed in TWIN_SEEDS:
        generated = [item for item in brevity.generate(seed=seed) if item.twin]
        for pair in zip(generated[::2], generated[1::2], strict=True):
            prompts = {item.prompt for item in pair}
            if seen.isdisjoint(prompts):
                seen |= prompts
                yield from (
                    replace(item, id=f"seed-{seed}-{item.id}", twin=f"seed-{seed}-{item.twin}")
                    for item in pair
                )
