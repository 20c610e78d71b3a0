"""Tables that a page takes from a file of results when the site is built, so that no number is copied by hand.

    <!-- table: experiments/choose_then_report/results.md | ## abstention | ### On `report`, measured once -->

stands where the first table is to come that follows these headings, each looked for behind the one before. On a
code host nothing is seen of it: a link to the file belongs beside it. `where unsteered; strength 1.25` keeps the rows
that hold one of these texts.
"""

from __future__ import annotations

import re

from docs.generate.shared import ROOT

PLACE = re.compile(r"^<!-- table: (.+?) -->$", re.MULTILINE)


def filled(markdown: str) -> str:
    """Return a page's text with its tables in place. Raises ValueError where one is not found."""
    return PLACE.sub(lambda found: "\n".join(table(found[1])), markdown)


def table(place: str) -> list[str]:
    """Return the lines of the table that `place` names."""
    where, _, kept = place.partition(" where ")
    file, *headings = (part.strip() for part in where.split(" | "))
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    for heading in headings:
        if heading not in lines:
            raise ValueError(f"{file} has no heading {heading!r} there")
        lines = lines[lines.index(heading) + 1 :]
    begin = next((at for at, line in enumerate(lines) if line.startswith("|")), None)
    if begin is None:
        raise ValueError(f"{file} has no table behind {headings}")
    rows = [line for line in lines[begin:]]
    end = next((at for at, line in enumerate(rows) if not line.startswith("|")), len(rows))
    texts = [text.strip() for text in kept.split(";") if text.strip()]
    return [
        row for at, row in enumerate(rows[:end]) if at < 2 or not texts or any(text in row for text in texts)
    ]
