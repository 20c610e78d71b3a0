from __future__ import annotations

import json
import math
import resource

import numpy as np
import pytest

from steerkit.core.errors import InputError, MisuseError, ProtocolMismatchError, RunLockedError, SteerkitError
from steerkit.engines.base import Decoding
from steerkit.runs.cells import Cell
from steerkit.runs.directory import RecordIndex, RunDirectory, RunWriter
from steerkit.runs.record import Record
from steerkit.runs.scores import Added, read_added, read_settings, write_scores
from tests.sweeps.synthetic import environment, grid, protocol

UNSTEERED = Cell().id
ONE_CELL = (Cell(),)


def record(item: str, cell: str = UNSTEERED, sample: int = 0, text: str = "naïve ☂", **changed) -> Record:
    about = {"cell": cell, "item": item, "sample": sample, "split": "choose", "group": item}
    judged = {"should_abstain": None, "answers": None, "kind": "text", "prompt": "Why?", "completion": text}
    return Record(**{**about, **judged, "tokens": 2, "finish": "stop", "scores": {"tokens": 2}, **changed})


def writer_of(path, cells=ONE_CELL):
    return RunWriter(path, protocol(), environment(), cells)


def write(path, *records):
    with writer_of(path) as writer:
        for each in records:
            writer.append(each)


def items_of(path) -> list[str]:
    return [each.item for each in RunDirectory(path).records()]


def test_records_come_back_as_they_were_written(tmp_path):
    records = [record("a"), record("b", text="a lone \ud800 surrogate\n and \x00"), record("a", sample=1)]
    write(tmp_path / "run", *records)
    assert list(RunDirectory(tmp_path / "run").records()) == records
    assert RunDirectory(tmp_path / "run").protocol == protocol()


def test_a_record_is_on_file_when_append_returns(tmp_path):
    with writer_of(tmp_path) as writer:
        writer.append(record("a"))
        assert items_of(tmp_path) == ["a"]
        assert (UNSTEERED, "a", 0) in writer
        assert (UNSTEERED, "a", 1) not in writer
        assert ("c1", "a", 0) not in writer


@pytest.mark.parametrize("score", ["high", [1], {"a": 1}, np.bool_(True), np.float32(1), math.inf], ids=repr)
def test_a_score_that_could_not_be_read_again_is_refused_before_anything_is_written(tmp_path, score):
    with writer_of(tmp_path) as writer:
        writer.append(record("a"))
        with pytest.raises(SteerkitError, match="the score 'charm' of item 'b' is ") as caught:
            writer.append(record("b", scores={"tokens": 2, "charm": score}))
        assert "\n" not in str(caught.value)
        writer.append(record("b", scores={"charm": np.float64(0.5), "fine": None, "long": 10**400}))
    assert items_of(tmp_path) == ["a", "b"]


def test_a_record_is_never_doubled(tmp_path):
    write(tmp_path, record("a"))
    with writer_of(tmp_path) as writer, pytest.raises(ValueError, match="already"):
        writer.append(record("a"))
    lines = (tmp_path / "records.jsonl").read_bytes()
    (tmp_path / "records.jsonl").write_bytes(lines + lines)
    with pytest.raises(InputError, match="line 2: repeats"):
        list(RunDirectory(tmp_path).records())


def test_a_line_torn_at_any_byte_costs_that_record_at_most(tmp_path):
    write(tmp_path, record("a"), record("b"))
    path = tmp_path / "records.jsonl"
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start, len(whole) + 1):
        path.write_bytes(whole[:end])
        survives = end >= len(whole) - 1  # all of it, with or without its newline
        assert items_of(tmp_path) == (["a", "b"] if survives else ["a"])
        with writer_of(tmp_path) as writer:
            assert ((UNSTEERED, "b", 0) in writer) is survives
            writer.append(record("c"))
        assert items_of(tmp_path) == (["a", "b", "c"] if survives else ["a", "c"])


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"\x00\x00\x00",
        b"\xff\xfe",
        b"[]",
        b'{"cell": "c0"}',
        b"",
    ],
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
    write(tmp_path, record("a"), record("b"))
    path = tmp_path / "records.jsonl"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, damage, second, b""]))
    with pytest.raises(InputError, match="line 2: not a record"):
        list(RunDirectory(tmp_path).records())
    with pytest.raises(InputError, match="line 2: not a record"):
        writer_of(tmp_path)


