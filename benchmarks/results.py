"""The results on disk: `results.json` whole, part by part, and the table between two marks in `README.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.rows import Part, Row
from benchmarks.table import as_markdown
from steerkit.core.files import replacing

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def load(folder: Path) -> dict[str, Part]:
    """What earlier runs measured, by part."""
    path = folder / "results.json"
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Part(part["environment"], [Row.from_dict(row) for row in part["rows"]])
        for name, part in stored.items()
    }


def save(folder: Path, parts: Mapping[str, Part]) -> None:
    """Write all parts, and their table into the README beside them, both whole."""
    content = {
        name: {"environment": dict(part.environment), "rows": [row.as_dict() for row in part.rows]}
        for name, part in parts.items()
    }
    with replacing(folder / "results.json", "the results") as scratch:
        scratch.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    with replacing(readme, "the table") as scratch:
        scratch.write_text(f"{before}{BEGIN}\n{as_markdown(parts)}\n{END}{after}", encoding="utf-8")
