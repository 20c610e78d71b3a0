"""The replies whose labels the rules and the detector are fitted on and measured by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Row = dict[str, Any]


def written() -> list[Row]:
    """Replies that were written to train on, in 26 languages; `abstains` is what their writer meant."""
    return _read("written.jsonl")


def second_set() -> list[Row]:
    """Replies that two readers labelled, generated or written; `kept_apart` ones took no part in any fitting."""
    return _read("second_set.jsonl")


def agreed(row: Row) -> bool:
    """Whether the two readers of a reply say the same of it."""
    return row["abstains"][0] == row["abstains"][1]


def training() -> tuple[list[str], list[bool]]:
    """All replies that may be fitted on, with their labels."""
    generated = [row for row in second_set() if not row["kept_apart"] and agreed(row)]
    rows = [(row["reply"], row["abstains"]) for row in written()]
    rows += [(row["reply"], row["abstains"][0]) for row in generated]
    return [reply for reply, _ in rows], [label for _, label in rows]


def _read(name: str) -> list[Row]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
