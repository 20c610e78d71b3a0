"""Execute the tutorials, and keep of their outputs what is the same everywhere.

    python -m docs.generate.notebooks [--check] [NAME …]

Each notebook runs in an empty folder of its own, on the bundled model. Without `--check` it is written back with what
came out: progress bars, timings and paths of the machine left out, pictures as they are.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from docs.generate.shared import ROOT

FOLDER = ROOT / "docs" / "tutorials"
SECONDS = 600  # of one cell: a busy machine is slow
BAR = re.compile(r".+: \d+ of \d+( in |, ).+")  # as `steerkit.core.progress` leaves it
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def tutorials() -> list[Path]:
    """Return the tutorials' files."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path) -> nbformat.NotebookNode:
    """Return the notebook as it comes out when it is run from its first cell to its last.

    Raises nbclient.exceptions.CellExecutionError where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    found = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="tutorial-") as folder:
        client = NotebookClient(
            notebook, timeout=SECONDS, startup_timeout=SECONDS, resources={"metadata": {"path": folder}}
        )
        client.execute(env={**os.environ, "PYTHONPATH": found})
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = _together(
                    [kept for output in cell.outputs if (kept := _kept(output, folder)) is not None]
                )
    return notebook


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write an executed notebook without what would differ the next time."""
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def texts(notebook: nbformat.NotebookNode) -> str:
    """Return all texts of a notebook's outputs, pictures left out."""
    found: list[str] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found.append(output.get("text", ""))
            found += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(found)


def _kept(output: nbformat.NotebookNode, folder: str) -> nbformat.NotebookNode | None:
    """Return an output without what its machine put in; None for a bar of progress and what goes to stderr."""
    if output.output_type == "stream" and output.name == "stderr":
        return None
    data = output.get("data", {})
    if BAR.fullmatch(data.get("text/plain", "")) or any("widget" in kind for kind in data):
        return None
    for kind in [kind for kind in data if kind.startswith("text/")]:
        data[kind] = _anywhere(data[kind], folder)
    if "text" in output:
        output.text = re.sub(r"^.*\r(?!\n)", "", _anywhere(output.text, folder), flags=re.MULTILINE)
    return output


def _anywhere(text: str, folder: str) -> str:
    """Return a text without the paths of the notebook's folder, and with `~` for the home folder."""
    return text.replace(f"{folder}/", "").replace(folder, ".").replace(f"{Path.home()}/", "~/")


def _together(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join what was printed in several pieces: where they are cut is up to the moment."""
    out: list[nbformat.NotebookNode] = []
    for output in outputs:
        if out and output.output_type == out[-1].output_type == "stream" and output.name == out[-1].name:
            out[-1].text += output.text
        else:
            out.append(output)
    return out


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Execute the tutorials.")
    parser.add_argument("names", nargs="*", help="only these, without .ipynb")
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    for path in tutorials():
        if not given.names or path.stem in given.names:
            print(path.relative_to(ROOT), flush=True)
            done = execute(path)
            if not given.check:
                write(done, path)


if __name__ == "__main__":
    main()
