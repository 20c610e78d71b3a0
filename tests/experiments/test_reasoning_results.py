"""The reasoning study's tables and estimates, on records made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

import steerkit as sk
from experiments.reasoning_tax.before import targets
from experiments.reasoning_tax.recovery import recovery
from experiments.reasoning_tax.results import (
    compared,
    number,
    share_recovered,
    side_by_side,
    table,
)
from experiments.reasoning_tax.worth import section
from steerkit.interventions.probe import ProbeMetadata
from steerkit.runs.cells import Cell
from steerkit.scoring.metrics import metrics
from tests.experiments.sums import abstentions, records
from tests.tiny import random_vector


def test_models_are_compared_item_by_item_with_the_first_one() -> None:
    rows = compared({"z": records(range(10), 8), "a": records(range(5, 20), 4)})
    assert list(rows) == ["z", "a"]
    assert rows["z"].levels["accuracy"].value == pytest.approx(0.5)
    assert rows["a"].changes["accuracy"].value == pytest.approx(0.25)
    assert rows["a"].changes["tokens"].value == rows["a"].changes["tokens"].low == -4
    lines = table(rows).splitlines()
    assert lines[2].startswith("| z | 20 | 0.50 [")
    assert lines[3].startswith("| a | 20 | 0.75 (+0.25 [")


def test_metrics_stand_side_by_side_and_one_that_nobody_has_is_left_out() -> None:
    (record, *_) = records(range(3), 5)
    given = {
        name: [replace(record, scores={"chain_aoc": aoc, "chain_steps": 12.0})]
        for name, aoc in (("base", 0.5), ("long", 0.25))
    }
    labels = {metric.name: metric.label for metric in metrics(["chains"]).values()}
    written = side_by_side(compared(given), labels).splitlines()
    assert written[0] == "| | base | long |"
    assert (
        f"| {labels['chain_aoc']} | 0.50 [0.50, 0.50] | 0.25 (-0.25 [-0.25, -0.25]) |" in written
    )  # one item, no spread
    assert not any(labels["chain_gain"] in line for line in written)
    assert "| steps in a chain | 12.0 [" in "\n".join(written)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.251, "0.25"), (9.99, "9.99"), (214.26, "214.3"), (3e7, "3.0e+07"), (np.inf, "inf")],
)
def test_a_number_has_the_digits_that_it_is_known_to(value: float, shown: str) -> None:
    assert number(value) == shown


def test_the_share_that_comes_back_is_of_what_was_lost() -> None:
    base, long, steered = (abstentions((), range(n)) for n in (12, 2, 7))
    share = share_recovered(base, long, steered)
    assert share is not None
    assert share.value == pytest.approx(0.5)
    assert 0 < share.low < 0.5 < share.high < 1
    assert share.n == 20


def test_more_than_all_may_come_back_and_less_than_nothing() -> None:
    base, long = abstentions((), range(10)), abstentions((), range(5))
    for recalled, expected in ((range(20), 3.0), (range(0), -1.0)):
        share = share_recovered(base, long, abstentions((), recalled))
        assert share is not None
        assert share.value == pytest.approx(expected)


def test_the_share_of_a_loss_that_may_be_none_has_no_bounds() -> None:
    share = share_recovered(abstentions((), range(2)), abstentions((), range(1)), abstentions((), range(2)))
    assert share is not None
    assert (share.low, share.high) == (-np.inf, np.inf)


def test_nothing_comes_back_where_nothing_was_lost() -> None:
    same = abstentions((), range(5))
    assert share_recovered(same, same, abstentions((), range(9))) is None


@pytest.mark.parametrize(
    ("known", "lacking", "right", "said"),
    [
        ((), range(12), range(20), "met"),
        ((0, 1), range(12), range(20), "missed: over-abstention, accuracy"),
        ((), range(3), range(20), "missed: recall"),
        ((), range(12), range(19), "missed: accuracy"),
    ],
)
def test_the_target_is_the_bases_recall_at_little_more_over_abstention_and_the_long_models_accuracy(
    tiny: sk.LanguageModel, known: Sequence[int], lacking: Sequence[int], right: Sequence[int], said: str
) -> None:
    metadata = ProbeMetadata(name="p", model=tiny.name, fingerprint=tiny.fingerprint, layer=1)
    probe = sk.Probe(torch.ones(tiny.n_layers, tiny.d_model), torch.zeros(tiny.n_layers), metadata)
    gate = sk.ProbeGate(probe, 1, 0.5)
    base = abstentions((), range(10), right=range(10))
    long = abstentions((), range(2))
    cell = Cell((random_vector(tiny, name="v").at(1, gate=gate),))
    steered = abstentions(known, lacking, cell, right=right)
    lines = recovery(base, long, {"target: v": steered}, {"target: v": cell}).splitlines()
    assert lines[2].startswith("| before fine-tuning |  | 0.50 [")
    assert lines[3].startswith("| after it |  | 0.10 (-0.40 [")
    assert lines[4].startswith("| target: v | `v@layer=1,strength=1,scope=completion under p ≥ 0.5` |")
    assert lines[4].endswith(f" | {said} |")


def test_the_tax_is_read_on_the_primary_suite_and_the_gain_on_word_problems() -> None:
    lost = compared({"base": abstentions((), range(10)), "long": abstentions((), range(5))})
    kept = compared({"base": abstentions((), range(10)), "long": abstentions((), range(9))})
    gained = compared({"base": records(range(5), 9), "long": records(range(15), 9)})
    said = targets(
        {("selfaware", "as it is"): lost, ("selfaware", "told"): kept, ("brevity", "as it is"): gained},
        "long",
    )
    as_it_is, told, accuracy = (line for line in said.splitlines() if line.startswith("- "))
    assert as_it_is.startswith("- recall on selfaware, as it is: -0.25 [")
    assert as_it_is.endswith("met")
    assert told.endswith("missed")
    assert accuracy.startswith("- accuracy on brevity: +0.50 [")


def test_before_the_long_model_is_there_nothing_is_said_of_the_tax() -> None:
    assert "not measured" in targets({("selfaware", "told"): compared({"base": abstentions((), ())})}, "long")


def test_what_the_chain_is_worth_has_a_table_for_each_question_even_where_nothing_was_found() -> None:
    text = section({"chains": {}, "instructions": {}, "twins": {"base": list(records(range(3), 5))}})
    assert text.count("### ") == 4
    assert text.count("Units measured: none.") == 4
