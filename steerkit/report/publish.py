"""Publishing a vector on the Hugging Face hub: the card, and the one commit that carries card and file."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from steerkit.analysis.run import Run
from steerkit.analysis.summary import Row, measured_metrics
from steerkit.core.errors import MisuseError
from steerkit.core.files import read_text
from steerkit.interventions.hub import CARD, FILE, KEY, HubName, explained, hub_name
from steerkit.interventions.store import recommended_use
from steerkit.interventions.vector import SteeringVector
from steerkit.models.catalogue import BUNDLED
from steerkit.report.card import calibration_text, probe_sentence
from steerkit.report.markdown import change, markdown_table
from steerkit.runs.cells import Cell
from steerkit.scoring.metrics import metrics

TAGS = ("steerkit", "steering-vector", "activation-steering")


def push_to_hub(
    vector: SteeringVector,
    repo: str,
    *,
    run: Run | str | os.PathLike[str] | None = None,
    card: str | os.PathLike[str] | None = None,
    licence: str | None = None,
    private: bool = False,
    message: str | None = None,
) -> str:
    """Publish a vector and its card; see `SteeringVector.push_to_hub`."""
    name = hub_name(repo)
    if name is None or name.revision is not None:
        raise MisuseError(f"a vector goes to owner/name on the hub, got {repo!r}")
    if run is not None and card is not None:
        raise MisuseError("a card is made of a run's numbers, or given: leave run or card out")
    measured = Run(run) if isinstance(run, str | os.PathLike) else run
    body = vector_page(vector, name, measured) if card is None else read_text(card)
    with tempfile.TemporaryDirectory() as folder:
        file = vector.save(Path(folder) / FILE)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        page = front_matter(vector, digest, licence) + without_front_matter(body)
        commit = _commit(name, {FILE: file.read_bytes(), CARD: page.encode()}, private, message, vector.name)
    return f"{name.repo}@{commit}"


def front_matter(vector: SteeringVector, sha256: str, licence: str | None = None) -> str:
    """Return the YAML that a card begins with: what the hub files it under, and what is checked when it is pulled."""
    entry = {"file": FILE, "sha256": sha256, "fingerprint": vector.metadata.fingerprint}
    data: dict[str, object] = {"library_name": "steerkit", "tags": list(TAGS)}
    if licence:
        data["license"] = licence
    base = (
        BUNDLED[vector.metadata.model].hub_id if vector.metadata.model in BUNDLED else vector.metadata.model
    )
    if hub_name(base) is not None and not os.path.exists(base):
        data["base_model"] = base
    # Values as JSON, which YAML reads too, so that no name can be taken for YAML of its own.
    lines = [f"{key}: {json.dumps(value)}" for key, value in data.items()]
    lines += [f"{KEY}:", *(f"  {key}: {json.dumps(value)}" for key, value in entry.items())]
    return "\n".join(["---", *lines, "---", "", ""])


def without_front_matter(page: str) -> str:
    """Return a card's text without the YAML that it begins with, if it does."""
    if not page.startswith("---\n"):
        return page
    front, closing, body = page[4:].partition("\n---\n")
    return body.lstrip("\n") if closing else front


def vector_page(vector: SteeringVector, name: HubName, run: Run | None) -> str:
    """Return a card's text: how the vector is loaded and used, what was measured of it, what it was made of.

    Raises MisuseError where the run has no cell of the vector's recommended use.
    """
    data, use = vector.metadata, recommended_use(vector)
    pairs = f" of {data.pairs_count} contrast pairs" if data.pairs_count else ""
    facts = {
        "model": f"{data.model}, fingerprint `{data.fingerprint}` (other weights are refused)",
        "method": f"{data.method}{pairs}, aggregation `{data.aggregation}`, site `{data.site}`",
        "recommended use": " ; ".join(f"`{each}`" for each in use) or "none on record",
    }
    if vector.probe is not None:
        facts["gate"] = probe_sentence(vector.probe)
    for layer in sorted({each for one in use for each in getattr(one, "layers", ())}):
        if data.separability is not None:
            facts[f"held-out separability at layer {layer}"] = f"AUROC {data.separability[layer]:.2f}" + (
                ""
                if data.baseline_separability is None
                else f"; words alone {data.baseline_separability:.2f}"
            )
    model = data.model if data.model in BUNDLED else "MODEL"
    steer = name.repo if use else f"{name.repo}@layer={vector.n_layers // 2},strength=1"
    parts = [
        f"# {vector.name}",
        f"A steering vector for {data.model}, to be used with steerkit (the package `steerkit-lm`).",
        f'```python\nimport steerkit as sk\n\nvector = sk.load_vector("{name.repo}")\n```',
        f'```console\n$ steerkit generate --model {model} --steer {steer} "your question"\n```',
        markdown_table(["", ""], list(facts.items())),
        "## Measured effect and price\n\n" + (_measured(vector, run) if run else NOT_MEASURED),
    ]
    if data.calibration:
        parts.append("## Calibration\n\n" + calibration_text(vector))
    return "\n\n".join(parts) + "\n"


NOT_MEASURED = (
    "Nothing was measured of it. What it does, and what it costs in accuracy, length and over-abstention, "
    "is for you to sweep before you rely on it."
)


def _measured(vector: SteeringVector, run: Run) -> str:
    use = recommended_use(vector)
    if not use:
        raise MisuseError(
            f"vector {vector.name!r} has no recommended use whose effect a card could state: give it one with "
            "recommending"
        )
    cell = Cell(use).id
    rows = {row.cell: row for row in run.summary()}
    if cell not in rows:
        raise MisuseError(
            f"{run.path} has no records of the vector's recommended use, {' ; '.join(map(str, use))}"
        )
    protocol = run.protocol
    place = rows[cell].at.place  # which a random control shares with its cell
    controls = [row for row in rows.values() if row.role == "random" and row.at.place == place]
    unsteered = [row for row in rows.values() if row.role == "unsteered"]
    named = [("unsteered", each) for each in unsteered] + [("recommended use", rows[cell])]
    named += [("a random direction of its norm", each) for each in controls]
    split = (
        "; the cell was chosen on these items, so the numbers flatter it"
        if protocol.split == "choose"
        else ""
    )
    return (
        f"Suite {protocol.suite}, split `{protocol.split}`, {rows[cell].n_items} items{split}; {protocol.decoding}. "
        "Levels, and in brackets the change from the unsteered model with its 95% interval (paired bootstrap over "
        "items).\n\n" + _table(named)
    )


def _table(named: Sequence[tuple[str, Row]]) -> str:
    """A metric a line, what was measured of each row beside it."""
    known: Mapping[str, object] = metrics()
    shown = [name for name in measured_metrics([row for _, row in named]) if name in known]
    lines = [[metrics()[name].label, *(change(row, name) for _, row in named)] for name in shown]
    return markdown_table(["", *(heading for heading, _ in named)], lines)


def _commit(
    name: HubName, files: Mapping[str, bytes], private: bool, message: str | None, vector: str
) -> str:
    """Make the repository where there is none, put the files there in one commit, and return its hash."""
    from huggingface_hub import CommitOperationAdd, HfApi  # heavy

    api = HfApi(library_name="steerkit")
    with explained(name.repo):
        api.create_repo(name.repo, private=private, exist_ok=True)
        done = api.create_commit(
            name.repo,
            [CommitOperationAdd(path, contents) for path, contents in files.items()],
            commit_message=message or f"Vector {vector}",
        )
    return str(done.oid)
