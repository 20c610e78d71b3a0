"""A run's chains of thought put to the test, resumably; what comes of it are scores beside the run's records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steerkit.chains.continuation import Continuations
from steerkit.chains.examination import Examination, Settings, Subject
from steerkit.chains.measures import CHAINS, Evidence, chains
from steerkit.core.errors import MisuseError, ModelMismatchError
from steerkit.core.progress import shows_progress
from steerkit.engines.catalogue import engine_for
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory
from steerkit.runs.protocol import Protocol
from steerkit.runs.record import Record
from steerkit.runs.scores import Added, read_added, write_scores
from steerkit.suites.splits import hash_position

AT_ONCE = 64  # completions; each becomes about fifteen rows

Progress = Callable[[int, int], None]


@shows_progress("measuring chains")
def measure_faithfulness(
    run: RunDirectory,
    lm: LanguageModel,
    *,
    settings: Settings | None = None,
    cells: Collection[str] = (),
    limit: int | None = None,
    batch_size: int | None = None,
    allow_mismatch: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Test every chain of thought in a run that has not been tested, and return the file of the scores.

    `lm` is the model of the run; each chain is tested under its cell's interventions, as the run's folder has them.
    `cells` keeps to some cells by id, or how that begins, and `limit` to that many items, the same for all cells and
    twins together. Calling again goes on; another `limit` or other `cells` add to what is there.

    Raises ModelMismatchError where `lm` is another model than the run's, InputError where a vector of the run is not
    there, MisuseError where there is no such cell, nothing to test, or the run was tested under other settings.
    """
    settings = settings or Settings()
    check_model(lm, run.protocol)
    tested_under = asdict(settings) | {"tests": list(settings.tests)}
    asked = list(_asked(run, [run.cell(cell).id for cell in cells], limit))
    if not asked:
        raise MisuseError(f"{run.path} has no record of the cells and items asked for")
    added = _continued(run, tested_under)
    done = {each.key for each in added}
    missing = [record for record in asked if record.key not in done]
    acting = {cell: run.cell(cell).interventions for cell in {record.cell for record in missing}}
    protocol = run.protocol
    engine = engine_for(lm, batch_size, allow_mismatch=allow_mismatch)
    continuations = Continuations(engine, lm.renderer, lm.context_length, protocol.system)
    examination = Examination(continuations, settings, protocol.decoding, protocol.markers)
    tested = len(asked) - len(missing)
    for start in range(0, len(missing), AT_ONCE):
        if progress is not None:
            progress(tested, len(asked))
        records = missing[start : start + AT_ONCE]
        subjects = [Subject.of(record, acting[record.cell], protocol.markers) for record in records]
        for record, found in zip(records, examination.evidence(subjects), strict=True):
            added.append(Added(record.key, chains(found), _to_json(found)))
        write_scores(run.scores_folder, CHAINS, tested_under, added)
        tested += len(records)
    if progress is not None:
        progress(tested, len(asked))
    return run.scores_folder / f"{CHAINS}.jsonl"


def check_model(lm: LanguageModel, protocol: Protocol) -> None:
    """Raise ModelMismatchError where a run of this protocol was made with other weights or another chat template."""
    if lm.fingerprint != protocol.fingerprint:
        raise ModelMismatchError(
            f"the run was made with {protocol.model} ({protocol.fingerprint}), and {lm.name} is {lm.fingerprint}: "
            "name the run's own model with --model"
        )
    if lm.renderer.digest != protocol.template_digest:
        raise ModelMismatchError(
            f"the run's prompts were rendered by another chat template than that of {lm.name}: use the tokenizer that "
            "the run was made with"
        )


def _continued(run: RunDirectory, settings: dict[str, Any]) -> list[Added]:
    """What is there under these settings. Raises MisuseError where it was found under others."""
    there = read_added(run.scores_folder, CHAINS)
    if there is None:
        return []
    was, added = there
    if was != settings:
        changes = ", ".join(
            f"{name} was {was.get(name)}, now {settings[name]}"
            for name in settings
            if was.get(name) != settings[name]
        )
        raise MisuseError(
            f"the chains of {run.path} were tested otherwise ({changes}): ask for the same again, or delete "
            f"{run.scores_folder / CHAINS}.jsonl"
        )
    return added


def _to_json(evidence: Evidence) -> dict[str, Any]:
    """The evidence as a line of scores holds it, without what there is none of."""
    return {name: value for name, value in asdict(evidence).items() if value}


def _asked(run: RunDirectory, cells: Collection[str], limit: int | None) -> Iterator[Record]:
    """The records of these cells and of the first items in a fixed pseudo-random order, groups together."""
    kept = None if limit is None else _first_groups(run, limit)
    for record in run.records(cells or None):
        if kept is None or record.group in kept:
            yield record


def _first_groups(run: RunDirectory, limit: int) -> set[str]:
    items: dict[str, set[str]] = {}
    for record in run.records():
        items.setdefault(record.group, set()).add(record.item)
    kept: set[str] = set()
    room = limit
    for group in sorted(items, key=lambda group: hash_position("order", group)):
        if len(items[group]) <= room:
            kept.add(group)
            room -= len(items[group])
    return kept
