"""Records, cells and rows of a summary, written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import Estimate
from steerkit.engines.base import GateReading
from steerkit.runs.cells import RunCell
from steerkit.runs.record import Record

Form = dict[str, Any]


def steering(
    vector: str = "v", layers: tuple[int, ...] = (1,), strength: float = 1.0, **changed: Any
) -> Form:
    """The JSON form of a steering."""
    fields = {
        "operation": "add",
        "scope": "completion",
        "target": None,
        "half_life": None,
        "positions": "every",
    }
    reference = {"name": vector, "sha256": "00" * 32}
    where = {"kind": "steering", "vector": reference, "layers": list(layers), "strength": strength}
    return {**where, **fields, "gate": None, **changed}


def edit(name: str = "idk", gate: Form | None = None) -> Form:
    """The JSON form of a prompt edit."""
    return {
        "kind": "prompt",
        "name": name,
        "system": "Be sure.",
        "instruction": None,
        "begin": None,
        "gate": gate,
    }


def rule(gate: Form | None = None, **settings: Any) -> Form:
    """The JSON form of an opener bias."""
    settings = {"openers": ["I don't know"], "bias": 4.0, "name": "", **settings}
    return {"kind": "rule", "rule": "opener-bias", **settings, "gate": gate}


def gate(name: str = "p", threshold: float = 0.5) -> Form:
    """The JSON form of a probe gate."""
    return {"kind": "probe", "probe": {"name": name, "sha256": "11" * 32}, "layer": 6, "threshold": threshold}


def cell(name: str, *forms: Form, controls: str | None = None) -> RunCell:
    """A cell of that id with these interventions."""
    return RunCell(name, controls, forms, [f"spec of {name}"] if forms else [])


def row(
    name: str,
    role: str = "steered",
    changes: dict[str, float] | None = None,
    at: RunCell | None = None,
    **levels: float,
) -> Row:
    """A cell of that name by its metrics, and by their changes from the unsteered model."""

    def estimates(values: dict[str, float]) -> dict[str, Estimate]:
        return {metric: Estimate(value, value, value, 10) for metric, value in values.items()}

    if at is None:
        forms = [] if role == "unsteered" else [steering(name)]
        at = cell(name, *forms, controls="v" if role == "random" else None)
    return Row(at, 10, estimates(levels), estimates(changes or {}))


def scored(
    cell: str,
    item: str,
    should_abstain: bool | None = None,
    *,
    sample: int = 0,
    group: str | None = None,
    read: Sequence[float | None] = (),
    completion: str = "So.",
    **scores: Any,
) -> Record:
    """A record with these scores, whose gates read these probabilities."""
    gates = tuple(GateReading(i, "g", p, p is not None and p >= 0.5) for i, p in enumerate(read))
    about = (cell, item, sample, "choose", group or item, should_abstain, None, "text")
    return Record(*about, f"What of {item}?", completion, scores.get("tokens", 5), "stop", scores, gates)
