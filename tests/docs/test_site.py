"""The site builds without a warning, has a page for every public noun, and asks nothing of another machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import steerkit
from docs.generate import pictures, reference, shared, tables

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LOADED = re.compile(r'<(?:script|img|source|iframe)[^>]*\ssrc="([^"]+)"|<link[^>]*\shref="([^"]+)"[^>]*>')
HREF = re.compile(r'<a\s[^>]*?href="([^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built strictly."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    told = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=told)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.slow
def test_every_public_noun_has_a_page(site: Path) -> None:
    files = reference.page_names()
    assert set(files) == set(steerkit.__all__) - {"__version__"}
    for name, file in files.items():
        page = (site / file).with_suffix(".html").read_text(encoding="utf-8")
        assert re.search(rf"<h1[^>]*>.*\b{name}\b", page, re.DOTALL), file
    assert len({file.lower() for file in files.values()}) == len(files)


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for found in LOADED.finditer(page.read_text(encoding="utf-8")):
            target = found[1] or found[2]
            assert not re.match(r"(?:https?:)?//", target), f"{page.name}: {target}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
def test_every_link_within_the_site_leads_somewhere(site: Path) -> None:
    missing = set()
    for page in site.rglob("*.html"):
        for found in HREF.finditer(page.read_text(encoding="utf-8")):
            target = unquote(urldefrag(found[1])[0])
            if target and page.name != "404.html" and not re.match(r"[a-z]+:|/", target):
                there = (page.parent / target).resolve()
                if not (there.is_file() or (there / "index.html").is_file()):
                    missing.add((page.relative_to(site).as_posix(), target))
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_holds_on_a_code_host(page: Path) -> None:
    def check(lines: list[str]) -> list[str]:
        for found in shared.TARGET.finditer("\n".join(lines)):
            target = found[1].partition("#")[0]
            if target and not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), target
        return lines

    shared.outside_code(page.read_text(encoding="utf-8"), check)


@pytest.mark.parametrize(
    ("page", "written", "needed"),
    [
        ("gates.md", "a [gate](../experiments/gate_fit/) b", "a [gate](experiments/gate_fit/README.md) b"),
        ("gates.md", "[x](../tests/plugins/) [y](sites.md#heads)", "x [y](sites.md#heads)"),
        ("gates.md", "```\n[x](nowhere)\n```\n", "```\n[x](nowhere)\n```\n"),
        ("gates.md", "so:\n- one\n- two", "so:\n\n- one\n- two"),
        (
            "experiments/brevity/README.md",
            "[card](../../vectors/README.md)",
            "[card](../../vectors/README.md)",
        ),
        ("ARCHITECTURE.md", "[how to](docs/how-to/)", "[how to](how-to/README.md)"),
    ],
)
def test_links_lead_to_pages_or_become_their_words(page: str, written: str, needed: str) -> None:
    assert shared.for_site(written, page) == needed


def test_a_table_is_taken_from_its_file() -> None:
    place = "experiments/choose_then_report/results.md | ## brevity | ### On `report`, measured once"
    assert tables.table(place)[0].startswith("| cell | items | accuracy")
    assert len(tables.table(f"{place} where unsteered; own pairs, layer 12, strength 2")) == 4
    with pytest.raises(ValueError, match="no heading"):
        tables.table("experiments/choose_then_report/results.md | ## nothing")


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_is_what_its_script_draws(name: str) -> None:
    assert (pictures.FOLDER / f"{name}.svg").read_text(encoding="utf-8") == pictures.PICTURES[name]()
