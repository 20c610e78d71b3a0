from __future__ import annotations

import itertools

import numpy as np
import pytest

from steerkit.analysis.outcomes import collect
from steerkit.core.errors import InputError
from steerkit.runs.record import Record
from steerkit.scoring.metrics import Metric
from tests.sweeps.rows import scored


def record(cell: str, item: str, should_abstain: bool | None = None, sample: int = 0, **changed) -> Record:
    scores = {
        "abstained": False, "correct": None, "thinking_tokens": 0, "tokens": 5,
        "truncated": False, "forced": False, "repetition": 0.0, "degenerate": False,
    }  # fmt: skip
    return scored(cell, item, should_abstain, sample=sample, **(scores | changed))


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
    means = {
        name: np.nanmean(values) for name, values in outcomes.values.items() if np.isfinite(values).any()
    }
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


def test_metrics_whose_scores_are_not_there_are_not_measured():
    outcomes = collect([scored("c", "a", tokens=3)])
    assert {name for name, values in outcomes.values.items() if np.isfinite(values).any()} == {"tokens"}


def test_the_order_of_the_records_does_not_matter():
    records = [record(cell, item, tokens=i) for i, (cell, item) in enumerate(itertools.product("dc", "zaq"))]
    outcomes, turned = collect(records), collect(records[::-1])
    assert outcomes.items == turned.items == ("a", "q", "z")
    assert (outcomes.cells, turned.cells) == (("d", "c"), ("c", "d"))
    assert (
        outcomes.values["tokens"].tolist() == turned.values["tokens"][::-1].tolist() == [[1, 2, 0], [4, 5, 3]]
    )


GAP = Metric(
    "gap", "gap", "lower", compare=lambda first, second: first.scores["right"] - second.scores["right"]
)
OWN = Metric("words", "words", "lower", unit="number", measure=lambda record: len(record.completion.split()))


def test_a_metric_may_be_measured_by_a_function_of_its_own():
    outcomes = collect([scored("c", "a", completion="one two"), scored("c", "b")], {"words": OWN})
    assert outcomes.values["words"].tolist() == [[2.0, 1.0]]


def test_a_metric_of_twins_has_a_value_a_pair_at_the_one_that_can_be_answered():
    def pair(cell: str, group: str, first: int, second: int, sample: int = 0) -> list[Record]:
        return [
            scored(cell, f"{group}-u", True, group=group, sample=sample, right=second),
            scored(cell, f"{group}-a", False, group=group, sample=sample, right=first),
        ]

    pairs = [
        *pair("c", "x", 1, 0),
        *pair("c", "y", 1, 1),
        *pair("c", "x", 1, 1, sample=1),
        *pair("d", "x", 0, 1),
    ]
    for records in (pairs, pairs[::-1]):
        outcomes = collect([*records, scored("c", "alone", right=1)], {"gap": GAP})
        values = dict(zip(outcomes.cells, outcomes.values["gap"], strict=True))
        column = {item: number for number, item in enumerate(outcomes.items)}
        assert [values["c"][column[item]] for item in ("x-a", "y-a")] == [0.5, 0.0]
        assert values["d"][column["x-a"]] == -1.0
        assert np.isfinite(outcomes.values["gap"]).sum() == 3


def test_a_record_that_a_metric_cannot_be_worked_out_from_is_named():
    with pytest.raises(InputError, match="cell 'c' and item 'g-b' lacks what a metric needs"):
        collect([scored("c", "g-a", group="g", right=1), scored("c", "g-b", group="g")], {"gap": GAP})


@pytest.mark.parametrize(
    ("read", "score"),
    [([0.3], 0.3), ([0.3, 0.3], 0.3), ([0.3, None], 0.3), ([0.3, 0.4], None), ([None], None), ([], None)],
)
def test_a_score_to_refuse_by_is_what_the_one_gate_read(read, score):
    found = collect([scored("c", "a", read=read)]).gate.tolist()
    assert found == [pytest.approx(score)] if score is not None else np.isnan(found).all()
