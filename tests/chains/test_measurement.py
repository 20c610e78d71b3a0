from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from steerkit.chains import measurement
from steerkit.chains.examination import Settings
from steerkit.chains.measurement import measure_faithfulness
from steerkit.chains.results import read_findings
from steerkit.chains.summary import METRICS, faithfulness_rows, write_faithfulness_summary
from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.runs.directory import RunDirectory, record_key
from steerkit.sweeps.grid import Cell, build_grid
from tests.chains.made_runs import made_run, problems, worked_out
from tests.tiny import random_vector, tiny_model

QUICK = Settings(points=2, tests=("early", "filler"))


@pytest.fixture
def vector(tiny: LanguageModel) -> SteeringVector:
    return random_vector(tiny, 1, name="one")


@pytest.fixture
def run(tiny: LanguageModel, vector: SteeringVector, tmp_path: Path) -> RunDirectory:
    """Six items, and the unsteered, a steered and a random cell."""
    return made_run(tmp_path, tiny, problems(6), build_grid([vector], [1], [2]), worked_out)


def test_every_completion_of_a_run_is_tested_once_and_its_records_stay_as_they_are(
    run: RunDirectory, tiny: LanguageModel, vector: SteeringVector
) -> None:
    before = (run.path / "records.jsonl").read_bytes()
    shown: list[tuple[int, int]] = []
    path = measure_faithfulness(run, tiny, vectors=[vector], progress=lambda *at: shown.append(at))
    assert path == run.path / "faithfulness.jsonl"
    assert (run.path / "records.jsonl").read_bytes() == before
    found = read_findings(run.path)
    assert found is not None
    assert sorted(map(record_key, found.lines)) == sorted(map(record_key, run.records()))
    assert shown[-1] == (18, 18)
    assert all(line["scores"]["steps"] == 3 for line in found.lines)
    assert all(len(line["log_probabilities"]) == 4 for line in found.lines)
    assert all(len(line["answers"]) == 4 for line in found.lines)


def test_one_batch_and_many_find_the_same_and_a_second_call_asks_for_nothing(
    run: RunDirectory, tiny: LanguageModel, vector: SteeringVector
) -> None:
    asked = {"vectors": [vector], "settings": QUICK, "limit": 3}
    with mock.patch.object(measurement, "AT_ONCE", 5):
        path = measure_faithfulness(run, tiny, **asked)  # type: ignore[arg-type]
    in_many = path.read_bytes()
    with mock.patch.object(TransformersEngine, "generate", side_effect=AssertionError("asked again")):
        measure_faithfulness(run, tiny, **asked)  # type: ignore[arg-type]
    path.unlink()
    measure_faithfulness(run, tiny, batch_size=1, **asked)  # type: ignore[arg-type]
    assert path.read_bytes() == in_many


def test_limit_and_cells_choose_what_is_tested_and_more_can_be_added(
    run: RunDirectory, tiny: LanguageModel, vector: SteeringVector
) -> None:
    unsteered = Cell().id
    measure_faithfulness(run, tiny, settings=QUICK, cells=[unsteered], limit=2)  # needs no vector
    first = read_findings(run.path)
    assert first is not None
    assert {line["cell"] for line in first.lines} == {unsteered}
    measure_faithfulness(run, tiny, vectors=[vector], settings=QUICK, limit=4)
    more = read_findings(run.path)
    assert more is not None
    assert more.lines[:2] == first.lines
    assert {line["item"] for line in first.lines} < {line["item"] for line in more.lines}
    assert len(more.lines) == 3 * 4


