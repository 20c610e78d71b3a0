from __future__ import annotations

import numpy as np
import pytest

from steerkit.analysis.guarantees import certify_cells, parse_guarantee, sequences_of
from steerkit.analysis.outcomes import Outcomes
from steerkit.core.errors import MisuseError
from steerkit.core.learn_then_test import binomial_p_value
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.runs.cells import Cell, RunCell
from tests.sweeps.synthetic import vector

STRENGTHS = (0.5, 1.0, 1.5, 2.0)
POLITE = PromptEdit(instruction="Be polite.")


def cells(layers=(4,), strengths=STRENGTHS) -> dict[str, RunCell]:
    made = [Cell(), *(Cell((vector().at(layer, s),)) for layer in layers for s in strengths)]
    return {cell.id: RunCell.of(cell) for cell in made}


def outcomes(names, values, groups=None, metric="over_abstention") -> Outcomes:
    """Runs of these cells: `values` `[n_cells, n_items]`."""
    n = values.shape[1]
    nothing = np.empty(0)
    return Outcomes(
        cells=tuple(names),
        items=tuple(f"item-{i}" for i in range(n)),
        groups=np.arange(n) if groups is None else groups,
        should_abstain=np.zeros(n),
        cell=nothing.astype(int),
        item=nothing.astype(int),
        sample=nothing.astype(int),
        gate=nothing,
        scores={},
        values={metric: values},
    )


def losing(counts, n=100) -> np.ndarray:
    return np.array([[1.0] * lost + [0.0] * (n - lost) for lost in counts])


@pytest.mark.parametrize(
    "text",
    ["over_abstention<=0.1@95%", " over_abstention <= .1 @ 0.95 ", "over_abstention<=1e-1@95.0%"],
)
def test_a_guarantee_has_one_canonical_form(text):
    assert str(parse_guarantee(text)) == "over_abstention<=0.1@95%"


def test_a_least_share_is_a_most_share_of_what_is_missing():
    guarantee = parse_guarantee("recall>=0.9@99%")
    assert (str(guarantee), guarantee.limit) == ("abstention_recall>=0.9@99%", 0.1)
    levels = np.array([1.0, 0.0, 0.5, np.nan])
    assert guarantee.losses(levels, None).tolist()[:3] == [0, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("over_abstention<=0.1", "write BOUND@CONFIDENCE"),
        ("over_abstention<=0.1@95", "write 95%"),
        ("over_abstention<=0.1@100%", "write 95%"),
        ("over_abstention@95%", "is no bound"),
        ("over_abstention<=0@95%", "strictly between 0 and 1"),
        ("over_abstention<=10@95%", "no share is 10"),
        ("tokens<=30@95%", "tokens is not yes or no"),
        ("repetition<=0.1@95%", "repetition is not yes or no"),
        ("instructions_soft>=0.9@95%", "instructions_soft is not yes or no"),
        ("recall_rise>=0.2@95%", "of a change only the most can be guaranteed"),
        ("recal<=0.2@95%", "no metric 'recal'"),
    ],
)
def test_a_guarantee_that_cannot_be_had_is_refused_by_name(text, message):
    with pytest.raises(MisuseError, match=message):
        parse_guarantee(text)


def test_cells_that_differ_in_strength_alone_are_one_sequence_from_the_smallest():
    made = [Cell(), Cell((POLITE,))]
    made += [Cell((POLITE, vector().at(4, s))) for s in (2.0, 0.5, -1.0, 1.0)]
    made += [Cell((vector().at(6, 1.0),)), Cell((vector().random_control().at(6, 1.0),), "abstain")]
    sequences = sequences_of(map(RunCell.of, made))
    assert [[cell.strength for cell in sequence] for sequence in sequences] == [
        [None], [0.5, 1.0, 2.0], [-1.0], [1.0]
    ]  # fmt: skip