def test_the_second_writer_is_told_and_a_reader_is_not_stopped(tmp_path):
    with writer_of(tmp_path) as writer:
        writer.append(record("a"))
        with pytest.raises(RunLockedError, match="wait until it ends"):
            writer_of(tmp_path)
        assert items_of(tmp_path) == ["a"]
    write(tmp_path, record("b"))


def test_a_failed_opening_leaves_no_lock(tmp_path):
    write(tmp_path, record("a"))
    with pytest.raises(ProtocolMismatchError):
        RunWriter(tmp_path, protocol(dtype="bfloat16"), environment())
    write(tmp_path, record("b"))


def test_a_mismatch_leaves_the_run_as_it_was(tmp_path):
    write(tmp_path, record("a"))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ProtocolMismatchError):
        RunWriter(tmp_path, protocol(suite="other"), environment())
    assert (tmp_path / "run.json").read_bytes() == before


def test_other_versions_warn_and_are_recorded(tmp_path):
    write(tmp_path, record("a"))
    newer = environment(versions={"steerkit": "0.2.0"})
    with (
        pytest.warns(UserWarning, match="steerkit was 0.1.0, now 0.2.0"),
        RunWriter(tmp_path, protocol(), newer),
    ):
        pass
    assert RunDirectory(tmp_path).environments == [environment(), newer]


