"""How many rows fit: the keys and values of a batch against the memory that is free; and what if it ran out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from steerkit.core.errors import SteerkitError
from steerkit.engines.transformers.layout import chunk_by_tokens
from steerkit.models import LanguageModel

T = TypeVar("T")
R = TypeVar("R")

# A batch holds its keys and values, a second copy while it is repacked, and its rows' prompts; the rest is
# left to logits, to the passes themselves and to whoever else uses the machine.
SHARE = 0.2


def fitting_rows(lm: LanguageModel, positions: int) -> int:
    """How many rows of `positions` positions each may decode together; at least one."""
    return max(1, int(_free_bytes(lm.device) * SHARE) // (positions * _bytes_per_position(lm)))


def ran_out(error: RuntimeError) -> bool:
    """Whether this is memory that could not be had. PyTorch has a class of its own for it on accelerators only."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def in_passes(
    items: Sequence[T], length: Callable[[T], int], tokens: int, run: Callable[[Sequence[T]], R]
) -> Iterator[tuple[Sequence[T], R]]:
    """Run the items in order, at most `tokens` padded tokens (or one item) a pass; each pass with what it gave.

    A pass that memory does not hold is tried again with half its items, and so are those behind it; where it does
    not hold a single one, SteerkitError is raised. `run` may be called again with items that it has seen.
    """
    waiting = items
    while waiting:
        some = chunk_by_tokens(waiting, length, tokens)
        try:
            found = run(some)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            if len(some) == 1:
                raise SteerkitError(
                    f"out of memory with a single text of {length(some[0])} tokens: shorten it, or use a smaller "
                    "number format"
                ) from error
            tokens = max(map(length, some)) * (len(some) // 2)
            continue
        yield some, found
        waiting = waiting[len(some) :]


def _bytes_per_position(lm: LanguageModel) -> int:
    """Keys and values of one position at every layer, in bytes; at most, where the config says too little."""
    heads = lm.config.num_attention_heads
    kept = getattr(lm.config, "num_key_value_heads", None) or heads
    width = getattr(lm.config, "head_dim", None) or lm.d_model // heads
    return 2 * lm.n_layers * kept * width * lm.dtype.itemsize


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: half of what is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
