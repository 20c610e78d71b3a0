"""When to decide and how to act: ways to make a model abstain, compared at equal over-abstention.

    python -m experiments.while_it_writes.run [--data FOLDER] [--model NAME]… [--suite NAME]…

Detectors are fitted on a suite's split `fit`. Their thresholds are quantiles of what they read of the unsteered model
on `choose`, where a rule then picks one for each way; what it picked is measured once on `report`. Runs resume;
results.md and figure.png are written from what was asked for. FOLDER holds `selfaware/` and `umwp/`; without it our
suite alone is asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

import steerkit as sk
from experiments.while_it_writes.page import METRICS, Picked, Rows, draw, table
from experiments.while_it_writes.ways import (
    FALSE_ALARMS,
    GATE,
    LAYER,
    PROMPTS,
    SUBJECTS,
    SYSTEM,
    TOLD,
    UNSTEERED,
    WRITTEN,
    Acting,
    Scores,
    cuts_of,
    scores_of,
    ways,
)
from steerkit.analysis.choosing import choose_cell
from steerkit.analysis.summary import Row, summarise
from steerkit.engines.base import Request
from steerkit.runs.cells import RunCell
from steerkit.runs.record import Record
from steerkit.scoring.score import score_completion
from steerkit.sweeps.runner import make_record

T = TypeVar("T", sk.SteeringVector, sk.Probe)
HERE = Path(__file__).parent
SUITES = {
    "ours": "abstention",
    "selfaware": "selfaware:{data}/selfaware/SelfAware.json",
    "umwp": "umwp:{data}/umwp/StandardDataset.jsonl",
}
RULE = "recall s.t. over_abstention_rise<=0.05, accuracy_drop<=0.02"
FITTED = 200  # questions of `fit` that the probes are fitted on
ITEMS = (100, 160)  # of `choose` and of `report`
FEWER = {("reasoner", "ours"): (80, 120), ("reasoner", "umwp"): (60, 100)}  # its chains are long


def measured(name: str, suite: str, asked: argparse.Namespace) -> Rows:
    """Each way's row on `report` at the threshold that the rule picked; None where none keeps to it."""
    subject = SUBJECTS[name]
    lm = sk.load_model(subject.model, dtype=asked.dtype)
    data = sk.load_suite(SUITES[suite].format(data=asked.data))
    n_choose, n_report = FEWER.get((name, suite), ITEMS)
    out, decoding = asked.out / name / suite, sk.Decoding(subject.tokens)
    out.mkdir(parents=True, exist_ok=True)
    vector = kept(
        out.parent / "vector.safetensors", sk.load_vector, lambda: subject.vector(lm).renamed("abstain")
    )
    fit = data.split("fit").limit(FITTED)
    prompts = kept(out / "prompts.safetensors", sk.load_probe, lambda: sk.fit_probe(lm, fit, name="prompts"))
    written = kept(
        out / "written.safetensors",
        sk.load_probe,
        lambda: sk.fit_probe(lm, fit, name="written", written=decoding),
    )
    readers = {GATE: reader_of(prompts), PROMPTS: reader_of(prompts), WRITTEN: reader_of(written)}
    pair = (readers[PROMPTS], readers[WRITTEN])

    choose = Part(lm, sk.Measurement(data, "choose", n_choose, decoding), pair, out / "choose")
    labels = {item.id: bool(item.should_abstain) for item in choose.items}
    cuts = cuts_of(list(choose.scores.values()), [labels[item] for item in choose.scores])
    cells = ways(subject, vector, readers, cuts)
    rows = choose.rows([each for some in cells.values() for each in some])
    chosen = {}
    for way, some in cells.items():
        if best := choose_cell([rows[each.cell.id] for each in some], RULE):
            place = [each.cell.id for each in some].index(best.cell)
            chosen[way] = some[place], FALSE_ALARMS[place]
    report = Part(lm, sk.Measurement(data, "report", n_report, decoding), pair, out / "report", [TOLD])
    found = report.rows([each for each, _ in chosen.values()])
    picked = {UNSTEERED: Picked(found[sk.Cell().id]), SYSTEM: Picked(found[TOLD.id])}
    for way in cells:
        picked[way] = Picked(None)
        if way in chosen:
            each, share = chosen[way]
            picked[way] = Picked(found[each.cell.id], share)
    return picked


