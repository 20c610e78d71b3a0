from __future__ import annotations

import multiprocessing
import random
import signal
import time
import tracemalloc

import pytest

from steerkit.core.errors import SteerkitError
from steerkit.engines.base import Completion
from steerkit.runs.directory import RecordIndex, RunDirectory, RunWriter, record_key
from steerkit.sweeps import runner
from steerkit.sweeps.grid import Cell, build_grid
from steerkit.sweeps.runner import run_sweep
from tests.sweeps.synthetic import SyntheticEngine, environment, items, protocol, vector


def sweep(path, cells, suite, engine=None, samples=1, **options):
    with RunWriter(path, protocol(samples=samples), environment()) as writer:
        run_sweep(engine or SyntheticEngine(window=3), suite, cells, writer, **options)


def sorted_lines(path) -> list[bytes]:
    return sorted((path / "records.jsonl").read_bytes().splitlines())


def test_every_cell_item_and_sample_is_recorded_once(tmp_path):
    cells = build_grid([vector()], [4, 6], [-1, 1])
    sweep(tmp_path, cells, items(6), samples=2)
    keys = [record_key(record) for record in RunDirectory(tmp_path).records()]
    assert sorted(keys) == sorted((c.id, i.id, s) for c in cells for i in items(6) for s in range(2))


def test_a_record_holds_what_the_contract_names(tmp_path):
    sweep(tmp_path, build_grid([vector()], [6], [2]), items(2), perplexity=True)
    record = next(
        r for r in RunDirectory(tmp_path).records() if r["role"] == "steered" and r["should_abstain"]
    )
    named = "cell steering decoration vector layer strength scope item sample split prompt completion "
    named += "tokens finish scores"
    assert set(named.split()) <= record.keys()
    assert record["steering"] == "abstain@layer=6,strength=2,scope=completion"
    assert (record["vector"], record["layer"], record["strength"], record["scope"]) == (
        "abstain",
        6,
        2.0,
        "completion",
    )
    assert record["prompt"] == items(2)[0].prompt
    assert record["group"] == "item-00000"
    assert all(value is None or isinstance(value, int | float | bool) for value in record["scores"].values())
    assert record["scores"]["perplexity"] > 0


def test_a_finished_sweep_asks_the_engine_for_nothing(tmp_path):
    cells = build_grid([vector()], [6], [1])
    sweep(tmp_path, cells, items(4))
    engine = SyntheticEngine()
    sweep(tmp_path, cells, items(4), engine)
    assert engine.drawn == 0


def test_more_cells_and_items_add_to_a_run(tmp_path):
    sweep(tmp_path / "grown", build_grid([vector()], [6], [1]), items(4))
    sweep(tmp_path / "grown", build_grid([vector()], [4, 6], [1, 2]), items(8))
    sweep(tmp_path / "at-once", build_grid([vector()], [4, 6], [1, 2]), items(8))
    assert sorted_lines(tmp_path / "grown") == sorted_lines(tmp_path / "at-once")


def test_requests_are_drawn_lazily_with_the_cells_of_an_item_side_by_side(tmp_path):
    cells, suite = build_grid([vector()], [4], [1, 2]), items(3)
    prompts: list[str] = []

    class Recording(SyntheticEngine):
        def generate(self, requests):
            for request in requests:
                prompts.append(request.prompt)
                yield from super().generate([request])

    with RunWriter(tmp_path, protocol(), environment()) as writer:
        stream = Recording().generate(runner._requests(suite, cells, writer))
        next(stream)
        assert len(prompts) == 1
    sweep(tmp_path, cells, suite, Recording())
    assert prompts[1:] == [item.prompt for item in suite for _ in cells]


def test_progress_counts_what_was_there_before(tmp_path):
    sweep(tmp_path, [Cell()], items(3))
    seen: list[tuple[int, int]] = []
    sweep(tmp_path, [Cell()], items(5), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 5), (4, 5), (5, 5)]


def test_an_engine_that_drops_requests_is_not_taken_for_finished(tmp_path):
    class Dropping(SyntheticEngine):
        def generate(self, requests):
            completions = super().generate(requests)
            next(completions)
            yield from completions

    with pytest.raises(SteerkitError, match="1 of 4 requests"):
        sweep(tmp_path, [Cell()], items(4), Dropping())


def test_perplexity_never_enters_a_running_engine(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "PERPLEXITY_CHUNK", 5)

    class Guarded(SyntheticEngine):
        running = False

        def generate(self, requests):
            self.running = True
            yield from super().generate(requests)
            self.running = False

        def score(self, requests):
            assert not self.running
            return super().score(requests)

    sweep(tmp_path, build_grid([vector()], [6], [1]), items(4), Guarded(), perplexity=True)
    assert all(record["scores"]["perplexity"] > 0 for record in RunDirectory(tmp_path).records())


def test_killed_at_ten_random_moments_a_sweep_ends_with_the_records_of_an_undisturbed_one(tmp_path):
    cells, suite = build_grid([vector()], [4, 6, 8], [-1, 1]), items(40)
    assert len({cell.id for cell in cells}) == 13
    sweep(tmp_path / "undisturbed", cells, suite)

    rng = random.Random(0)
    fork = multiprocessing.get_context("fork")  # spawning would import torch ten times
    for _ in range(10):
        slow = SyntheticEngine(delay=0.004, window=3)  # 2 s at least: longer than all ten spans together
        process = fork.Process(target=sweep, args=(tmp_path / "killed", cells, suite, slow))
        process.start()
        time.sleep(rng.uniform(0.03, 0.15))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert 0 < len(sorted_lines(tmp_path / "killed")) < 13 * 40
    sweep(tmp_path / "killed", cells, suite)
    assert sorted_lines(tmp_path / "killed") == sorted_lines(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_stream_of_a_million_rows_takes_no_more_memory_than_a_short_one(monkeypatch):
    class Counting:
        """A writer without a disk; its index is the real one."""

        def __init__(self) -> None:
            self.protocol = protocol()
            self.index = RecordIndex()
            self.count = 0

        def __contains__(self, key):
            return key in self.index

        def append(self, record):
            self.index.add(record_key(record))
            self.count += 1

    class Parrot(SyntheticEngine):
        def generate(self, requests):
            for request in requests:
                yield Completion(request, "yes", (1,), "stop", 3)

    monkeypatch.setattr(runner, "score_completion", lambda *_: {})
    monkeypatch.setattr(
        runner, "make_record", lambda cell, item, sample, *_: dict(cell=cell.id, item=item.id, sample=sample)
    )
    cells = build_grid([vector(n_layers=12)], range(10), [0.1 * s for s in range(1, 11)])[:200]
    assert len(cells) == 200

    def peak(suite) -> int:
        writer = Counting()
        tracemalloc.start()
        run_sweep(Parrot(), suite, cells, writer)  # type: ignore[arg-type]
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert writer.count == len(suite) * 200
        return size

    peak(items(10))  # the cells' cached ids, once
    short, long = peak(items(100)), peak(items(5000))
    # A million rows: a bit for each, and a name for each item. Their records would be a gigabyte.
    assert long - short < 980_000 / 8 + 4900 * 120
