"""`python -m benchmarks.versions OLD`: this checkout beside an older one, on the same inputs, in alternating processes.

OLD is a folder with another commit checked out (`git worktree add OLD COMMIT`). One process of each version stays
loaded; they take turns, so that what the machine does besides falls on both alike. Each figure is new / old: the median
of the paired turns with a 95% bootstrap interval. Below 1 is faster. Writes `versions.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
PARTS = ("extraction", "decoding", "sweep")
START_UP = ("import", "help")
RESAMPLES = 10_000


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__)
    parser.add_argument("old", type=Path, help="a checkout of the older version")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--start-up-turns", type=int, default=41)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "versions.json")
    options = parser.parse_args()
    folders = {"old": options.old.resolve(), "new": ROOT}
    seconds = {part: _take_turns(folders, part, options.start_up_turns) for part in START_UP}
    workers = {name: _Worker(folder, options.threads) for name, folder in folders.items()}
    for part in PARTS:
        seconds[part] = {name: [] for name in workers}
        for turn in range(options.turns):
            for name in sorted(workers, reverse=turn % 2 == 1):
                seconds[part][name].append(workers[name].seconds(part))
    commits = {name: _commit(folder) for name, folder in folders.items()}
    found = {part: {"ratio": _ratio(**taken), "seconds": taken} for part, taken in seconds.items()}
    for part, row in found.items():
        median, low, high = row["ratio"]
        print(f"{part:<12} {median:.3f} [{low:.3f}, {high:.3f}]  {len(row['seconds']['new'])} turns")
    options.out.write_text(json.dumps({"commits": commits, "parts": found}, indent=1) + "\n")


class _Worker:
    """A process that has one version loaded."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "version_worker.py"), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=_environment(folder),
        )
        while (line := self._read()) != "ready":  # what the model's loading prints
            print(line, file=sys.stderr)

    def seconds(self, part: str) -> float:
        """Run a part once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{part}\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the worker has died; see its message above")
        return line.strip()


def _take_turns(folders: dict[str, Path], what: str, turns: int) -> dict[str, list[float]]:
    """Seconds of fresh processes that only start up."""
    ask = ["-c", "import steerkit"] if what == "import" else ["-m", "steerkit.cli", "--help"]
    seconds: dict[str, list[float]] = {name: [] for name in folders}
    for turn in range(turns):
        for name in sorted(folders, reverse=turn % 2 == 1):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, *ask],
                cwd=folders[name],
                env=_environment(folders[name]),
                stdout=subprocess.DEVNULL,
                check=True,
            )
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}


def _ratio(old: list[float], new: list[float]) -> tuple[float, float, float]:
    """The median of new / old over the turns, and its 95% bootstrap interval."""
    ratios = np.array(new) / np.array(old)
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(np.median(ratios)), float(low), float(high)


def _commit(folder: Path) -> str:
    asked = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
