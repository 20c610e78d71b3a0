"""A fuzz of the command line: random commands × odd files × odd texts × odd templates × odd options, by a seed.

Run N of a seed is made from these two numbers alone. 200 runs in one process, and every fiftieth of them as a process
of its own, unless the environment says otherwise:

    STEERKIT_FUZZ=5000       how many runs (make fuzz)
    STEERKIT_FUZZ_SEED=15    the seed
    STEERKIT_FUZZ_RUN=123    this run alone
    STEERKIT_FUZZ_LOG=FILE   a line a run: its number, exit code, verb and the last line on stderr
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random

from tests.fuzz import law
from tests.fuzz.commands import Command, Maker
from tests.fuzz.files import World

RUNS = int(os.environ.get("STEERKIT_FUZZ", "200"))
SEED = int(os.environ.get("STEERKIT_FUZZ_SEED", "15"))
ALONE = os.environ.get("STEERKIT_FUZZ_RUN")
LOG = os.environ.get("STEERKIT_FUZZ_LOG", os.devnull)
A_PROCESS = 50  # one in so many runs is one
MOST_SHOWN = 40

Run = Callable[[Command, Path, Path, Path], law.Outcome]


def broken(numbers: Iterable[int], run: Run, world: World, folder: Path) -> Iterator[str]:
    """Run these numbers, and say of each that breaks the law how, and how to repeat it."""
    for number in numbers:
        here, scratch = folder / "run", folder / "scratch"
        here.mkdir()
        scratch.mkdir()
        command = Maker(Random(f"{SEED}/{number}"), world, here).command()
        outcome = run(command, here, world.folder / "cache", scratch)
        with open(LOG, "a", encoding="utf-8") as log:
            log.write(f"{number} {outcome.code} {command.verb!r} {outcome.last!r}\n")
        if found := law.faults(command, outcome, here):
            repeat = f"STEERKIT_FUZZ_SEED={SEED} STEERKIT_FUZZ_RUN={number}"
            yield "\n".join((f"{repeat}\n{command}", *found, str(outcome), ""))
        shutil.rmtree(here)
        shutil.rmtree(scratch)


def hold(numbers: Iterable[int], run: Run, world: World, folder: Path) -> None:
    found = list(itertools.islice(broken(numbers, run, world, folder), MOST_SHOWN))
    assert not found, f"{len(found)} runs of seed {SEED} break the law:\n\n" + "\n".join(found)


def test_every_command_line_ends_with_a_code_and_one_line(world: World, tmp_path: Path) -> None:
    law.show_logs_where_stderr_is()
    hold([int(ALONE)] if ALONE else range(RUNS), law.run, world, tmp_path)


def test_so_does_every_process_whatever_its_terminal_and_its_encoding(world: World, tmp_path: Path) -> None:
    hold([int(ALONE)] if ALONE else range(0, RUNS, A_PROCESS), law.run_process, world, tmp_path)
