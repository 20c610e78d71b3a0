"""How the command line speaks: results on stdout, everything else on stderr, progress only on a terminal.

1. What comes from outside (completions, prompts, labels, names, paths, specs) is data: it is never read as markup, as
   emoji codes or for colours, tabs stay tabs, and no line is wrapped or cut but by the terminal itself.
2. Into a file or a pipe it goes letter by letter. On a terminal the characters that would act on it are shown as
   escapes (`steerkit.core.characters`). JSON has the same value in either.
3. A character that the encoding of stdout does not have is written as `?`, which is said once; JSON escapes it.
4. An error or a warning is one line.
"""

from __future__ import annotations

import codecs
import functools
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

from steerkit.core.characters import ACTING, one_line, visible

if TYPE_CHECKING:
    from steerkit.core.prompts import TemplateOption
    from steerkit.models import LanguageModel
    from steerkit.models.placement import Placement

TABLE_WIDTH = 100  # columns of a terminal that tables are made for: a narrower one wraps their lines
UNBOUNDED = 100_000  # columns of a file or a pipe

PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
out = Console(**PLAIN)
err = Console(stderr=True, **PLAIN)


def show(text: str, style: str = "") -> None:
    """A result for readers: the text as it is, and a line break."""
    _write(out, (text, style))
    encoding = getattr(out.file, "encoding", None) or "utf-8"
    if not (encoding.lower().startswith("utf") or _holds(encoding, text)):
        _say_what_is_replaced(encoding)


def show_labelled(label: str, style: str, text: str) -> None:
    """A line of results that begins with a label in a style of its own."""
    _write(out, (label, style), (f" {text}", ""))


def has_colours() -> bool:
    """Whether stdout is a terminal that shows colours."""
    return out.is_terminal and out.color_system is not None and not out.no_color


def show_made_text(text: Text) -> None:
    """A text with styles of its own that somebody else made, in which nothing acts on a terminal."""
    out.print(text, soft_wrap=True)


def say(line: str) -> None:
    """A line about what is going on."""
    _write(err, (line, ""))


def report_error(message: str) -> None:
    """One line that says what is wrong and what to do."""
    _write(err, ("error:", "bold red"), (f" {one_line(message)}", ""))


def _write(console: Console, *pieces: tuple[str, str]) -> None:
    """Write pieces of text, each in its style; the one place where text goes out."""
    segments = [
        Segment(visible(text) if console.is_terminal else text, Style.parse(style) if style else None)
        for text, style in (*pieces, ("\n", ""))
    ]
    # As segments, for Rich would widen the tabs of a text, and leave its control characters out.
    console.print(Segments(segments), soft_wrap=True)


def forgive_encodings() -> None:
    """Let stdout replace what its encoding does not have, and stdin pass on bytes that are no text."""
    codecs.register_error("steerkit.replace", _replaced)
    for stream, errors in ((sys.stdout, "steerkit.replace"), (sys.stdin, "surrogateescape")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """A byte of a file name that is no text as it was, any other character as `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    code = ord(error.object[error.start])
    undecodable = 0xDC80 <= code <= 0xDCFF
    return bytes([code - 0xDC00]) if undecodable else "?", error.start + 1


def _holds(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def _say_what_is_replaced(encoding: str) -> None:
    say(
        f"? stands for what {encoding} cannot write: set PYTHONIOENCODING=utf-8 for the text as it is, or --json"
    )


def print_json(value: Any) -> None:
    """A result for machines: the same value on any stream, and nothing in it that acts on a terminal."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    text = ACTING.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)
    if not _holds(getattr(out.file, "encoding", None) or "utf-8", text):
        text = json.dumps(value, indent=2)
    _write(out, (text, ""))


def print_table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> None:
    """A result for readers: a table without lines, in which nothing is cut."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(visible(column, keep="")), overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell, keep="")) for cell in row))
    print_made(table)


def print_made(table: Table, *, wrapped: bool = True) -> None:
    """A table that somebody else made: as wide as it is, but where its columns are `wrapped` on a terminal.

    The height is given because without one Rich takes a terminal of the kind `dumb` to be 80 columns wide.
    """
    width = table_width() if wrapped and out.is_terminal else UNBOUNDED
    Console(width=width, height=out.height, file=out.file, color_system=_colours(), **PLAIN).print(table)


def table_width() -> int:
    """How wide a table may be: in a file or a pipe as wide as it wants."""
    return max(out.width, TABLE_WIDTH) if out.is_terminal else UNBOUNDED


def _colours() -> Any:
    return out.color_system if out.is_terminal else None


def number(value: float | None, form: str = ".3g") -> str:
    """A number in a table, or a dash where there is none."""
    return "–" if value is None else format(value, form)


def command(*words: object) -> str:
    """A line for a POSIX shell: these words, quoted where they must be."""
    return shlex.join(map(str, words))


def generate_with(model: str, vector: object, layer: int) -> str:
    """The command that tries a vector's file at a layer."""
    from steerkit.interventions.spec import vector_at  # heavy

    spec = vector_at(str(vector), layer=layer, strength=1)
    return command("steerkit", "generate", "--model", model, "--steer", spec, "your question")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left, as a callback `(done, total)`; silent when stderr is not a terminal."""
    from steerkit.cli.progress import progress_bar  # not for a --help: start-up time

    with progress_bar(err) as bar:
        task = bar.add_task(one_line(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Show that a model is being loaded, while the block runs."""
    status = Text(one_line(f"loading {model}"))
    with err.status(status, spinner="line") if err.is_terminal else nullcontext():
        yield


def load(
    model: str,
    placement: Placement | None = None,
    dtype: str | None = None,
    template_options: Mapping[str, TemplateOption] | None = None,
) -> LanguageModel:
    """Load a model, saying what takes long."""
    with loading(model):
        from steerkit.models import load_model

        placed = {} if placement is None else placement.given
        return load_model(model, dtype=dtype, progress=say, template_options=template_options, **placed)
