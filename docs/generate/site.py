"""The hooks of `mkdocs build`: pages that are made, links that hold on a code host too, and nothing from elsewhere."""

from __future__ import annotations

import html
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # mkdocs loads this file by its path alone

from mkdocs.structure.files import File

from docs.generate import commands, reference, tables
from docs.generate.shared import ROOT, for_site, outside, outside_code, path_of, relinked

COMMANDS = f"{reference.FOLDER}/commands.md"
NOUN = re.compile(r"(?<![\[`\w])`sk\.(\w+)((?:\.\w+)*(?:\([^`\n]*\))?)`(?!`|\])")
ANCHOR = re.compile(r'(<a [^>]*href=")([^"]+)(")')
SCRIPT = re.compile(r'<script[^>]*src="https?://[^"]*"[^>]*>\s*</script>')


def on_config(config: Any) -> Any:
    """Complete the navigation: the studies, the reference, and each page of docs/ that it does not name."""
    named = set(_named(config.nav))
    for section in config.nav:
        for title, entries in section.items():
            if title == "Numbers":
                entries += _studies(named)
            elif title == "Reference":
                entries += [{"Commands": COMMANDS}, *reference.nav()]
            elif title == "How to":
                entries += [{_title(page): page} for page in _written("how-to") if page not in named]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not stand below `docs/`, and those that are made."""
    for path in outside():
        _add(files, config, path, (ROOT / path).read_bytes())
    for page, text in reference.pages():
        _add(files, config, page, text)
    _add(files, config, COMMANDS, commands.page())
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put tables from results in, and make links those of the site; a public noun in code leads to its page."""
    name = page.file.src_uri
    if name.startswith(f"{reference.FOLDER}/") or name.endswith(".ipynb"):
        return markdown
    text = for_site(tables.filled(markdown), name)
    return outside_code(text, lambda lines: [_with_nouns(line, name) for line in lines])


def on_page_content(content: str, page: Any, files: Any, **_: Any) -> str:
    """Make the links of a notebook those of the site, and let its code lead to the reference."""
    if not page.file.src_uri.endswith(".ipynb"):
        return content

    def link(found: re.Match[str]) -> str:
        target = html.unescape(found[2])
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        relative = relinked(target, page.file.src_uri)
        if relative is None:
            raise ValueError(f"{page.file.src_uri} leads to {target}, which is no page of the site")
        file, mark, anchor = relative.partition("#")
        other = files.get_file_from_path(
            posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), file))
        )
        return f"{found[1]}{html.escape(other.url_relative_to(page.file))}{mark}{anchor}{found[3]}"

    return ANCHOR.sub(link, content)


def on_post_page(output: str, **_: Any) -> str:
    """Leave out scripts of other hosts, which nbconvert's pages ask for and nothing here uses."""
    return SCRIPT.sub("", output)


def _add(files: Any, config: Any, page: str, content: str | bytes) -> None:
    files.append(File.generated(config, page, content=content))


def _named(nav: Any) -> Any:
    """Yield the pages that a navigation names."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else _named(value)


def _written(folder: str) -> list[str]:
    return sorted(
        f"{folder}/{path.name}" for path in (ROOT / "docs" / folder).glob("*.md") if path.stem != "README"
    )


def _studies(named: set[str]) -> list[dict[str, Any]]:
    """Return the studies and cards: each folder a section, its own page before its results."""
    folders: dict[str, list[dict[str, str]]] = {}
    for path in sorted(outside(), key=lambda path: (not path.endswith("README.md"), path)):
        if path.startswith(("experiments/", "vectors/")) and path.endswith(".md") and path not in named:
            folders.setdefault(posixpath.dirname(path), []).append({_title(path): path})
    studies = [
        {_study(folder): pages} for folder, pages in sorted(folders.items()) if "vectors" not in folder
    ]
    cards = [page for folder, pages in sorted(folders.items()) if "vectors" in folder for page in pages]
    return [*studies, {"Published vectors": cards}]


def _study(folder: str) -> str:
    return folder.rpartition("/")[2].replace("_", " ").capitalize()


def _title(page: str) -> str:
    """Return what a page is called in the navigation: its first heading, or the name of its file."""
    if page.startswith("experiments/"):
        return "The study" if page.endswith("README.md") else Path(page).stem.replace("-", " ").capitalize()
    found = re.search(r"^# (.+)$", (ROOT / path_of(page)).read_text(encoding="utf-8"), re.MULTILINE)
    return re.sub(r"[`*]", "", found[1]) if found else Path(page).stem


def _with_nouns(line: str, page: str) -> str:
    """Return a line in which `sk.NOUN` leads to its page; headings stay as they are."""
    if line.startswith("#"):
        return line
    files = reference.page_names()

    def link(found: re.Match[str]) -> str:
        file = files.get(found[1])
        return (
            f"[{found[0]}]({posixpath.relpath(file, posixpath.dirname(page) or '.')})" if file else found[0]
        )

    return NOUN.sub(link, line)
