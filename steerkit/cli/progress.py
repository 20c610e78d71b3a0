"""The progress bar: how far, how fast, and how long."""

from __future__ import annotations

from rich import progress as parts
from rich.console import Console
from rich.text import Text


class Rate(parts.ProgressColumn):
    """Steps per second."""

    def render(self, task: parts.Task) -> Text:
        """The rate once it is known."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "–/s", style="progress.data.speed")


def progress_bar(console: Console) -> parts.Progress:
    """Return a bar on the console, if that is a terminal."""
    task = parts.TextColumn("{task.description}", markup=False)
    steps = (task, parts.BarColumn(), parts.MofNCompleteColumn(), Rate())
    times = (parts.TimeElapsedColumn(), parts.TextColumn("left"), parts.TimeRemainingColumn())
    return parts.Progress(*steps, *times, console=console, disable=not console.is_terminal)
