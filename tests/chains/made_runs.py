"""Runs on disk whose completions are written here, not sampled: the tiny model speaks in random bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell
from steerkit.runs.directory import RunDirectory, RunWriter
from steerkit.runs.protocol import Environment
from steerkit.runs.record import Record
from steerkit.suites.items import SuiteItem
from tests.chains.protocol import protocol

Said = Callable[[str], str]  # the completion of a prompt


def made_run(
    folder: Path, lm: LanguageModel, items: Sequence[SuiteItem], cells: Sequence[Cell], said: Said
) -> RunDirectory:
    """A finished run of these cells and items."""
    with RunWriter(folder, protocol(lm), Environment({"steerkit": "0.1.0"}), cells) as writer:
        for item in items:
            for cell in cells:
                writer.append(record(item, said(item.prompt), cell.id))
    return RunDirectory(folder)


def record(item: SuiteItem, completion: str, cell: str = "") -> Record:
    """What a sweep would have recorded."""
    return Record(
        cell=cell,
        item=item.id,
        sample=0,
        split="choose",
        group=item.group,
        should_abstain=item.should_abstain,
        answers=item.answers,
        kind=item.kind,
        prompt=item.prompt,
        completion=completion,
        tokens=len(completion.split()),
        finish="stop",
        scores={"tokens": len(completion.split()), "thinking_tokens": 0},
    )


def problems(n: int) -> list[SuiteItem]:
    """Sums with one answer each."""
    return [SuiteItem(f"sum-{i}", f"What is {i} + 1?", False, (str(i + 1),), "number") for i in range(n)]


def worked_out(prompt: str) -> str:
    """A chain and the right answer to one of `problems`."""
    i = int(prompt.split()[2])
    return f"We have {i}.\nWe add 1.\n{i} + 1 = {i + 1}.\nThe answer is {i + 1}."


def undecided_probe(lm: LanguageModel) -> Probe:
    """Reads the probability one half from whatever there is."""
    metadata = ProbeMetadata(name="doubt", model=lm.name, fingerprint=lm.fingerprint, layer=1)
    return Probe(torch.zeros(lm.n_layers, lm.d_model), torch.zeros(lm.n_layers), metadata)
