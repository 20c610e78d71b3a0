"""How many rows fit: the keys and values of a batch against the memory that is free."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from steerkit.models import LanguageModel

# A batch holds its keys and values, a second copy while it is repacked, and its rows' prompts; the rest is
# left to logits, to the passes themselves and to whoever else uses the machine.
SHARE = 0.2


def fitting_rows(lm: LanguageModel, positions: int) -> int:
    """How many rows of `positions` positions each may decode together; at least one."""
    return max(1, int(_free_bytes(lm.device) * SHARE) // (positions * _bytes_per_position(lm)))


def _bytes_per_position(lm: LanguageModel) -> int:
    """Keys and values of one position at every layer, in bytes; at most, where the config says too little."""
    heads = lm.config.num_attention_heads
    kept = getattr(lm.config, "num_key_value_heads", None) or heads
    width = getattr(lm.config, "head_dim", None) or lm.d_model // heads
    return int(2 * lm.n_layers * kept * width * lm.dtype.itemsize)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: half of what is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