def test_a_full_disk_is_one_clear_error_and_leaves_whole_records(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with writer_of(tmp_path) as writer:
        writer.append(record("a"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
        try:
            with pytest.raises(SteerkitError, match="free space") as caught:
                writer.append(record("b", text="x" * 1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(caught.value)
        assert (tmp_path / "records.jsonl").read_bytes().endswith(b"}\n")
        writer.append(record("b"))
    assert items_of(tmp_path) == ["a", "b"]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerkitError, match="cannot read or write the run"):
        RunWriter(tmp_path / "file" / "run", protocol(), environment())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format_version": 2}', '{"format_version": 1, "protocol": {}}']
)
def test_a_damaged_run_file_is_an_input_error(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        RunDirectory(tmp_path)


def test_a_folder_without_a_run_is_a_misuse(tmp_path):
    with pytest.raises(MisuseError, match="holds no run"):
        RunDirectory(tmp_path)
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(InputError, match="not a run to continue"):
        writer_of(tmp_path)


def test_numbers_that_json_does_not_have_are_refused(tmp_path):
    with writer_of(tmp_path) as writer, pytest.raises(SteerkitError, match="a finite number"):
        writer.append(record("a", scores={"perplexity": float("nan")}))
    assert items_of(tmp_path) == []


def test_the_index_is_exact_and_takes_a_bit_a_record():
    index = RecordIndex()
    present = [(f"c{i % 7}", f"item-{i // 7}", i % 2) for i in range(7000) if i % 3]
    for key in present:
        index.add(key)
    every = {(f"c{c}", f"item-{i}", s) for c in range(7) for i in range(1000) for s in range(2)}
    assert {key for key in every if key in index} == set(present)
    assert sum(map(len, index._rows.values())) < 7 * 2000 / 8 + 8


def test_run_json_says_what_was_run(tmp_path):
    write(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    decoding = {"max_new_tokens": 64, "temperature": 0.0, "top_p": 1.0, "seed": 0, "top_k": 0, "min_p": 0.0}
    decoding |= {"repetition_penalty": 1.0, "stop": [], "stop_token_ids": []}
    assert run["protocol"]["decoding"] == decoding
    assert run["environments"][0]["batch_size"] == 8


def test_all_of_a_decoding_is_read_back_and_what_an_older_run_left_out_has_the_defaults(tmp_path):
    how = Decoding(
        9, 0.7, top_k=5, min_p=0.1, repetition_penalty=1.2, stop=("\n", "ü"), stop_token_ids=(7, 2)
    )
    RunWriter(tmp_path / "all", protocol(decoding=how), environment())
    assert RunDirectory(tmp_path / "all").protocol.decoding == how
    RunWriter(tmp_path / "older", protocol(decoding=Decoding(9, 0.7)), environment())
    path = tmp_path / "older" / "run.json"
    run = json.loads(path.read_text())
    for name in ("top_k", "min_p", "repetition_penalty", "stop", "stop_token_ids"):
        del run["protocol"]["decoding"][name]
    path.write_text(json.dumps(run))
    assert RunDirectory(tmp_path / "older").protocol == protocol(decoding=Decoding(9, 0.7))


def test_a_line_of_cells_torn_at_any_byte_costs_that_cell_at_most(tmp_path):
    unsteered, steered, control = grid()
    with writer_of(tmp_path, [unsteered, steered]):
        pass
    path = tmp_path / "cells.jsonl"
    whole = path.read_bytes()
    for end in range(whole.index(b"\n") + 1, len(whole) + 1):
        path.write_bytes(whole[:end])
        survives = end >= len(whole) - 1
        ids = [unsteered.id, steered.id] if survives else [unsteered.id]
        assert list(RunDirectory(tmp_path).cells) == ids
        with writer_of(tmp_path, [control]) as writer:
            writer.append(record("a", control.id, sample=end))
        assert list(RunDirectory(tmp_path).cells) == [*ids, control.id]
    with writer_of(tmp_path, [unsteered, steered, control]) as writer:
        writer.append(record("a", steered.id))
    assert set(RunDirectory(tmp_path).cells) == {unsteered.id, steered.id, control.id}


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b'{"id": "c0"}', b'{"id":"a","controls":null,"interventions":[{}],"spec":[]}']
)
def test_a_damaged_or_repeated_cell_is_named(tmp_path, damage):
    with writer_of(tmp_path, grid()):
        pass
    path = tmp_path / "cells.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], damage + b"\n", *lines[1:]]))
    for reads in (lambda: RunDirectory(tmp_path).cells, lambda: writer_of(tmp_path)):
        with pytest.raises(InputError, match="line 2: not a cell") as caught:
            reads()
        assert "\n" not in str(caught.value)
    path.write_bytes(b"".join(lines + lines[:1]))
    with pytest.raises(InputError, match="line 4: repeats cell"):
        RunDirectory(tmp_path).cells  # noqa: B018


def test_a_record_of_a_cell_that_the_run_does_not_have_is_refused(tmp_path):
    with writer_of(tmp_path) as writer, pytest.raises(ValueError, match="not one of"):
        writer.append(record("a", "c0ffee"))


def test_every_vector_is_on_file_once_before_the_first_record(tmp_path):
    cells = grid(layers=(4, 6), strengths=(1, 2))
    with writer_of(tmp_path, cells):
        digests = {each.vector.digest for cell in cells for each in cell.interventions}
        assert {path.stem for path in (tmp_path / "vectors").iterdir()} == digests
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").iterdir()}
    with writer_of(tmp_path, cells):
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").iterdir()} == before


def test_records_of_some_cells_come_alone(tmp_path):
    cells = grid()
    with writer_of(tmp_path, cells) as writer:
        for item in ("a", cells[1].id, "c"):  # an item may be called like a cell
            for cell in cells:
                writer.append(record(item, cell.id))
    found = list(RunDirectory(tmp_path).records([cells[1].id, cells[2].id]))
    assert [(each.item, each.cell) for each in found] == [
        (item, cell.id) for item in ("a", cells[1].id, "c") for cell in cells[1:]
    ]


def test_scores_that_are_added_stand_beside_those_of_the_sweep(tmp_path):
    write(tmp_path, record("a"), record("b"))
    run = RunDirectory(tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    added = [Added((UNSTEERED, "b", 0), {"good": True}, {"why": "sweet"})]
    path = write_scores(run.scores_folder, "taste", {"model": "m"}, added)
    assert read_added(run.scores_folder, "taste") == ({"model": "m"}, added)
    assert read_added(run.scores_folder, "smell") is None
    assert [each.scores for each in run.records()] == [{"tokens": 2}, {"tokens": 2, "good": True}]
    assert read_settings(run.scores_folder) == {"taste": {"model": "m"}}
    assert (tmp_path / "records.jsonl").read_bytes() == before
    for damage in ("", "{", '{"scorer": "taste", "settings": {}}\n{"cell": "a"}\n', "[]\n"):
        path.write_text(damage)
        with pytest.raises(InputError, match="delete it"):
            list(run.records()) and read_settings(run.scores_folder)
