"""Which files of the repository are pages of the site, and where a link between them leads there.

A file below `docs/` is the page of its path within `docs/`; a file elsewhere is the page of its path within the
repository. So a relative link that works on a code host is rewritten by where both ends stand, and one to a file that
is no page becomes its text.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = "docs/"
HOME = "docs/README.md"
OUTSIDE = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "benchmarks/*.json",
    "experiments/README.md",
    "experiments/*/README.md",
    "experiments/*/results*.md",
    "experiments/*/figure.png",
    "experiments/abstention_scorer/guidelines.md",
    "vectors/*.md",
    "vectors/adapters/*/README.md",
)
TARGET = re.compile(r"\]\(([^()\s]+)\)")
FENCE = re.compile(r"^\s*(```|~~~)")
ITEM = re.compile(r"^\s{0,3}(?:[-*+]|\d+\.) ")


@functools.cache
def outside() -> list[str]:
    """Return the repository's paths of the pages that do not stand below `docs/`."""
    found = {path.relative_to(ROOT).as_posix() for pattern in OUTSIDE for path in ROOT.glob(pattern)}
    return sorted(found)


def page_of(path: str) -> str | None:
    """Return the page (a path within the site's sources) that a path of the repository is, None where it is none."""
    path = posixpath.normpath(path)
    if path == "README.md" or path == "docs":
        path = HOME
    if (ROOT / path).is_dir():
        path = f"{path}/README.md"
    if path.startswith(DOCS):
        return path.removeprefix(DOCS) if (ROOT / path).is_file() else None
    return path if path in outside() else None


def path_of(page: str) -> str:
    """Return the path in the repository of a page."""
    return page if page in outside() else DOCS + page


def relinked(target: str, page: str) -> str | None:
    """Return the target of a link on `page` as the site needs it; None where it leads to a file that is no page.

    A link that leads nowhere is returned as it is: the build warns of it.
    """
    if re.match(r"[a-z]+:|#|/", target):
        return target
    file, mark, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(path_of(page)), file))
    if not (ROOT / path).exists():
        return target
    found = page_of(path)
    return None if found is None else posixpath.relpath(found, posixpath.dirname(page) or ".") + mark + anchor


def outside_code(markdown: str, change: Callable[[list[str]], list[str]]) -> str:
    """Return the text with `change` made to each run of lines that is no block of code."""
    out: list[str] = []
    prose: list[str] = []
    fence = ""
    for line in markdown.split("\n"):
        mark = FENCE.match(line)
        if fence or mark:
            out += [*change(prose), line] if prose else [line]
            prose = []
            if mark and (not fence or mark[1] == fence):
                fence = "" if fence else mark[1]
        else:
            prose.append(line)
    return "\n".join([*out, *change(prose)])


def for_site(markdown: str, page: str) -> str:
    """Return a page's text with its links as the site needs them, and its lists as Python-Markdown does."""

    def change(lines: list[str]) -> list[str]:
        return _lists_apart(_relinked_text("\n".join(lines), page).split("\n"))

    return outside_code(markdown, change)


def _relinked_text(text: str, page: str) -> str:
    """Return a text with its links as the site needs them; of one that leads nowhere there the words stay."""
    out, done = "", 0
    for found in TARGET.finditer(text):
        target = relinked(found[1], page)
        if target is not None:
            out += f"{text[done : found.start()]}]({target})"
        else:
            before = text[done : found.start()]
            opening = before.rindex("[")
            out += before[:opening] + before[opening + 1 :]
        done = found.end()
    return out + text[done:]


def _lists_apart(lines: list[str]) -> list[str]:
    """Set an empty line before a list that follows a paragraph at once."""
    out: list[str] = []
    for line in lines:
        before = out[-1] if out else ""
        if (
            ITEM.match(line)
            and before.strip()
            and not ITEM.match(before)
            and not before.startswith((" ", "#"))
        ):
            out.append("")
        out.append(line)
    return out
