"""Progress bars: by themselves in a notebook, once, and nowhere else."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from steerkit.core import progress
from steerkit.core.progress import Progress, notebook_bar, shows_progress

NOTEBOOK = """
import time
from steerkit.core import progress

@progress.shows_progress("counting <sheep>")
def count(n, *, progress=None):
    for i in range(n):
        time.sleep(0.02)
        if progress:
            progress(i + 1, n)
    return n

assert progress.in_notebook()
count(60)
"""


@shows_progress("counting")
def count(n: int, *, progress: Progress | None = None) -> bool:
    """Count to n, and say whether anybody was told."""
    for i in range(n):
        if progress is not None:
            progress(i + 1, n)
    return progress is not None


class Shown:
    """Stands in for IPython's display."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, data: dict[str, str], **_how: Any) -> Shown:
        self.update(data)
        return self

    def update(self, data: dict[str, str], **_how: Any) -> None:
        self.lines.append(data["text/plain"])


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """A notebook, as far as can be told, in which no update waits."""
    made = Shown()
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=made))  # type: ignore[arg-type]
    monkeypatch.setattr(progress, "BETWEEN", 0.0)
    return made


def test_outside_a_notebook_nothing_is_told() -> None:
    assert not progress.in_notebook()
    assert not count(3)
    with notebook_bar("counting") as told:
        told(1, 2)


def test_a_verb_shows_its_own_bar_in_a_notebook(shown: Shown) -> None:
    assert count(3)
    assert len(shown.lines) == 4
    assert shown.lines[0].startswith("counting: 1 of 3, ")
    assert shown.lines[-1].startswith("counting: 3 of 3 in ")


def test_a_given_callback_is_used_instead(shown: Shown) -> None:
    told: list[tuple[int, int]] = []
    count(2, progress=lambda *at: told.append(at))
    assert told == [(1, 2), (2, 2)]
    assert not shown.lines


def test_a_verb_inside_of_another_shows_no_second_bar(shown: Shown) -> None:
    with notebook_bar("all") as told:
        count(3)
        told(1, 1)
    assert [line.partition(":")[0] for line in shown.lines] == ["all", "all"]


def test_an_error_leaves_the_bar_where_it_was(shown: Shown) -> None:
    def break_off() -> None:
        with notebook_bar("counting") as told:
            told(1, 3)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        break_off()
    assert shown.lines[-1].startswith("counting: 1 of 3 in ")
    assert count(1)  # a later one shows again


def test_a_real_notebook_keeps_one_line() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cell = nbformat.v4.new_code_cell(NOTEBOOK)
    nbclient.NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3").execute()
    shown = [output for output in cell.outputs if output.output_type == "display_data"]
    assert len(shown) == 1
    assert shown[0].data["text/plain"].startswith("counting <sheep>: 60 of 60 in ")
    assert "&lt;sheep&gt;" in shown[0].data["text/html"]
    assert not [output for output in cell.outputs if output.output_type == "stream"]
