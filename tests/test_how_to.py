"""The how-to pages show the very files that the tests of plugins install and use."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(
    path
    for path in (ROOT / "tests" / "plugins" / "steerkit_example_plugins").glob("*.py")
    if path.stem != "__init__"
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_a_page_shows_the_file_that_is_tested(example: Path) -> None:
    page = ROOT / "docs" / "how-to" / f"{example.stem.replace('_', '-')}.md"
    text = page.read_text(encoding="utf-8")
    assert f"```python\n{example.read_text(encoding='utf-8').rstrip()}\n```" in text
    assert f"]({page.name})" in (page.parent / "README.md").read_text(encoding="utf-8")


def test_there_is_a_page_for_each_of_the_nine() -> None:
    assert len(EXAMPLES) == 9
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 60 for path in EXAMPLES)
