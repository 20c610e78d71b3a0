"""What every part measures on: one model, one device, fixed threads, and how much of everything."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import steerkit as sk
from steerkit.core.prompts import EncodedText
from steerkit.extraction.pairs import ContrastPairs
from steerkit.models.bundled import bundled_folder
from steerkit.models.catalogue import BUNDLED
from steerkit.suites.items import SuiteItem

PACKAGES = ("torch", "transformers")


@dataclass(frozen=True)
class Sizes:
    """How much is run. `repeats` is the number of turns; decoding, whose effects are smallest, takes more."""

    repeats: int = 5
    decoding_repeats: int = 11
    reading_repeats: int = 31
    read_rows: int = 64
    startup_repeats: int = 15
    memory_repeats: int = 3
    pairs: int = 50
    batches: tuple[int, ...] = (1, 32)
    decoded_tokens: int = 32
    layers: int = 4
    strengths: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0, 1.5, 2.0)
    items: int = 48
    max_new_tokens: int = 64
    singles: int = 8
    dense_batches: tuple[int, ...] = (16, 32, 64, 128)
    growing_cells: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 96)
    growing_items: int = 8
    growing_tokens: int = 32
    hybrid_items: int = 12
    hybrid_tokens: int = 32
    grid_layers: int = 5
    grid_strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    opened_items: int = 240
    clients: int = 64
    served_requests: int = 192
    served_tokens: tuple[int, ...] = (16, 32, 48, 64, 96)
    served_alone: int = 10
    serving_repeats: int = 5


QUICK = Sizes(
    repeats=2,
    decoding_repeats=2,
    reading_repeats=2,
    read_rows=3,
    startup_repeats=2,
    memory_repeats=1,
    pairs=4,
    batches=(1, 3),
    decoded_tokens=4,
    layers=2,
    strengths=(-1.0, 1.0),
    items=4,
    max_new_tokens=6,
    singles=1,
    dense_batches=(2, 4),
    growing_cells=(1, 2, 4),
    growing_items=2,
    growing_tokens=4,
    hybrid_items=2,
    hybrid_tokens=4,
    grid_layers=2,
    grid_strengths=(1.0, 2.0),
    opened_items=8,
    clients=3,
    served_requests=5,
    served_tokens=(3, 5),
    served_alone=2,
    serving_repeats=2,
)


@dataclass(frozen=True)
class Setting:
    """One run of the benchmarks: the model by name or folder, the device, the threads, the sizes."""

    model: str = "smollm2-135m-instruct"
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 2
    sizes: Sizes = Sizes()
    quick: bool = False

    def with_repeats(self, repeats: int) -> Setting:
        """The same with another number of turns; decoding takes twice as many."""
        sizes = replace(
            self.sizes, repeats=repeats, decoding_repeats=2 * repeats + 1, serving_repeats=repeats
        )
        return replace(self, sizes=sizes)

    @property
    def folder(self) -> Path:
        """The model's folder, for the peers."""
        if self.model in BUNDLED:
            return bundled_folder(BUNDLED[self.model], print)
        return Path(self.model).resolve()


class Workbench:
    """A loaded model in a setting, with the pairs, texts and items that the parts share."""

    def __init__(self, setting: Setting) -> None:
        torch.set_num_threads(setting.threads)
        self.setting = setting
        self.sizes = setting.sizes
        self.lm = sk.load_model(setting.model, device=setting.device, dtype=setting.dtype)

    def wait(self) -> None:
        """Let the device finish what was queued on it."""
        if self.lm.device.type == "cuda":
            torch.cuda.synchronize(self.lm.device)

    def pairs(self, name: str) -> ContrastPairs:
        """A built-in set of contrast pairs, cut to size."""
        loaded = sk.load_pairs(name)
        assert isinstance(loaded, ContrastPairs)
        return replace(loaded, pairs=loaded.pairs[: self.sizes.pairs])

    def texts(self, name: str) -> list[EncodedText]:
        """Both sides of every pair as tokens, as extraction reads them."""
        return [example.encoded(self.lm.renderer) for example in self.pairs(name).examples]

    @functools.cached_property
    def vector(self) -> sk.SteeringVector:
        """The vector that decoding and sweeps steer with."""
        return sk.extract(self.lm, self.pairs("abstention"))

    def items(self, limit: int) -> tuple[SuiteItem, ...]:
        """Items of the abstention suite, a balanced part of the split that sweeps use by default."""
        return sk.load_suite("abstention").split("choose").limit(limit).items

    def spaced_layers(self, count: int) -> list[int]:
        """`count` layers of the middle half, evenly spaced."""
        n = self.lm.n_layers
        return sorted({n // 4 + i * n // (2 * count) for i in range(count)})

    def environment(self) -> dict[str, Any]:
        """Machine, versions, setting and present load, as the results file keeps them for each part."""
        return {
            "machine": machine(self.setting.device),
            "versions": {"python": platform.python_version(), "steerkit": sk.__version__}
            | {name: version(name) for name in PACKAGES},
            "model": self.lm.name,
            "dtype": str(self.lm.dtype).removeprefix("torch."),
            "device": self.setting.device,
            "threads": self.setting.threads,
            "load": os.getloadavg()[0],
            "quick": self.setting.quick,
        }


def machine(device: str) -> str:
    """The processor, how many cores are there, the memory, and the accelerator where one is used."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    named = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"
    return f"{named}, {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else named


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines: Sequence[str] = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
