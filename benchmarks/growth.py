"""What a record costs as a grid grows: it should fall, then stay flat, and so should memory."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from benchmarks.measure import Seconds, take_turns
from benchmarks.memory import peak_bytes, peak_is_measurable
from benchmarks.rows import Row, at_most
from benchmarks.setting import Workbench
from benchmarks.sweep import packed
from steerkit.runs.cells import Cell


def run(bench: Workbench) -> Iterator[Row]:
    """Cost a record and peak memory at the largest grid against smaller ones."""
    sizes = bench.sizes
    items = bench.items(sizes.growing_items)
    grids = {str(count): growing_grid(bench, count) for count in sizes.growing_cells}
    variants = {
        name: lambda cells=cells: packed(bench, items, cells, sizes.growing_tokens)
        for name, cells in grids.items()
    }
    seconds: Seconds = take_turns(variants, min(3, sizes.repeats), bench.wait, warm_up=False)
    cost = {name: [t / (len(items) * int(name)) for t in times] for name, times in seconds.items()}
    first, last = next(iter(grids)), next(reversed(grids))
    curve = ", ".join(f"{name}: {1000 * median(values):.0f}" for name, values in cost.items())
    note = f"ms a record by number of cells, {len(items)} items: {curve}"
    yield Row.of(
        f"cost a record, {last} cells / {first}",
        [a / b for a, b in zip(cost[last], cost[first], strict=True)],
        target=at_most(1.0),
        note=note,
        seconds=seconds,
    )
    lowest = [min(values[turn] for values in cost.values()) for turn in range(len(cost[last]))]
    yield Row.of(
        f"cost a record, {last} cells / cheapest grid",
        [a / b for a, b in zip(cost[last], lowest, strict=True)],
        target=at_most(1.1),
        note="how flat the curve is at its end",
    )
    if not peak_is_measurable(bench.setting.device):
        yield Row(f"peak memory, {last} cells", note="this system does not tell a process its peak")
        return
    peaks = {name: peak_bytes(work, bench.setting.device) / 2**20 for name, work in variants.items()}
    middle = list(grids)[len(grids) // 2]
    shown = ", ".join(f"{name}: {peak:.0f}" for name, peak in peaks.items())
    what, note = (
        f"peak memory, {last} cells / {middle}",
        f"MiB above what was in use before, by cells: {shown}",
    )
    if peaks[middle]:
        yield Row(what, peaks[last] / peaks[middle], target=at_most(1.2), note=note)
    else:
        yield Row(what, note=f"too small to be seen: {note}")


def growing_grid(bench: Workbench, count: int) -> list[Cell]:
    """`count` cells of different layers and strengths; a smaller grid is part of a larger one."""
    layers = range(bench.lm.n_layers)
    return [
        Cell((bench.vector.at(layers[k % len(layers)], 0.25 + 0.25 * (k // len(layers))),))
        for k in range(count)
    ]
