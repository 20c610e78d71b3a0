"""How the command line speaks: results on stdout, everything else on stderr, progress only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from steerkit.models import LanguageModel
    from steerkit.models.placement import Placement

WIDE = 200  # columns for a file or a pipe, where Rich would cut tables at 80
TABLE_WIDTH = 100  # what the trade-off table needs

# What models, suites and files say is printed as it stands: no markup, no emoji codes, no colours for numbers.
PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
out = Console(width=None if sys.stdout.isatty() else WIDE, **PLAIN)
err = Console(stderr=True, **PLAIN)


def wide() -> Console:
    """Standard output at least as wide as the trade-off table: a narrow terminal wraps it, nothing is cut."""
    return Console(width=max(out.width, TABLE_WIDTH), **PLAIN)


def say(line: str) -> None:
    """A line about what is going on."""
    err.print(line, soft_wrap=True)


def report_error(message: str) -> None:
    """One line that says what is wrong and what to do."""
    err.print(Text.assemble(("error:", "bold red"), " ", " ".join(message.split())), soft_wrap=True)


def print_json(value: Any) -> None:
    """A result for machines."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Iterable[str]], console: Console = out) -> None:
    """A result for readers: a table without lines."""
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def number(value: float | None, form: str = ".3g") -> str:
    """A number in a table, or a dash where there is none."""
    return "–" if value is None else format(value, form)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left, as a callback `(done, total)`; silent when stderr is not a terminal."""
    from steerkit.cli.progress import progress_bar  # not for a --help: start-up time

    with progress_bar(err) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Show that a model is being loaded, while the block runs."""
    with err.status(Text(f"loading {model}"), spinner="line") if err.is_terminal else nullcontext():
        yield


def load(model: str, placement: Placement | None = None, dtype: str | None = None) -> LanguageModel:
    """Load a model, saying what takes long."""
    with loading(model):
        from steerkit.models import load_model

        return load_model(model, dtype=dtype, progress=say, **({} if placement is None else placement.given))