def test_cells_are_certified_up_to_the_first_that_fails():
    found = cells()
    measured = outcomes(found, losing([1, 2, 4, 12, 3]))
    held = certify_cells(measured, found, "over_abstention<=0.1@95%")
    (sequence,) = held.sequences
    assert [each.losses for each in sequence] == [2, 4, 12, 3]
    assert [each.certified for each in sequence] == [True, True, False, False]
    assert sequence[1].p_value == pytest.approx(float(binomial_p_value(4, 100, 0.1)))
    bound = held.bound_of(held.certified[1], "boats / choose")
    assert (bound.losses, bound.n, bound.level, bound.sequences) == (4, 100, pytest.approx(0.05), 1)
    assert "boats / choose" in bound.assumption
    assert str(bound).startswith("over_abstention<=0.1@95%: 4 of 100 groups lost")


def test_several_sequences_share_the_level():
    found = cells(layers=(2, 4, 6), strengths=(1.0,))
    held = certify_cells(outcomes(found, losing([0, 4, 3, 9])), found, "over_abstention<=0.1@95%")
    assert held.level == pytest.approx(0.05 / 3)
    # 4 of 100 would do for one sequence (p = 0.024), and is too many for one of three.
    assert [each[0].certified for each in held.sequences] == [False, True, False]


def test_twins_count_once_and_lose_together():
    found = cells(strengths=(1.0,))
    groups = np.repeat(np.arange(50), 2)
    values = np.zeros((2, 100))
    values[1, [0, 1, 2]] = 1.0  # both of one group, and one of another
    values[:, 99] = np.nan
    held = certify_cells(outcomes(found, values, groups), found, "over_abstention<=0.1@90%")
    (test,) = held.sequences[0]
    assert (test.losses, test.n) == (2, 50)


def test_a_rise_counts_what_is_worse_than_unsteered_and_nothing_gained():
    found = cells(strengths=(1.0,))
    values = np.array([[1.0, 1.0, 0.0, 0.5, np.nan], [0.0, 1.0, 1.0, 1.0, 1.0]])
    (test,) = certify_cells(outcomes(found, values), found, "over_abstention_rise<=0.5@60%").sequences[0]
    assert (test.losses, test.n) == (2, 4)
    drop = "accuracy_drop<=0.5@60%"
    (test,) = certify_cells(outcomes(found, values, metric="accuracy"), found, drop).sequences[0]
    assert (test.losses, test.n) == (1, 4)


def test_what_was_not_measured_or_is_no_share_is_refused():
    found = cells(strengths=(1.0,))
    with pytest.raises(MisuseError, match="does not measure accuracy"):
        certify_cells(outcomes(found, losing([0, 0])), found, "accuracy>=0.5@90%")
    with pytest.raises(MisuseError, match="no shares"):
        certify_cells(outcomes(found, 2 * losing([1, 1])), found, "over_abstention<=0.5@90%")
    steered = {name: cell for name, cell in found.items() if cell.role == "steered"}
    with pytest.raises(MisuseError, match="needs the unsteered model"):
        certify_cells(outcomes(found, losing([1, 1])), steered, "over_abstention_rise<=0.5@90%")


def test_a_cell_without_records_is_not_certified():
    found = cells(strengths=(1.0, 2.0))
    measured = outcomes(list(found)[:2], losing([0, 0]))
    assert certify_cells(measured, found, "over_abstention<=0.1@95%").certified == [list(found)[1]]


def test_fewer_groups_than_the_bound_takes_are_refused_with_their_number():
    found = cells(strengths=(1.0,))
    with pytest.raises(MisuseError, match=r"28 groups cannot bound .* at least 29"):
        certify_cells(outcomes(found, losing([0, 0], 28)), found, "over_abstention<=0.1@95%")


def test_the_chosen_cell_breaks_its_guarantee_no_more_often_than_it_says():
    # Layers × strengths whose risks are known; the best of the certified is taken: the one with the largest risk.
    rng, layers, n = np.random.default_rng(0), (2, 4, 6), 200
    found = cells(layers)
    risks = np.array([0.0, *(0.02 + 0.1 * s * (1 + layer / 10) / 2.0 for layer in layers for s in STRENGTHS)])
    ids, broken, chosen = list(found), 0, 0
    for _ in range(400):
        values = (rng.random((len(ids), n)) < risks[:, None]).astype(float)
        held = certify_cells(outcomes(found, values), found, "over_abstention<=0.1@90%").certified
        worst = max((risks[ids.index(name)] for name in held), default=0.0)
        broken, chosen = broken + (worst > 0.1), chosen + bool(held)
    assert broken / 400 <= 0.1
    assert chosen > 300
