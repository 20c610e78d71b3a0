"""The benchmarks run end to end on a tiny model; nothing here depends on speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks import floor, memory, peer_runs, results
from benchmarks.by_hand import generate_cell
from benchmarks.measure import Spread, ratios, take_turns
from benchmarks.rows import Part, Row, at_least, at_most
from benchmarks.setting import QUICK, Setting, Workbench
from benchmarks.sweep import packed
from benchmarks.table import as_markdown
from steerkit.runs.cells import Cell
from tests.conftest import save_model
from tests.tiny import random_vector, tiny_model

IN_PROCESS = ("extraction", "decoding", "serving", "sweep", "growth", "hybrid")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads texts as long as the built-in pairs are in bytes."""
    lm = tiny_model()
    lm.hf.config.max_position_embeddings = 4096
    return save_model(lm, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def bench(folder: Path) -> Workbench:
    return Workbench(Setting(str(folder), threads=torch.get_num_threads(), sizes=QUICK, quick=True))


@pytest.mark.parametrize("part", IN_PROCESS)
def test_a_part_measures_every_comparison(part: str, bench: Workbench) -> None:
    rows = list(benchmarks.PARTS[part](bench))
    assert rows
    for row in rows:
        if "peak" in row.what:  # a tiny model's may be too small to be seen, and some systems tell none
            assert row.value is not None or row.note
            continue
        assert row.value is not None, row.note
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.value <= row.high


@pytest.mark.skipif(not memory.peak_is_measurable("cpu"), reason="this system tells no process its peak")
def test_peaks_are_taken_in_fresh_processes(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.peak_in_fresh_process("capture", bench.setting) >= 0
    peaks = {"floor": 100, "capture": 110, "extract": 130}
    monkeypatch.setattr(memory, "peak_in_fresh_process", lambda variant, _setting: peaks[variant])
    capture, extract = memory.run(bench)
    assert (capture.value, capture.verdict) == (1.1, "met")
    assert (extract.value, extract.verdict) == (1.3, "missed")


def test_a_peak_is_what_a_stretch_of_work_adds() -> None:
    if memory.peak_is_measurable("cpu"):
        assert memory.peak_bytes(lambda: torch.zeros(1 << 24).add_(1), "cpu") >= 0.9 * (
            1 << 26
        )  # less what was free


def test_results_are_merged_and_the_table_is_put_between_its_marks(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"Before.\n{results.BEGIN}\nold\n{results.END}\nAfter.\n")
    common = ["--quick", "--threads", "1", "--model", str(folder), "--out", str(tmp_path)]
    results.save(tmp_path, {"sweep": Part({**ENVIRONMENT}, [Row("kept", 1.0)])})
    benchmarks.main(["startup", *common])
    stored = json.loads((tmp_path / "results.json").read_text())
    assert list(stored) == ["sweep", "startup"]
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("Before.\n")
    assert page.endswith("After.\n")
    assert "### startup" in page
    assert "| kept |" in page
    assert "old" not in page
    assert results.load(tmp_path)["sweep"].rows == [Row("kept", 1.0)]


def test_an_unknown_part_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmarks.main(["speed"])
    assert "unknown part 'speed'" in capsys.readouterr().err


def test_turns_alternate_and_spreads_are_quartiles() -> None:
    order: list[str] = []
    variants = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = take_turns(variants, 2, warm_up=False)
    assert order == ["a", "b", "b", "a"]
    assert all(len(times) == 2 for times in seconds.values())
    assert ratios({"a": [2.0, 6.0], "b": [1.0, 2.0]}, "a", "b") == [2.0, 3.0]
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)


def test_a_verdict_is_computed() -> None:
    assert Row("slow", 1.2, target=at_most(1.1)).verdict == "missed"
    assert Row("fast", 2.9, target=at_least(2.8)).verdict == "met"
    assert Row("not run", target=at_least(2.8), note="why").verdict == ""
    table = as_markdown({"part": Part(ENVIRONMENT, [Row("slow", 1.2, 1.1, 1.3, target=at_most(1.1))])})
    assert "| slow | 1.200× | 1.100 to 1.300 |  | ≤ 1.100 | missed |  |" in table


def test_the_floor_runs_every_token_once_and_knows_what_is_shared(bench: Workbench) -> None:
    texts = bench.texts("abstention")
    batches = floor.whole_text_batches(bench.lm, texts)
    rows = sorted(tuple(row) for batch in batches for row in batch.rows)
    assert rows == sorted(text.ids for text in texts)
    shared = sum(text.prompt_length for text in texts) / 2
    assert floor.unique_share(texts) == pytest.approx(1 - shared / sum(len(text.ids) for text in texts))


def test_the_loop_by_hand_gives_what_the_engine_gives(bench: Workbench) -> None:
    lm = bench.lm
    items = bench.items(4)
    prompts = [lm.renderer.render(item.prompt) for item in items]
    cells = [Cell(), Cell((random_vector(lm).at([1, 2], 2.0),))]
    _, completions = packed(bench, items, cells, 8)
    assert completions[0, 0] != completions[0, 1]
    for c, cell in enumerate(cells):
        for batch_size in (1, 4):
            produced = generate_cell(lm, cell, prompts, 8, batch_size)
            assert produced.completions == tuple(completions[i, c] for i in range(len(items)))


def test_a_peers_report_becomes_rows_with_reasons() -> None:
    report = {
        "versions": {"torch": "2"},
        "extraction": {
            "seconds": {"floor": [1.0, 1.0], "default": [4.0, 4.0], "best": [2.0, 2.0]},
            "default": "as it comes",
            "best": "batched",
        },
        "decoding": {},
        "failures": {"decoding": "ValueError: no"},
    }
    best, default, failure = peer_runs.rows_of(peer_runs.PEERS[0], report, [0.5, 0.5])
    assert (best.value, best.verdict) == (4.0, "met")
    assert (default.value, default.verdict) == (8.0, "met")
    assert failure.value is None
    assert failure.note == "does not run: ValueError: no"


def test_every_peer_has_a_script_and_pins() -> None:
    for peer in peer_runs.PEERS:
        assert (peer_runs.HERE / "peers" / f"{peer.script}.py").is_file()
        pins = (peer_runs.HERE / "peers" / f"{peer.script}.txt").read_text().splitlines()
        assert all("==" in pin for pin in pins if not pin.startswith("#"))
        named = next(word for word in peer.name.split() if word[0].isdigit())
        assert any(pin.endswith(f"=={named}") for pin in pins)


ENVIRONMENT = {
    "machine": "a machine",
    "versions": {"torch": "2"},
    "model": "tiny",
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "load": 0.5,
    "quick": True,
}
