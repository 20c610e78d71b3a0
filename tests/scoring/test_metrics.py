from __future__ import annotations

from typing import Any

import pytest

from steerkit.core.errors import MisuseError
from steerkit.core.registry import SCORERS
from steerkit.scoring.metrics import Metric, Scorer, in_order, metrics, questions, scorer
from tests.sweeps.rows import scored

ABSTAINED = scored("c", "a", True, abstained=True)
ANSWERABLE = scored("c", "b", False, abstained=True, correct=False)
UNSAID = scored("c", "c", None, abstained=True)


def test_a_metric_is_none_for_whom_it_does_not_concern() -> None:
    known = metrics()
    records = [ABSTAINED, ANSWERABLE, UNSAID]
    assert [known["abstention_recall"].of(record) for record in records] == [True, None, None]
    assert [known["over_abstention"].of(record) for record in records] == [None, True, None]
    assert [known["accuracy"].of(record) for record in records] == [None, False, None]


def test_metrics_are_found_by_their_names_and_say_what_they_are() -> None:
    assert all(name == metric.name for name, metric in metrics().items())
    assert list(metrics(["lengths"])) == ["tokens", "thinking_tokens", "truncated", "forced"]
    assert metrics()["tokens"].header == "tokens"
    assert {name for name, metric in metrics().items() if metric.show == "main"} >= {
        "abstention_recall",
        "over_abstention",
        "accuracy",
        "tokens",
    }


def test_every_question_is_about_metrics_that_there_are() -> None:
    for question in questions():
        assert {question.x, question.y, question.objective, *question.metrics} <= metrics().keys()
    assert [question.name for question in questions(["lengths"])] == ["length"]


def test_a_scorer_is_declared_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCORERS, "_things", dict(SCORERS.items()))

    @scorer("shouting", metrics=[Metric("capitals", "capital letters", "lower")])
    def shouting(_item: Any, completion: Any) -> dict[str, float]:
        """Say how much of it is in capitals."""
        return {"capitals": float(completion.text.isupper())}

    assert isinstance(shouting, Scorer)
    assert shouting.doc == "Say how much of it is in capitals."
    assert metrics()["capitals"] is shouting.metrics[0]
    with pytest.raises(MisuseError, match="there is a scorer 'shouting' already"):
        scorer("shouting", metrics=[])(shouting.function)
    with pytest.raises(MisuseError, match="declares the metric 'capitals', which is another's"):
        metrics([shouting, Scorer("louder", shouting.function, shouting.metrics)])


def test_a_metric_that_a_rule_could_not_name_is_refused() -> None:
    with pytest.raises(MisuseError, match="letters and underscores"):
        Metric("top-1", "top 1", "higher")


def test_twins_are_compared_in_one_order_whatever_the_order_of_the_records() -> None:
    whole, gone, other = (scored("c", *asked) for asked in (("z", False), ("a", True), ("zz", None)))
    assert in_order(gone, whole) == in_order(whole, gone) == (whole, gone)
    assert in_order(other, whole) == (whole, other)
