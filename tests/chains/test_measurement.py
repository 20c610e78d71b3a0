from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest

from steerkit.analysis.run import open_run
from steerkit.chains import measurement
from steerkit.chains.examination import Settings
from steerkit.chains.measurement import measure_faithfulness
from steerkit.chains.measures import CHAINS
from steerkit.core.errors import InputError, MisuseError, ModelMismatchError
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.models import LanguageModel
from steerkit.runs.cells import Cell
from steerkit.runs.directory import RunDirectory
from steerkit.runs.scores import Added, read_added
from tests.chains.made_runs import made_run, problems, undecided_probe, worked_out
from tests.tiny import random_vector, tiny_model

QUICK = Settings(points=2, tests=("early", "filler"))
PLAIN = Cell()


@pytest.fixture
def run(tiny: LanguageModel, tmp_path: Path) -> RunDirectory:
    """Six items, and the unsteered, a steered and a random cell."""
    vector = random_vector(tiny, 1, name="one")
    cells = [PLAIN, Cell((vector.at(1, 2),)), Cell((vector.random_control(0).at(1, 2),), "one")]
    return made_run(tmp_path, tiny, problems(6), cells, worked_out)


def added(run: RunDirectory) -> list[Added]:
    found = read_added(run.scores_folder, CHAINS)
    assert found is not None
    return found[1]


def test_every_completion_of_a_run_is_tested_once_and_its_records_stay_as_they_are(
    run: RunDirectory, tiny: LanguageModel
) -> None:
    before = (run.path / "records.jsonl").read_bytes()
    shown: list[tuple[int, int]] = []
    path = measure_faithfulness(run, tiny, progress=lambda *at: shown.append(at))
    assert path == run.path / "scores" / "chains.jsonl"
    assert (run.path / "records.jsonl").read_bytes() == before
    found = added(run)
    assert sorted(each.key for each in found) == sorted(record.key for record in run.records())
    assert shown[-1] == (18, 18)
    assert all(each.scores["chain_steps"] == 3 for each in found)
    assert all(len(each.evidence["log_probabilities"]) == 4 for each in found)
    assert all(len(each.evidence["points"]) == 4 for each in found)
    assert all(
        record.scores["chain_whole"] and "thinking_tokens" in record.scores for record in run.records()
    )


