from __future__ import annotations

import numpy as np

from steerkit.analysis.outcomes import METRICS, collect


def record(cell: str, item: str, **changed) -> dict:
    scores = {
        "abstained": False, "correct": None, "thinking_tokens": 0, "tokens": 5,
        "truncated": False, "forced": False, "repetition": 0.0, "degenerate": False,
    }  # fmt: skip
    place = dict.fromkeys(("controls", "decoration", "vector", "layer", "strength", "scope", "operation"))
    base = {
        "cell": cell,
        "role": "steered",
        "steering": cell,
        "item": item,
        "group": item,
        "should_abstain": None,
    }
    own = {name: changed.pop(name) for name in list(changed) if name in ("sample", "group", "should_abstain")}
    return {**place, **base, "sample": 0, **own, "scores": scores | changed}


def test_each_metric_counts_only_the_items_that_it_concerns():
    outcomes = collect(
        [
            record("c", "unknown-1", should_abstain=True, abstained=True),
            record("c", "unknown-2", should_abstain=True),
            record("c", "known-1", should_abstain=False, abstained=True, correct=False),
            record("c", "known-2", should_abstain=False, correct=True),
            record("c", "known-3", should_abstain=False, correct=True),
            record("c", "open", correct=True, tokens=11, truncated=True, perplexity=3.0),
        ]
    )
    means = {name: np.nanmean(values) for name, values in outcomes.values.items()}
    assert means["abstention_recall"] == 1 / 2
    assert means["over_abstention"] == 1 / 3
    assert means["accuracy"] == 3 / 4
    assert means["tokens"] == 6
    assert means["truncated"] == 1 / 6
    assert means["perplexity"] == 3.0
    assert np.isfinite(outcomes.values["perplexity"]).sum() == 1
    assert outcomes.n_items.tolist() == [6]


def test_samples_are_averaged_within_their_item():
    outcomes = collect(
        [
            record("c", "a", sample=0, tokens=2),
            record("c", "a", sample=1, tokens=4),
            record("c", "b", sample=0, tokens=9),
        ]
    )
    assert outcomes.values["tokens"].tolist() == [[3.0, 9.0]]
    assert outcomes.n_items.tolist() == [2]


def test_no_records_are_no_cells():
    outcomes = collect([])
    assert outcomes.cells == ()
    assert all(values.shape == (0, 0) for values in outcomes.values.values())


def test_metric_names_are_their_keys():
    assert all(name == metric.name for name, metric in METRICS.items())
