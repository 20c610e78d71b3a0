from __future__ import annotations

import pytest

from steerkit.core.errors import MisuseError
from steerkit.engines.base import Completion, Request
from steerkit.runs.record import Record
from steerkit.scoring.answers import is_correct
from steerkit.scoring.instructions import follows, instruction_scores
from steerkit.scoring.metrics import metrics
from steerkit.scoring.score import score_completion
from steerkit.suites.constraints import SENTENCES, Constraint, question_and_constraints, with_constraints
from steerkit.suites.instructions import generate
from steerkit.suites.items import SuiteItem
from tests.sweeps.rows import scored


@pytest.mark.parametrize(
    ("constraint", "followed", "broken"),
    [
        (Constraint("at-most-words", "4"), "It is 7 apples.", "It is just 7 apples."),
        (Constraint("at-least-words", "4"), "It is 7 apples.", "It's 7 apples."),
        (Constraint("lower-case"), "it is 7 — ça va.", "it is Seven."),
        (Constraint("upper-case"), "IT IS 7.", "IT IS seven."),
        (Constraint("no-commas"), "It is 7.", "So, it is 7."),
        (Constraint("include-word", "indeed"), "Indeed: 7", "Indeedy: 7"),
        (Constraint("avoid-word", "total"), "It totals 7", "The Total is 7"),
        (
            Constraint("bullets", "2"),
            "Steps:\n- 3 and 4\n  - make 7\nDone - 7",
            "- 3 and 4\n- make 7\n- done",
        ),
        (Constraint("json"), ' {"answer": 7}\n', "[7]"),
        (Constraint("json"), '```json\n{"answer": 7}\n```', 'Here: {"answer": 7}'),
        (Constraint("begins-with", "Let me see."), "  let me\nsee. 7", "Well, let me see. 7"),
        (Constraint("ends-with", "That is all."), "7. That is  all.\n", "That is all. 7"),
        (Constraint("quoted"), '"It is 7."', '"It is" 7.'),
        (Constraint("quoted"), "“It is 7.”", '"'),
        (Constraint("repeat"), "Who has 3,\nand who 4? Ada has 7.", "Who has 3 and who 4? Ada has 7."),
    ],
)
def test_a_constraint_tells_replies_apart(constraint: Constraint, followed: str, broken: str) -> None:
    assert follows(followed, constraint, "Who has 3, and who 4?")
    assert not follows(broken, constraint, "Who has 3, and who 4?")


@pytest.mark.parametrize("reply", ["", "  \n", "...", '""'])
def test_a_reply_that_says_nothing_follows_nothing(reply: str) -> None:
    values = {"at-most-words": "9", "at-least-words": "0", "bullets": "0", "avoid-word": "x"}
    for kind in SENTENCES:
        if kind not in ("include-word", "begins-with", "ends-with"):
            assert not follows(reply, Constraint(kind, values.get(kind, "")), "")


def test_hard_is_all_and_soft_the_share() -> None:
    prompt = with_constraints(
        "3 + 4?", [Constraint("lower-case"), Constraint("no-commas"), Constraint("at-most-words", "2")]
    )
    assert instruction_scores(prompt, "7 exactly") == {"instructions_hard": True, "instructions_soft": 1.0}
    assert instruction_scores(prompt, "It is 7") == {
        "instructions_hard": False,
        "instructions_soft": pytest.approx(1 / 3),
    }
    assert instruction_scores("3 + 4?", "It is 7") == {}


def test_a_constraint_that_nobody_can_check_is_an_error() -> None:
    with pytest.raises(MisuseError, match="no constraint that can be checked"):
        instruction_scores(with_constraints("3 + 4?", []) + "\n- Be nice.", "7")


def test_following_has_a_price_in_accuracy_beside_the_plain_twin() -> None:
    plain = SuiteItem("a", "3 + 4?", False, ("7",), "number", twin="r")
    prompt = with_constraints("3 + 4?", [Constraint("lower-case")])
    ruled = SuiteItem("r", prompt, False, ("7",), "number", twin="a")
    known = metrics(["instructions"])

    def record(item: SuiteItem, text: str) -> Record:
        completion = Completion(Request(item.prompt), text, (1, 2), "stop", 1)
        return scored("c", item.id, **score_completion(item, completion, ["instructions", "answers"]))

    price, accuracy = known["constrained_minus_plain"].compare, known["constrained_accuracy"]
    assert price is not None
    for reply, right in (("it is 7", 1), ("it is 9", 0)):
        first, second = record(plain, "It is 7."), record(ruled, reply)
        assert price(first, second) == price(second, first) == right - 1
        assert (accuracy.of(first), accuracy.of(second)) == (None, bool(right))
    assert price(first, first) is price(second, second) is None


def test_thinking_that_never_closed_follows_nothing() -> None:
    item = SuiteItem("r", with_constraints("3 + 4?", [Constraint("no-commas")]))
    thinking = Completion(Request(item.prompt), "<think>So 7", (1, 2), "length", 1, thinking_tokens=2)
    assert score_completion(item, thinking, ["instructions"])["instructions_hard"] is False


def a_model_reply(question: str, constraints: tuple[Constraint, ...], answer: str) -> str:
    """A right reply that follows the constraints, put together from them."""
    value = {constraint.kind: constraint.value for constraint in constraints}
    words = ["it", "is", answer]
    if "include-word" in value:
        words.insert(0, value["include-word"])
    if "json" in value:
        text = '{"' + " ".join(words[:-1]) + '": ' + answer + "}"
    else:
        padding = ["well"] * max(0, int(value.get("at-least-words", 0)) - len(words))
        text = " ".join([*padding, *words]) + "."
        lines = [f"- {text}"] + ["- yes"] * (int(value["bullets"]) - 1) if "bullets" in value else [text]
        if "begins-with" in value:
            lines.insert(0, value["begins-with"])
        if "repeat" in value:
            lines.insert(0, question)
        lines[-1] += " " + value["ends-with"] if "ends-with" in value else ""
        text = "\n".join(lines)
        if "bullets" in value:  # the answer last, so that it is the number found
            text = text.replace("- yes", f"- so {answer}")
        if "quoted" in value:
            text = f'"{text}"'
    return text.lower() if "lower-case" in value else text.upper() if "upper-case" in value else text


def test_every_item_of_the_suite_can_be_answered_rightly_within_its_constraints() -> None:
    seen: set[str] = set()
    for item in generate():
        question, constraints = question_and_constraints(item.prompt)
        assert item.answers is not None
        reply = a_model_reply(question, constraints, item.answers[0])
        if constraints:
            assert instruction_scores(item.prompt, reply)["instructions_hard"], (item.prompt, reply)
            seen |= {constraint.kind for constraint in constraints}
        assert is_correct(reply, item.answers, item.kind), reply
    assert seen == set(SENTENCES)
