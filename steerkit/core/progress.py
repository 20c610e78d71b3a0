"""Progress in notebooks: a bar in the output of the cell, shown by itself, which ends as one line.

Long verbs take `progress`, a callback `(done, total)`. Where none is given and Python runs in a notebook, they show a
bar. It is one output that is updated, and no widget: it needs nothing but IPython, and a notebook that is saved keeps
its last line.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from typing import Any, ParamSpec, TypeVar

Progress = Callable[[int, int], None]

P = ParamSpec("P")
R = TypeVar("R")

BETWEEN = 0.2  # seconds between two updates, and before the first: what is done at once shows no bar
_shown: ContextVar[bool] = ContextVar(
    "_shown", default=False
)  # whether a bar is being shown by a verb further out


def in_notebook() -> bool:
    """Return whether Python runs in a notebook's kernel; IPython in a terminal has none."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    return getattr(shell, "kernel", None) is not None


def shows_progress(what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a verb that takes `progress` by keyword a bar of its own in notebooks, where none is given."""

    def decorate(verb: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(verb)
        def shown(*given: P.args, **named: P.kwargs) -> R:
            if named.get("progress") is not None or not in_notebook():
                return verb(*given, **named)
            with notebook_bar(what) as progress:
                named["progress"] = progress
                return verb(*given, **named)

        return shown

    return decorate


@contextmanager
def notebook_bar(what: str) -> Iterator[Progress]:
    """Yield a callback that shows a bar in notebooks, and nothing anywhere else or inside of another one."""
    if _shown.get() or not in_notebook():
        yield lambda _done, _total: None
        return
    bar, token = _Bar(what), _shown.set(True)
    try:
        yield bar
    finally:
        _shown.reset(token)
        bar.end()


class _Bar:
    """One output of a cell, updated as work goes on."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._last = time.monotonic()
        self._done = self._total = 0
        self._output: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        self._done, self._total = done, total
        now = time.monotonic()
        if now - self._last >= BETWEEN:
            self._last = now
            rate = done / (now - self._began)
            left = f", {_seconds((total - done) / rate)} left" if rate else ""
            self._show(f"{self._what}: {done} of {total}, {rate:.3g}/s{left}", bar=True)

    def end(self) -> None:
        """Leave one line of a bar that was shown."""
        if self._output is not None:
            taken = _seconds(time.monotonic() - self._began)
            self._show(f"{self._what}: {self._done} of {self._total} in {taken}", bar=False)

    def _show(self, line: str, *, bar: bool) -> None:
        from IPython.display import display  # not without a notebook

        drawn = f'<progress value="{self._done}" max="{self._total}"></progress> ' if bar else ""
        shown = {"text/plain": line, "text/html": f"<small>{drawn}{escape(line)}</small>"}
        if self._output is None:
            self._output = display(shown, raw=True, display_id=True)
        else:
            self._output.update(shown, raw=True)


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
