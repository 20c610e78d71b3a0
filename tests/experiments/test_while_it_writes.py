"""The study's ways: each acts by itself, on the rows that it is said to act on, and shows in table and figure."""

from __future__ import annotations

from pathlib import Path

import pytest

import steerkit as sk
from experiments.while_it_writes import page, ways
from experiments.while_it_writes.run import Part
from steerkit.models import LanguageModel
from tests.engines.test_readings import probe_of
from tests.tiny import random_vector

ITEMS, SHORT = 12, sk.Decoding(12)


@pytest.mark.parametrize("name", ways.SUBJECTS)
def test_rows_on_which_a_way_does_not_act_are_the_unsteered_models(
    tiny: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(ways, "LAYER", 2)
    monkeypatch.setattr(ways, "SMOOTHING", 3.0)
    prompts, written = (sk.ProbeReader(probe_of(tiny), layer) for layer in (0, 1))
    asked = sk.Measurement("abstention", "choose", ITEMS, SHORT)
    part = Part(tiny, asked, (prompts, written), tmp_path / "part", [ways.TOLD])
    cuts = ways.cuts_of(list(part.scores.values()), [bool(item.should_abstain) for item in part.items])
    subject = ways.SUBJECTS[name]
    readers = {ways.GATE: prompts, ways.PROMPTS: prompts, ways.WRITTEN: written}
    found = ways.ways(subject, random_vector(tiny), readers, cuts)
    assert len(found) == len(subject.acts) * len(ways.DETECTORS)
    several = {each.cell.id: each for some in found.values() for each in some}
    rows = part.rows(list(several.values()))

    cells = [sk.Cell(), *(each.cell for each in several.values())]
    whole = sk.sweep(tiny, cells, asked, out=tmp_path / "whole")
    for row in whole.summary():
        assert rows[row.cell].n_items == row.n_items
        assert rows[row.cell].levels["tokens"].value == pytest.approx(row.levels["tokens"].value)
    for record in whole.records(list(several)):
        if not several[record.cell].fires(part.scores[record.item]):
            assert record.completion == part.unsteered[record.item].completion

    shown = {way: page.Picked(rows[some[0].cell.id], 0.05) for way, some in found.items()}
    shown |= {ways.UNSTEERED: page.Picked(rows[sk.Cell().id]), ways.SYSTEM: page.Picked(rows[ways.TOLD.id])}
    shown["stop", ways.WRITTEN] = page.Picked(None)
    lines = list(page.table(shown))
    assert len(lines) == len(shown)
    assert sum("none keeps to the rule" in line for line in lines) == 1
    page.draw({(name, "ours"): shown}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_thresholds_are_reached_by_their_share_of_the_answerable_rows() -> None:
    rows = [ways.scores_of([place / 100] * 20, [place / 200] * 20) for place in range(100)]
    cuts = ways.cuts_of(rows, [place % 2 == 0 for place in range(100)])
    for score, each in cuts.items():
        fired = [sum(row[score] >= cut for row in rows[1::2]) / 50 for cut in each]
        assert fired == pytest.approx(ways.FALSE_ALARMS, abs=0.021)
