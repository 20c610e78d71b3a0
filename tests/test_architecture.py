"""The rooms of ARCHITECTURE.md: imports point to the same row of its table or upwards, never down."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = re.findall(r"^\| (`.*?) \|", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
ROW_OF = {
    room.removesuffix(".py").removesuffix("/"): row
    for row, rooms in enumerate(TABLE)
    for room in re.findall(r"`([^`]+)`", rooms)
}
# Lazy calls that ARCHITECTURE.md names: a vector makes a Steering, a run opens its report.
CALLS_BACK = {("vector", "steering"), ("sweeps", "report")}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "steerkit").parts[0].removesuffix(".py")


def test_every_room_stands_in_the_table() -> None:
    rooms = {room_of(path) for path in (ROOT / "steerkit").rglob("*.py")} - {"__init__"}
    assert rooms == set(ROW_OF)


def test_no_import_points_down_the_table() -> None:
    seen = set()
    for path in (ROOT / "steerkit").rglob("*.py"):
        room = room_of(path)
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("steerkit."):
                target = (node.module or "").split(".")[1]
                if ROW_OF[target] > ROW_OF[room]:
                    seen.add((room, target))
    assert seen == CALLS_BACK
