"""`python -m benchmarks [PART …]`: measure, then write `results.json` and the table in `README.md`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import (
    decoding,
    extraction,
    growth,
    hybrid,
    memory,
    peer_runs,
    reading,
    results,
    serving,
    startup,
    sweep,
    workbench,
)
from benchmarks.rows import Part, Row
from benchmarks.setting import QUICK, Setting, Workbench
from benchmarks.table import as_markdown

PARTS: dict[str, Callable[[Workbench], Iterator[Row]]] = {
    "extraction": extraction.run,
    "memory": memory.run,
    "decoding": decoding.run,
    "reading": reading.run,
    "serving": serving.run,
    "sweep": sweep.run,
    "growth": growth.run,
    "hybrid": hybrid.run,
    "workbench": workbench.run,
    "startup": startup.run,
    "peers": peer_runs.run,
}
IN_THIS_PROCESS = {"extraction", "decoding", "reading", "serving", "sweep", "growth", "hybrid", "workbench"}
HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that are named, or all; other parts of an earlier run stay in the results."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}: name some of {', '.join(PARTS)}, or none for all")
    if options.dtype != Setting.dtype and not set(options.parts or PARTS) <= IN_THIS_PROCESS:
        parser.error(
            f"--dtype is for {', '.join(sorted(IN_THIS_PROCESS))}: the other parts run in {Setting.dtype}"
        )
    setting = Setting(options.model, options.device, options.dtype, options.threads)
    if options.quick:
        setting = replace(setting, sizes=QUICK, quick=True)
    if options.repeats:
        setting = setting.with_repeats(options.repeats)
    bench = Workbench(setting)
    folder = options.out or (None if options.quick else HERE)
    parts = results.load(folder) if folder else {}
    for name in options.parts or PARTS:
        print(name, file=sys.stderr, flush=True)
        environment = bench.environment()  # before the part's own work adds to the load
        if name == "hybrid":
            environment["model"] = hybrid.NAME
        title = name if options.dtype == Setting.dtype else f"{name}, {options.dtype}"
        parts[title] = Part(environment, list(PARTS[name](bench)))
        print(as_markdown({title: parts[title]}), flush=True)
        if folder:  # after each part, so that an interrupted run keeps what it has
            results.save(folder, dict(sorted(parts.items(), key=_place)))


def _place(titled: tuple[str, Part]) -> tuple[int, str]:
    """Parts stand in the order of PARTS, float32 before other number formats."""
    title, _ = titled
    return list(PARTS).index(title.partition(",")[0]), title


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--model", default=Setting.model, help="a bundled name or a model folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", default=Setting.dtype, help="float32 or bfloat16; kept as results of their own"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, help="turns of every comparison (default 5)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, help="where results.json and README.md go (default: benchmarks/)")
    return parser


if __name__ == "__main__":
    main()
