"""Which items choose, and which report: three splits, disjoint by construction.

`fit` is for extraction and calibration, `choose` for picking layer and strength, `report` for the one
measurement that is shown. An item's split is a function of its group alone, so twins stay together and no
item moves when others are added.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

from steerkit.suites.items import SuiteItem

Split = Literal["fit", "choose", "report"]
SPLITS: tuple[Split, ...] = get_args(Split)


def split_of(item: SuiteItem) -> Split:
    """The split of an item: that of its group."""
    return split_of_group(item.group)


def split_of_group(group: str) -> Split:
    """The split of a group of items: a quarter of all groups fit, a quarter choose, half report."""
    position = hash_position("split", group)
    if position < 0.25:
        return "fit"
    return "choose" if position < 0.5 else "report"


def hash_position(purpose: str, group: str) -> float:
    """A fixed pseudo-random place in [0, 1) for a group; another one for every purpose."""
    digest = hashlib.sha256(f"{purpose}:{group}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
