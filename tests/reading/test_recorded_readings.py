"""What a sweep's readers read is in its records, and what reads is in its protocol, with its vectors and probes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import steerkit as sk
from steerkit.core.errors import InputError, MisuseError, ProtocolMismatchError, SteerkitError
from steerkit.engines.base import Completion, Decoding, Request
from steerkit.interventions.readers import NamedReader, ProbeReader, Reading, VectorReader
from steerkit.models import LanguageModel
from steerkit.models.thinking import Span
from steerkit.reading.reduction import REDUCTIONS, kept_of
from steerkit.runs.directory import RunDirectory
from steerkit.runs.record import Record
from tests.command_line import steerkit
from tests.engines.test_readings import probe_of
from tests.tiny import random_vector, tiny_model

SHORT = sk.Measurement("abstention", limit=2, decoding=Decoding(5))
ENTROPY = NamedReader("entropy")


def completion(spans: tuple[Span, ...], values: tuple[float | None, ...]) -> Completion:
    reading = Reading(ENTROPY, (None, 0.123456789), values)
    return Completion(
        Request("?"), "text", tuple(range(len(values))), "stop", 2, spans=spans, readings=(reading,)
    )


def test_each_reduction_keeps_what_it_says() -> None:
    thinking = Span("thinking", 0, 2, 0, 2), Span("answer", 2, 4, 2, 4)
    done = completion(thinking, (3.0, None, 1.0, math.inf))
    kept = {name: kept_of(done, name)[0] for name in REDUCTIONS}
    assert kept == {
        "per-token": (3.0, None, 1.0, None),
        "mean": 2.0,
        "max": 3.0,
        "last": None,
        "first-answer": 1.0,
        "prompt-end": 0.123457,
    }
    nothing = completion((Span("thinking", 0, 0, 0, 0),), ())
    assert [kept_of(nothing, name)[0] for name in REDUCTIONS[:5]] == [(), None, None, None, None]


@pytest.mark.parametrize("reading", REDUCTIONS)
def test_a_sweep_records_what_was_read(tiny: LanguageModel, tmp_path: Path, reading: str) -> None:
    vector, probe = random_vector(tiny), probe_of(tiny)
    readers = (VectorReader(vector, 1), ProbeReader(probe), ENTROPY)
    measurement = replace(SHORT, readers=readers, reading=reading)
    run = sk.sweep(tiny, [sk.Cell(), sk.Cell((vector.at(2),))], measurement, out=tmp_path / "run")
    assert run.directory.readers == readers
    assert run.protocol.reading == reading
    for digest in (vector.digest, probe.digest):
        assert (tmp_path / "run" / "vectors" / f"{digest}.safetensors").is_file()
    records = list(run.records())
    assert len(records) == 4
    for record in records:
        assert len(record.readings) == 3
        if reading == "per-token":
            assert [len(values) for values in record.readings] == [record.tokens] * 3  # type: ignore[arg-type]
            assert len(record.pieces) == record.tokens
        else:
            assert all(isinstance(value, float) for value in record.readings)
            assert record.pieces == ()
    again = Record.from_line(records[0].to_line())
    assert again == records[0]


def test_a_run_resumes_under_its_readers_and_refuses_others_by_name(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    probe = probe_of(tiny)
    measurement = replace(SHORT, readers=ProbeReader(probe))
    sk.sweep(tiny, [sk.Cell()], measurement, out=tmp_path)
    called_otherwise = ProbeReader(probe_of(tiny, name="by another name"))
    sk.sweep(tiny, [sk.Cell()], replace(measurement, readers=called_otherwise), out=tmp_path)
    doubt = rf"by another name@layer=1 \(sha256:{probe.digest[:12]}\)"
    with pytest.raises(ProtocolMismatchError, match=rf"readers was {doubt}, now entropy;"):
        sk.sweep(tiny, [sk.Cell()], replace(measurement, readers="entropy"), out=tmp_path)
    with pytest.raises(ProtocolMismatchError, match=r"readers was .*, now none"):
        sk.sweep(tiny, [sk.Cell()], SHORT, out=tmp_path)
    with pytest.raises(ProtocolMismatchError, match="reading was 'mean', now 'last'"):
        sk.sweep(tiny, [sk.Cell()], replace(measurement, reading="last"), out=tmp_path)


def test_a_run_from_before_there_were_readers_loads_and_goes_on(tiny: LanguageModel, tmp_path: Path) -> None:
    sk.sweep(tiny, [sk.Cell()], SHORT, out=tmp_path)
    written = json.loads((tmp_path / "run.json").read_text())
    del written["protocol"]["readers"], written["protocol"]["reading"]
    (tmp_path / "run.json").write_text(json.dumps(written))
    lines = (tmp_path / "records.jsonl").read_bytes()
    assert b"readings" not in lines
    old = sk.open_run(tmp_path)
    assert [record.readings for record in old.records()] == [(), ()]
    assert old.directory.readers == ()
    sk.sweep(tiny, [sk.Cell()], SHORT, out=tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == lines


def test_a_reader_whose_probe_is_gone_or_another_is_said(tiny: LanguageModel, tmp_path: Path) -> None:
    probe = probe_of(tiny)
    sk.sweep(tiny, [sk.Cell()], replace(SHORT, readers=ProbeReader(probe)), out=tmp_path)
    path = tmp_path / "vectors" / f"{probe.digest}.safetensors"
    replace(probe, bias=probe.bias + 1).save(path)
    with pytest.raises(InputError, match="other contents"):
        _ = RunDirectory(tmp_path).readers
    path.unlink()
    with pytest.raises(InputError, match=r"a reader of .* needs"):
        _ = RunDirectory(tmp_path).readers


def test_what_cannot_be_read_is_refused_before_a_run_is_begun(tiny: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="no reading 'median'"):
        sk.Measurement(readers="entropy", reading="median")
    with pytest.raises(MisuseError, match="nothing-there"):
        sk.Measurement(readers="nothing-there@layer=2")
    other = random_vector(tiny_model(seed=1))
    with pytest.raises(MisuseError):
        sk.sweep(tiny, [sk.Cell()], replace(SHORT, readers=VectorReader(other, 3)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_reads_too(tiny_folder: Path, tiny_vector: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["sweep", "--model", tiny_folder, "--vector", tiny_vector, "--layers", 1, "--strengths", 1]
    words += ["--limit", 2, "--max-new-tokens", 4, "--out", out, "--control-strengths", "none"]
    refused = steerkit(*words, "--reading", "last")
    assert refused.code != 0
    assert "give --read too" in refused.err
    made = steerkit(*words, "--read", f"{tiny_vector}@layer=2", "--read", "entropy", "--reading", "max")
    assert made.code == 0, made.err
    run = sk.open_run(out)
    assert [str(reader) for reader in run.directory.readers] == ["random@layer=2", "entropy"]
    assert all(len(record.readings) == 2 for record in run.records())


def test_an_engine_that_reads_nothing_is_told_of(tiny: LanguageModel, tmp_path: Path) -> None:
    class Deaf(sk.TransformersEngine):
        name = "deaf"

        def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
            return super().generate(replace(request, readers=()) for request in requests)

    with pytest.raises(SteerkitError, match="the deaf engine reads no tokens"):
        sk.sweep(Deaf(tiny), [sk.Cell()], replace(SHORT, readers="entropy"), out=tmp_path)