def test_what_was_found_before_an_interruption_is_kept(
    run: RunDirectory, tiny: LanguageModel, vector: SteeringVector
) -> None:
    def stop_after_eight(done: int, _total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with mock.patch.object(measurement, "AT_ONCE", 4), pytest.raises(KeyboardInterrupt):
        measure_faithfulness(run, tiny, vectors=[vector], settings=QUICK, progress=stop_after_eight)
    found = read_findings(run.path)
    assert found is not None
    assert len(found.lines) == 8
    measure_faithfulness(run, tiny, vectors=[vector], settings=QUICK)
    whole = read_findings(run.path)
    assert whole is not None
    assert len({record_key(line) for line in whole.lines}) == len(whole.lines) == 18


def test_other_settings_another_model_and_no_record_are_refused(
    run: RunDirectory, tiny: LanguageModel, vector: SteeringVector
) -> None:
    with pytest.raises(ModelMismatchError, match="name the run's own model with --model"):
        measure_faithfulness(run, tiny_model(seed=5), vectors=[vector])
    with pytest.raises(MisuseError, match="no record of the cells and items asked for"):
        measure_faithfulness(run, tiny, vectors=[vector], cells=["nowhere"])
    with pytest.raises(MisuseError, match="--vector FILE"):
        measure_faithfulness(run, tiny)
    assert not (run.path / "faithfulness.jsonl").exists()
    measure_faithfulness(run, tiny, settings=QUICK, cells=[Cell().id])
    with pytest.raises(MisuseError, match="points was 2, now 4"):
        measure_faithfulness(run, tiny, cells=[Cell().id])


def test_a_damaged_file_says_what_to_do(run: RunDirectory, tiny: LanguageModel) -> None:
    path = measure_faithfulness(run, tiny, settings=QUICK, cells=[Cell().id])
    for damage in ("", "{", '{"format_version": 1}', path.read_text() + '{"cell": 1}\n'):
        path.write_text(damage)
        with pytest.raises(InputError, match="delete it, and run steerkit faithfulness again"):
            read_findings(run.path)


def test_rows_have_intervals_and_changes_from_the_unsteered_model(
    run: RunDirectory, tiny: LanguageModel, vector: SteeringVector
) -> None:
    measure_faithfulness(run, tiny, vectors=[vector])
    found = read_findings(run.path)
    assert found is not None
    rows = faithfulness_rows(found.lines, resamples=50)
    assert [row.role for row in rows] == ["unsteered", "steered", "random"]
    by_cell = {(line["cell"], line["item"]): line["scores"] for line in found.lines}
    for row in rows:
        gains = [scores["gain"] for (cell, _), scores in by_cell.items() if cell == row.cell]
        assert row.levels["gain"].value == pytest.approx(sum(gains) / 6)
        assert row.levels["gain"].n == row.n_items == 6
        assert row.levels["gain"].low <= row.levels["gain"].value <= row.levels["gain"].high
    change = rows[1].levels["gain"].value - rows[0].levels["gain"].value
    assert rows[1].changes["gain"].value == pytest.approx(change)
    assert rows[0].changes["gain"].value == 0
    table = write_faithfulness_summary(rows, run.path).read_text().splitlines()
    assert table[0].endswith(
        "metric,level,level_low,level_high,level_n,change,change_low,change_high,change_n"
    )
    assert len(table) - 1 == sum(len(row.levels.keys() & METRICS.keys()) for row in rows)


def test_the_bundled_model_says_what_its_chain_says(smollm: LanguageModel, tmp_path: Path) -> None:
    vector = random_vector(smollm, 1, size=0.2, name="one")
    cells = build_grid([vector], [12], [1], control_strengths=[])
    run = made_run(tmp_path, smollm, problems(3), cells, worked_out)
    settings = Settings(points=2, tests=("early", "logprob"))
    measure_faithfulness(run, smollm, vectors=[vector], settings=settings)
    found = read_findings(tmp_path)
    assert found is not None
    unsteered, steered = faithfulness_rows(found.lines, resamples=50)
    for row in (unsteered, steered):
        assert row.levels["as_given"].value == 1  # the chain ends in its answer, and the model repeats it
        assert row.levels["gain"].value > 0  # which it thought less likely without the chain
    assert steered.levels["gain"].value != unsteered.levels["gain"].value
