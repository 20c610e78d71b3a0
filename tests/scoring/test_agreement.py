from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, precision_score, recall_score

from steerkit.scoring.agreement import agreement

verdicts = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


@given(verdicts)
def test_rates_are_those_of_scikit_learn(pairs):
    first, second = zip(*pairs, strict=True)
    found = agreement(pairs)
    assert found.n == len(pairs)
    assert found.raw == pytest.approx(accuracy_score(second, first))
    if found.kappa is not None:
        assert found.kappa == pytest.approx(cohen_kappa_score(first, second))
    if found.precision is not None:
        assert found.precision == pytest.approx(precision_score(second, first))
    if found.recall is not None:
        assert found.recall == pytest.approx(recall_score(second, first))


def test_a_rate_that_means_nothing_is_none():
    same = agreement([(True, True)] * 3)
    assert (same.raw, same.kappa) == (1.0, None)
    assert agreement([(False, False)]).precision is agreement([(False, False)]).recall is None
    assert agreement([]).raw is agreement([]).kappa is None


def test_a_pair_without_both_verdicts_is_left_out():
    assert agreement([(True, None), (None, False), (True, False)]).summary() == {
        "n": 1, "raw": 0.0, "kappa": 0.0, "both": 0, "first_only": 1, "second_only": 0, "neither": 0
    }  # fmt: skip