class Part:
    """A split, asked of the unsteered model and `beside` it, and of each way on the rows on which it acts."""

    def __init__(
        self,
        lm: sk.LanguageModel,
        asked: sk.Measurement,
        readers: Sequence[sk.ProbeReader],
        out: Path,
        beside: Sequence[sk.Cell] = (),
    ) -> None:
        self.lm, self.asked, self.items, self.path = lm, asked, asked.items, out / "acted.jsonl"
        read = replace(asked, readers=tuple(readers), reading="per-token")
        self.plain = sk.sweep(lm, [sk.Cell(), *beside], read, out=out / "unsteered")
        self.unsteered = {record.item: record for record in self.plain.records([sk.Cell().id])}
        prompts = sk.read(lm, [item.prompt for item in self.items], readers)
        self.scores: dict[str, Scores] = {}
        for item, prompt in zip(self.items, prompts, strict=True):
            self.scores[item.id] = scores_of(
                *(_there([prompt.values(k)[-1], *self.unsteered[item.id].readings[k]]) for k in (0, 1))  # type: ignore[misc]
            )

    def rows(self, several: Sequence[Acting]) -> dict[str, Row]:
        """A row a cell; records of the rows on which it does not act are the unsteered model's."""
        written = self._written(several)
        records, cells = list(self.plain.records()), dict(self.plain.cells)
        for each in {each.cell.id: each for each in several}.values():
            cells[each.cell.id] = RunCell.of(each.cell)
            for item, record in self.unsteered.items():
                if each.fires(self.scores[item]):
                    record = as_said(written[each.runs.id, item])
                records.append(replace(record, cell=each.cell.id))
        return {row.cell: row for row in summarise(records, cells)}

    def _written(self, several: Sequence[Acting]) -> dict[tuple[str, str], Record]:
        """What the cells write on the rows on which they act, by cell and item; kept in a file as it comes."""
        lines = self.path.read_bytes().splitlines() if self.path.is_file() else []
        written = {(record.cell, record.item): record for record in map(Record.from_line, lines)}
        wanted = {
            (each.runs.id, item.id): (each.runs, item)
            for each in several
            for item in self.items
            if each.fires(self.scores[item.id]) and (each.runs.id, item.id) not in written
        }
        requests = [
            Request(item.prompt, cell.interventions, self.asked.decoding, key=key)
            for key, (cell, item) in wanted.items()
        ]
        with self.path.open("ab") as file:
            for done in sk.TransformersEngine(self.lm).generate(requests):
                cell, item = wanted[done.request.key]  # type: ignore[index]
                scores = score_completion(item, done, self.asked.scored_by)
                record = make_record(cell, item, 0, done, scores)
                file.write(record.to_line())
                file.flush()
                written[cell.id, item.id] = record
        return written


def as_said(record: Record) -> Record:
    """The record of a stopped row counts as the abstention that it ends in, whatever half sentence stands before it."""
    if record.finish != "stop" or all(each.policy != "stop-and-say" for each in record.decisions):
        return record
    correct = None if record.scores["correct"] is None else False
    return replace(record, scores={**record.scores, "abstained": True, "correct": correct})


def _there(readings: Sequence[float | None]) -> list[float]:
    """The readings without that of a cut-off row's last token, which there is none of."""
    return [reading for reading in readings if reading is not None]


def kept(path: Path, load: Callable[[Path], T], make: Callable[[], T]) -> T:
    """What is in the file, made now where there is none."""
    if not path.is_file():
        make().save(path)
    return load(path)


def reader_of(probe: sk.Probe) -> sk.ProbeReader:
    """The probe's reader at the layer of its best cross-fitted AUROC, among those up to the steered one."""
    return sk.ProbeReader(probe, int(np.argmax((probe.metadata.auroc or ())[: LAYER + 1])))


def main() -> None:
    """Measure what is not there yet, write the page and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with selfaware/ and umwp/")
    parser.add_argument("--model", choices=SUBJECTS, action="append", help="several if repeated, else both")
    parser.add_argument("--suite", choices=SUITES, action="append", help="several if repeated, else all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=HERE / "runs")
    parser.add_argument("--page", type=Path, default=HERE, help="where results.md and figure.png are written")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    suites = [s for s in asked.suite or SUITES if asked.data is not None or "{data}" not in SUITES[s]]
    found = {(n, s): measured(n, s, asked) for n in asked.model or SUBJECTS for s in suites}
    write(found, asked.page)


def write(found: Mapping[tuple[str, str], Rows], folder: Path) -> None:
    """Write results.md and figure.png."""
    lines = [f"| | decided | acts on | items | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 4) + "|"]
    for (name, suite), rows in found.items():
        lines += [f"| **{SUBJECTS[name].model}, {suite}** |" + " |" * (len(METRICS) + 3), *table(rows)]
    said = (
        "# While it writes\n\nWritten by `run.py`, measured on `report`. Rule on `choose`, one threshold a way: "
        f"`{RULE}` (the system prompt has none to choose). Acts on: the share of the answerable questions of `choose` "
        "that the threshold stands for. In brackets 95% intervals, paired with the unsteered model.\n\n"
    )
    (folder / "results.md").write_text(said + "\n".join(lines) + "\n", encoding="utf-8")
    draw(found, folder / "figure.png")


if __name__ == "__main__":
    main()
