"""Peak memory of extraction above the weights, each variant in fresh processes.

`python -m benchmarks.memory VARIANT MODEL DEVICE THREADS PAIRS` prints one number, in bytes: what one pass adds
at its peak to a process that holds the model and has run every text once, so that weights and libraries are all
in. On a CPU that is the resident set's high-water mark, reset before the pass, with freed memory given back first
(Linux only); on CUDA the allocator's.
"""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

import steerkit as sk
from benchmarks.floor import bare_pass, whole_text_batches
from benchmarks.rows import Row, at_most
from benchmarks.setting import Setting, Sizes, Workbench
from steerkit.extraction.capture import capture

ROOT = Path(__file__).parent.parent
SET = "abstention"
VARIANTS = ("floor", "capture", "extract")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_is_measurable(device: str) -> bool:
    """Whether this system says what a stretch of work needed at its peak."""
    return device.startswith("cuda") or (STATUS.is_file() and CLEAR.is_file())


def peak_bytes(work: Callable[[], object], device: str) -> int:
    """What `work` adds at its peak to the memory in use before it."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # freed memory goes back first, else the pass would hide in it
    CLEAR.write_text("5")  # the high-water mark starts again from what is resident now
    before = _status_bytes("VmRSS")
    work()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def run(bench: Workbench) -> Iterator[Row]:
    """Capture's and extraction's peak over the floor's."""
    setting = bench.setting
    if not peak_is_measurable(setting.device):
        yield Row("peak memory of extraction", note="this system does not tell a process its peak")
        return
    peaks: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(bench.sizes.memory_repeats):
        for variant in VARIANTS:
            peaks[variant].append(peak_in_fresh_process(variant, setting))
    if not all(peaks["floor"]):
        yield Row("peak memory of extraction", note="the bare pass is too small for its peak to be seen")
        return
    for variant in VARIANTS[1:]:
        shown = " and ".join(f"{name} {max(peaks[name]) / 2**20:.0f} MiB" for name in (variant, "floor"))
        yield Row.of(
            f"{SET}: peak of {variant} / peak of the bare pass",
            [ours / floor for ours, floor in zip(peaks[variant], peaks["floor"], strict=True)],
            target=at_most(1.2),
            note=f"above the weights: {shown}; {bench.sizes.memory_repeats} processes each",
        )


def peak_in_fresh_process(variant: str, setting: Setting) -> int:
    """The peak of one variant in bytes, in a process that does nothing else."""
    arguments = (variant, setting.folder, setting.device, setting.threads, setting.sizes.pairs)
    command = [sys.executable, "-m", "benchmarks.memory", *map(str, arguments)]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def _measure(variant: str, model: str, device: str, threads: int, pairs: int) -> int:
    bench = Workbench(Setting(model, device, threads=threads, sizes=replace(Sizes(), pairs=pairs)))
    lm, texts = bench.lm, bench.texts(SET)
    for parameter in lm.hf.parameters():
        parameter.sum()  # weights mapped from a file become resident when they are first read
    batches = whole_text_batches(lm, texts)  # runs every text once, whatever the variant
    few = bench.pairs(SET)
    sk.extract(lm, replace(few, pairs=few.pairs[:4]))  # brings in the libraries that fitting needs
    work: dict[str, Callable[[], object]] = {
        "floor": lambda: bare_pass(lm, batches),
        "capture": lambda: capture(lm, texts, "mean"),
        "extract": lambda: sk.extract(lm, bench.pairs(SET)),
    }
    return peak_bytes(work[variant], device)


if __name__ == "__main__":
    which, folder, place, n_threads, n_pairs = sys.argv[1:]
    print(_measure(which, folder, place, int(n_threads), int(n_pairs)))
