from __future__ import annotations

import multiprocessing
import random
import signal
import time
import tracemalloc
from dataclasses import replace

import pytest

from steerkit.core.errors import SteerkitError
from steerkit.engines.base import Completion, GateReading
from steerkit.runs.cells import Cell
from steerkit.runs.directory import RecordIndex, RunDirectory, RunWriter
from steerkit.scoring.metrics import scorers_of
from steerkit.sweeps import runner
from steerkit.sweeps.grid import Grid
from steerkit.sweeps.runner import run_sweep
from tests.sweeps.synthetic import SyntheticEngine, environment, items, protocol, vector

SCORERS = scorers_of(["abstention", "answers", "lengths"])


def sweep(path, cells, suite, engine=None, samples=1, scorers=SCORERS, **options):
    with RunWriter(path, protocol(samples=samples), environment(), cells) as writer:
        run_sweep(engine or SyntheticEngine(window=3), suite, cells, writer, scorers, **options)


def grid(layers, strengths) -> list[Cell]:
    return Grid(vector(), layers, strengths).cells()


def sorted_lines(path) -> list[bytes]:
    return sorted((path / "records.jsonl").read_bytes().splitlines())


def test_every_cell_item_and_sample_is_recorded_once(tmp_path):
    cells = grid([4, 6], [-1, 1])
    sweep(tmp_path, cells, items(6), samples=2)
    keys = [record.key for record in RunDirectory(tmp_path).records()]
    assert sorted(keys) == sorted((c.id, i.id, s) for c in cells for i in items(6) for s in range(2))


def test_a_record_holds_the_item_the_completion_and_its_scores(tmp_path):
    scorers = scorers_of(["abstention", "answers", "lengths", "perplexity"])
    cells = grid([6], [2])
    sweep(tmp_path, cells, items(2), scorers=scorers)
    steered = next(cell for cell in cells if cell.role == "steered")
    record = next(r for r in RunDirectory(tmp_path).records() if r.cell == steered.id and r.should_abstain)
    item = items(2)[0]
    assert (record.item, record.prompt, record.group) == (item.id, item.prompt, "item-00000")
    assert (record.should_abstain, record.answers, record.kind) == (True, None, "text")
    assert {"abstained", "correct", "tokens", "perplexity"} & record.scores.keys() >= {
        "abstained",
        "perplexity",
    }
    assert all(value is None or isinstance(value, int | float | bool) for value in record.scores.values())
    assert record.scores["perplexity"] > 0


def test_only_the_scorers_that_are_asked_for_score(tmp_path):
    sweep(tmp_path, [Cell()], items(2), scorers=scorers_of(["abstention"]))
    assert all(record.scores.keys() == {"abstained"} for record in RunDirectory(tmp_path).records())


def test_what_each_gate_read_is_in_the_record(tmp_path):
    reading = GateReading(0, "p", 0.75, True)

    class Gated(SyntheticEngine):
        def _complete(self, request):
            return replace(super()._complete(request), gates=(reading,))

    sweep(tmp_path, [Cell()], items(2), Gated())
    assert all(record.gates == (reading,) for record in RunDirectory(tmp_path).records())


def test_a_finished_sweep_asks_the_engine_for_nothing(tmp_path):
    cells = grid([6], [1])
    sweep(tmp_path, cells, items(4))
    engine = SyntheticEngine()
    sweep(tmp_path, cells, items(4), engine)
    assert engine.drawn == 0


def test_more_cells_and_items_add_to_a_run(tmp_path):
    sweep(tmp_path / "grown", grid([6], [1]), items(4))
    sweep(tmp_path / "grown", grid([4, 6], [1, 2]), items(8))
    sweep(tmp_path / "at-once", grid([4, 6], [1, 2]), items(8))
    assert sorted_lines(tmp_path / "grown") == sorted_lines(tmp_path / "at-once")


def test_requests_are_drawn_lazily_with_the_cells_of_an_item_side_by_side(tmp_path):
    cells, suite = grid([4], [1, 2]), items(3)
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


def test_a_scorer_that_needs_the_engine_never_enters_a_running_one(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "CHUNK", 5)

    class Guarded(SyntheticEngine):
        running = False

        def generate(self, requests):
            self.running = True
            yield from super().generate(requests)
            self.running = False

        def score(self, requests):
            assert not self.running
            return super().score(requests)

    sweep(tmp_path, grid([6], [1]), items(4), Guarded(), scorers=scorers_of(["abstention", "perplexity"]))
    assert all(record.scores["perplexity"] > 0 for record in RunDirectory(tmp_path).records())


def test_killed_at_ten_random_moments_a_sweep_ends_with_the_records_of_an_undisturbed_one(tmp_path):
    cells, suite = grid([4, 6, 8], [-1, 1]), items(40)
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
            self.index.add(record)
            self.count += 1

    class Parrot(SyntheticEngine):
        def generate(self, requests):
            for request in requests:
                yield Completion(request, "yes", (1,), "stop", 3)

    monkeypatch.setattr(runner, "score_completion", lambda *_: {})
    monkeypatch.setattr(runner, "make_record", lambda cell, item, sample, *_: (cell.id, item.id, sample))
    cells = grid(range(10), [0.1 * s for s in range(1, 11)])[:200]
    assert len(cells) == 200

    def peak(suite) -> int:
        writer = Counting()
        tracemalloc.start()
        run_sweep(Parrot(), suite, cells, writer, SCORERS)  # type: ignore[arg-type]
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert writer.count == len(suite) * 200
        return size

    peak(items(10))  # the cells' cached ids, once
    short, long = peak(items(100)), peak(items(5000))
    # A million rows: a bit for each, and a name for each item. Their records would be a gigabyte.
    assert long - short < 980_000 / 8 + 4900 * 120
