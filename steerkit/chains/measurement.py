"""A run's chains of thought put to the test, resumably."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from steerkit.chains.cells import Cells
from steerkit.chains.continuation import Continuations, Setting
from steerkit.chains.examination import Examination, Settings, Subject
from steerkit.chains.results import FINDINGS_FILE, Findings, continue_findings, line_of, write_findings
from steerkit.core.errors import MisuseError, ModelMismatchError
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.probe import Probe
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.runs.directory import Record, RunDirectory, record_key
from steerkit.runs.protocol import Protocol
from steerkit.suites.splits import hash_position

AT_ONCE = 64  # completions; each becomes about fifteen rows

Progress = Callable[[int, int], None]


def measure_faithfulness(
    run: RunDirectory,
    lm: LanguageModel,
    *,
    vectors: Iterable[SteeringVector | Probe] = (),
    settings: Settings | None = None,
    cells: Collection[str] = (),
    limit: int | None = None,
    batch_size: int | None = None,
    allow_mismatch: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Test every chain of thought in a run that has not been tested; the path of `faithfulness.jsonl`.

    `lm` is the model of the run; `vectors` are those of its cells, with the probes of their gates (random controls and
    published vectors need not be given). `cells` keeps to some cells by id, and `limit` to that many items, the same
    for all cells and twins together. Calling again goes on; another `limit` or other `cells` add to what is there.

    Raises ModelMismatchError where `lm` is another model than the run's, MisuseError where a cell cannot be
    restored, nothing is left to test, or the run was tested under other settings.
    """
    settings = settings or Settings()
    check_model(lm, run.protocol)
    restored = Cells(run.protocol, vectors)
    asked = list(_asked(run, cells, limit))
    if not asked:
        raise MisuseError(f"{run.path} has no record of the cells and items asked for")
    there = continue_findings(run.path, settings)
    done = there.keys
    lines = list(there.lines)
    missing = [record for record in asked if record_key(record) not in done]
    settled = {record["cell"]: restored.of(record) for record in missing}  # before anything is run
    engine = TransformersEngine(lm, batch_size, allow_mismatch=allow_mismatch)
    continuations = Continuations(engine, lm.renderer, run.protocol, lm.context_length)
    examination = Examination(continuations, settings, run.protocol.decoding)
    tested = len(asked) - len(missing)
    for records in _batches(missing):
        if progress is not None:
            progress(tested, len(asked))
        subjects = [Subject.of(record, Setting.of(record, settled[record["cell"]])) for record in records]
        found = examination.findings(subjects)
        lines += [line_of(record, finding) for record, finding in zip(records, found, strict=True)]
        write_findings(run.path, Findings(settings, lines))
        tested += len(records)
    if progress is not None:
        progress(tested, len(asked))
    return run.path / FINDINGS_FILE


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


def _asked(run: RunDirectory, cells: Collection[str], limit: int | None) -> Iterator[Record]:
    """The records of these cells and of the first items in a fixed pseudo-random order, groups together."""
    if limit is not None:
        kept = _first_groups(run, limit)
    for record in run.records():
        if (not cells or record["cell"] in cells) and (limit is None or record["group"] in kept):
            yield record


def _first_groups(run: RunDirectory, limit: int) -> set[str]:
    items: dict[str, set[str]] = {}
    for record in run.records():
        items.setdefault(record["group"], set()).add(record["item"])
    kept: set[str] = set()
    room = limit
    for group in sorted(items, key=lambda group: hash_position("order", group)):
        if len(items[group]) <= room:
            kept.add(group)
            room -= len(items[group])
    return kept


def _batches(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    return (records[start : start + AT_ONCE] for start in range(0, len(records), AT_ONCE))
