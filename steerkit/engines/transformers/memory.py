"""How many rows fit: what a model keeps of each against the memory that is free."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from steerkit.engines.row_states import RowStates
from steerkit.models import LanguageModel

# A batch holds its keys and values, a second copy while it is repacked, and its rows' prompts; the rest is
# left to logits, to the passes themselves and to whoever else uses the machine.
SHARE = 0.2
PASSING = 16  # states of a position that a block works on at a time, in widths of the stream


def fitting_rows(lm: LanguageModel, states: RowStates | None, positions: int) -> int:
    """Return how many rows of `positions` positions each may decode together; at least one.

    `states` is what the model keeps of a row; None where it is run whole at each step.
    """
    if states is None:
        a_row = positions * lm.d_model * lm.dtype.itemsize * PASSING
    else:
        a_row = positions * states.per_position + states.per_row
    return max(1, int(_free_bytes(lm.device) * SHARE) // a_row)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: half of what is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