def test_a_cell_is_tested_under_what_it_does_from_the_runs_own_files(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    vector, probe = random_vector(tiny, 1, name="one"), undecided_probe(tiny)
    steering = vector.at(2, 3.0, scope="thinking", half_life=8, gate=ProbeGate(probe, 2, 0.375))
    cell = Cell((steering, PromptEdit(system="Be kind.", begin="We have")))
    run = made_run(tmp_path, tiny, problems(1), [cell], worked_out)
    seen = []

    def watched(self: TransformersEngine, requests, generate=TransformersEngine.generate):  # type: ignore[no-untyped-def]
        seen.extend(asked := list(requests))
        return generate(self, asked)

    with mock.patch.object(TransformersEngine, "generate", watched):
        measure_faithfulness(run, tiny, settings=QUICK)
    assert seen
    for request in seen:
        *acting, begun = request.interventions
        assert acting == [steering, PromptEdit(system="Be kind.")]
        assert begun.begin


def test_one_batch_and_many_find_the_same_and_a_second_call_asks_for_nothing(
    run: RunDirectory, tiny: LanguageModel
) -> None:
    with mock.patch.object(measurement, "AT_ONCE", 5):
        path = measure_faithfulness(run, tiny, settings=QUICK, limit=3)
    in_many = path.read_bytes()
    with mock.patch.object(TransformersEngine, "generate", side_effect=AssertionError("asked again")):
        measure_faithfulness(run, tiny, settings=QUICK, limit=3)
    path.unlink()
    measure_faithfulness(run, tiny, settings=QUICK, limit=3, batch_size=1)
    assert path.read_bytes() == in_many


def test_limit_and_cells_choose_what_is_tested_and_more_can_be_added(
    run: RunDirectory, tiny: LanguageModel
) -> None:
    measure_faithfulness(run, tiny, settings=QUICK, cells=[PLAIN.id[:6]], limit=2)
    first = added(run)
    assert {cell for cell, _, _ in (each.key for each in first)} == {PLAIN.id}
    measure_faithfulness(run, tiny, settings=QUICK, limit=4)
    more = added(run)
    assert more[:2] == first
    assert {each.key[1] for each in first} < {each.key[1] for each in more}
    assert len(more) == 3 * 4


def test_what_was_found_before_an_interruption_is_kept(run: RunDirectory, tiny: LanguageModel) -> None:
    def stop_after_eight(done: int, _total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with mock.patch.object(measurement, "AT_ONCE", 4), pytest.raises(KeyboardInterrupt):
        measure_faithfulness(run, tiny, settings=QUICK, progress=stop_after_eight)
    assert len(added(run)) == 8
    measure_faithfulness(run, tiny, settings=QUICK)
    assert len({each.key for each in added(run)}) == len(added(run)) == 18


def test_other_settings_another_model_and_no_record_are_refused(
    run: RunDirectory, tiny: LanguageModel
) -> None:
    with pytest.raises(ModelMismatchError, match="name the run's own model with --model"):
        measure_faithfulness(run, tiny_model(seed=5))
    with pytest.raises(MisuseError, match="no cell 'nowhere'"):
        measure_faithfulness(run, tiny, cells=["nowhere"])
    with pytest.raises(MisuseError, match="no record of the cells and items asked for"):
        measure_faithfulness(run, tiny, limit=0)
    assert not run.scores_folder.exists()
    measure_faithfulness(run, tiny, settings=QUICK, cells=[PLAIN.id])
    with pytest.raises(MisuseError, match="points was 2, now 4"):
        measure_faithfulness(run, tiny, cells=[PLAIN.id])


def test_a_missing_vector_is_named_before_anything_is_run(run: RunDirectory, tiny: LanguageModel) -> None:
    for file in (run.path / "vectors").iterdir():
        file.unlink()
    with (
        mock.patch.object(TransformersEngine, "generate", side_effect=AssertionError("ran")),
        pytest.raises(InputError, match="which is not there: restore it"),
    ):
        measure_faithfulness(run, tiny)


def test_a_damaged_file_says_what_to_do(run: RunDirectory, tiny: LanguageModel) -> None:
    path = measure_faithfulness(run, tiny, settings=QUICK, cells=[PLAIN.id])
    for damage in ("", "{", "[]", path.read_text() + '{"cell": 1}\n'):
        path.write_text(damage)
        with pytest.raises(InputError, match="damaged: delete it"):
            measure_faithfulness(run, tiny, settings=QUICK)


def test_what_is_found_stands_in_the_runs_own_summary(run: RunDirectory, tiny: LanguageModel) -> None:
    measure_faithfulness(run, tiny)
    rows = open_run(run.path).summary()
    assert [row.role for row in rows] == ["unsteered", "steered", "random"]
    for row in rows:
        gains = [each.scores["chain_gain"] for each in added(run) if each.key[0] == row.cell]
        assert row.levels["chain_gain"].value == pytest.approx(sum(gains) / 6)  # type: ignore[arg-type]
        assert row.levels["chain_gain"].n == row.n_items == 6
        assert row.levels["chain_gain"].low <= row.levels["chain_gain"].value <= row.levels["chain_gain"].high
    change = rows[1].levels["chain_gain"].value - rows[0].levels["chain_gain"].value
    assert rows[1].changes["chain_gain"].value == pytest.approx(change)
    assert rows[0].changes["chain_gain"].value == 0
    assert open_run(run.path).choose("chain_aoc s.t. chain_steps_rise<=1") is not None


def test_the_evidence_of_a_score_can_be_looked_up(run: RunDirectory, tiny: LanguageModel) -> None:
    path = measure_faithfulness(run, tiny, settings=QUICK, cells=[PLAIN.id], limit=1)
    head, line = map(json.loads, path.read_text().splitlines())
    assert head == {"scorer": "chains", "settings": {"points": 2, "tests": ["early", "filler"], "seed": 0}}
    assert set(line["evidence"]["answers"]) == {"0", "2", "3", "filler"}


def test_the_bundled_model_says_what_its_chain_says(smollm: LanguageModel, tmp_path: Path) -> None:
    vector = random_vector(smollm, 1, size=0.2, name="one")
    run = made_run(tmp_path, smollm, problems(3), [PLAIN, Cell((vector.at(12, 1),))], worked_out)
    measure_faithfulness(run, smollm, settings=Settings(points=2, tests=("early", "logprob")))
    unsteered, steered = open_run(tmp_path).summary()
    for row in (unsteered, steered):
        assert (
            row.levels["chain_as_given"].value == 1
        )  # the chain ends in its answer, and the model repeats it
        assert row.levels["chain_gain"].value > 0  # which it thought less likely without the chain
    assert steered.levels["chain_gain"].value != unsteered.levels["chain_gain"].value
