from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from steerkit.analysis.limits import by_kind, limits
from steerkit.analysis.outcomes import collect
from steerkit.core.errors import MisuseError
from tests.sweeps.rows import scored

N = 40
READ = np.random.default_rng(0).permutation(N) / N + np.arange(N) % 2 * 0.2
READ = READ / 2


def cell(name: str, abstains: bool, read: bool = False) -> list:
    """`N` questions, every second to be abstained from; two thirds of the answers are right."""
    return [
        scored(
            name,
            f"{'first' if n < N // 2 else 'second'}-{n:02d}",
            n % 2 == 1,
            read=[float(READ[n])] if read else (),
            abstained=abstains,
            correct=None if n % 2 else bool(n % 3) and not abstains,
        )
        for n in range(N)
    ]


@pytest.fixture
def outcomes():
    return collect([*cell("plain", False), *cell("always", True), *cell("gated", True, read=True)])


def test_each_part_is_measured_with_the_other_made_perfect(outcomes) -> None:
    found = limits(outcomes, "plain", ["always"], thresholds=[0.3], budgets=[0.1])
    accuracy = found.unsteered.accuracy.value
    perfect = found.perfect_gate["always"]
    assert (perfect.recall.value, perfect.over_abstention.value) == (1.0, 0.0)
    assert perfect.accuracy.value == accuracy
    fired, wanted = READ >= 0.3, np.arange(N) % 2 == 1
    acting = found.perfect_actuator[0.3]
    assert acting.recall.value == pytest.approx(fired[wanted].mean())
    assert acting.over_abstention.value == pytest.approx(fired[~wanted].mean())
    assert acting.accuracy.value <= accuracy
    best = found.best_threshold[0.1]
    assert best.over_abstention.value <= 0.1
    assert best.recall.value == pytest.approx((READ[wanted] > np.sort(READ[~wanted])[-3]).mean())


def test_without_a_gate_only_the_actuator_is_measured() -> None:
    found = limits(collect([*cell("plain", False), *cell("always", True)]), "plain", ["always"], [0.3])
    assert not found.perfect_actuator
    assert not found.best_threshold
    assert found.perfect_gate["always"].recall.value == 1.0


def test_a_kind_has_the_auroc_of_its_own_questions(outcomes) -> None:
    kinds = [item.split("-")[0] for item in outcomes.items]
    found = by_kind(outcomes, kinds, 0.3)
    assert list(found) == ["first", "second"]
    for name, rows in (("first", slice(0, N // 2)), ("second", slice(N // 2, N))):
        wanted, read = np.arange(N)[rows] % 2 == 1, READ[rows]
        assert found[name].auroc.value == pytest.approx(roc_auc_score(wanted, read))
        assert found[name].auroc.low < found[name].auroc.value < found[name].auroc.high
        assert found[name].opens == pytest.approx(
            ((read[wanted] >= 0.3).mean(), (read[~wanted] >= 0.3).mean())
        )


def test_a_kind_of_one_label_has_no_auroc(outcomes) -> None:
    found = by_kind(outcomes, ["un" if n % 2 else "able" for n in range(N)], 0.3)
    assert found["un"].auroc is None
    assert found["un"].opens[1] is None


def test_two_gates_are_not_taken_for_one() -> None:
    second = [scored("other", "first-01", True, read=[0.9], abstained=True)]
    with pytest.raises(MisuseError, match="several gates"):
        limits(collect([*cell("plain", False), *cell("gated", True, read=True), *second]), "plain", [])
