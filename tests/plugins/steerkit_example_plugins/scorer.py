"""A scorer with two metrics: they stand in the table, the CSV, the plots, the page and `--choose` by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import steerkit as sk

if TYPE_CHECKING:
    from steerkit import Completion, SuiteItem

METRICS = [
    sk.Metric("capitals", "share of capital letters", "lower", "capitals", show="main"),
    sk.Metric("exclamations", "exclamation marks", "higher", "!", unit="number"),
]
QUESTION = sk.Question(
    name="shouting",
    title="How loud",
    y="exclamations",
    x="capitals",
    metrics=("capitals", "exclamations"),
    objective="exclamations",
    bounds={"capitals_rise": 0.2},
    rule="the most exclamation marks with at most 0.20 more capital letters than unsteered",
)


@sk.scorer("shouting", metrics=METRICS, questions=[QUESTION])
def shouting(_item: SuiteItem, completion: Completion) -> Mapping[str, float]:
    """How loud a completion is."""
    text = completion.text
    return {
        "capitals": sum(map(str.isupper, text)) / max(1, len(text)),
        "exclamations": text.count("!"),
    }
