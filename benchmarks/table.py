"""The table of results as Markdown; targets and verdicts are computed from the rows, never typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.rows import Part, Row

HEADER = "| what | median | middle half | turns | target | verdict | how |\n|---|---:|---:|---:|---:|---|---|"


def as_markdown(parts: Mapping[str, Part]) -> str:
    """A heading, the environment and a table for each part."""
    return "\n\n".join(_part(name, part) for name, part in parts.items())


def _part(name: str, part: Part) -> str:
    return "\n".join([f"### {name}", "", _environment(part), "", HEADER, *map(_line, part.rows)])


def _environment(part: Part) -> str:
    env = part.environment
    versions = ", ".join(f"{package} {version}" for package, version in env["versions"].items())
    small = " **A quick run: sizes too small to say anything about speed.**" if env["quick"] else ""
    return (
        f"{env['machine']}; {env['device']}, {env['threads']} threads; {env['model']}, {env['dtype']}; {versions}; "
        f"load average at the start {env['load']:.1f}.{small}"
    )


def _line(row: Row) -> str:
    target = (
        ""
        if row.target is None
        else f"{'≤' if row.target.kind == 'at most' else '≥'} {_number(row.target.bound)}"
    )
    turns = "" if row.turns is None else str(row.turns)
    cells = (row.what, *_values(row), turns, target, row.verdict, row.note)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _values(row: Row) -> Iterator[str]:
    if row.value is None:
        yield from ("–", "")
        return
    yield f"{_number(row.value)}{row.unit}"
    yield "" if row.low is None or row.high is None else f"{_number(row.low)} to {_number(row.high)}"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
