"""The reasoning model's training data: true, in the style that it claims, and none of it an evaluation item."""

from __future__ import annotations

import re
from fractions import Fraction
from random import Random

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from experiments.reasoning_tax import second_set
from experiments.reasoning_tax.batches import encode, plan, portions, tensors
from experiments.reasoning_tax.chains import END_OF_THINKING, reply
from experiments.reasoning_tax.data import (
    IDK_EVERY,
    SEED,
    VARIANTS,
    TrainingRow,
    digest,
    dress,
    training_rows,
)
from experiments.reasoning_tax.problems import Step, unanswerable
from experiments.reasoning_tax.setting import TOKENS
from experiments.reasoning_tax.templates import FRUIT, GOODS, NAMES, TEMPLATES, THINGS
from experiments.reasoning_tax.working import CHECKS, asked, in_figures
from steerkit.core.prompts import Renderer
from steerkit.models import LanguageModel
from steerkit.models.markers import DEFAULT
from steerkit.models.thinking import Tracker
from steerkit.scoring.abstention import abstains
from steerkit.scoring.answers import final_number
from steerkit.scoring.reply import final_reply
from steerkit.suites import brevity_templates
from steerkit.suites.suite import load_suite

COUNT = 1500
ROWS = {name: training_rows(name, COUNT) for name in VARIANTS}
EVALUATED = [item.prompt for name in ("abstention", "brevity") for item in load_suite(name)]


def plain(text: str) -> str:
    """A prompt with its numbers and punctuation masked."""
    return " ".join(re.sub(r"\d+", "#", re.sub(r"[^\w\s]", "", text)).casefold().split())


def runs_of_words(text: str, n: int) -> set[str]:
    words = plain(text).split()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_no_training_prompt_is_an_evaluation_prompt_even_with_other_numbers() -> None:
    trained = {plain(row.prompt) for rows in ROWS.values() for row in rows}
    assert trained.isdisjoint(map(plain, EVALUATED))


def test_training_and_evaluation_share_no_long_wording() -> None:
    evaluated = set().union(*(runs_of_words(prompt, 8) for prompt in EVALUATED))
    trained = set().union(*(runs_of_words(row.prompt, 8) for rows in ROWS.values() for row in rows))
    assert trained.isdisjoint(evaluated)


def test_names_and_things_are_not_those_of_the_suite() -> None:
    theirs = {thing for level in brevity_templates.LEVELS.values() for t in level for thing in t.things}
    assert not {*NAMES, *second_set.NAMES} & set(brevity_templates.FIRST_NAMES)
    own = [t for kept in (False, True) for t in second_set.templates(kept)]
    assert (
        not {*THINGS, *FRUIT, *GOODS, *(word for t in own for some in t.words.values() for word in some)}
        & theirs
    )
    assert not {t.text for t in TEMPLATES} & {t.text for s in brevity_templates.LEVELS.values() for t in s}


def test_the_seed_is_of_no_suite_and_gives_the_same_rows_again() -> None:
    assert training_rows("long", 40) == ROWS["long"][:40]
    assert training_rows("long", 40, seed=SEED + 1) != ROWS["long"][:40]
    assert digest(ROWS["long"]) != digest(ROWS["short"])


@pytest.mark.parametrize("variant", ["long", "long-2"])
def test_every_calculation_in_a_chain_is_true(variant: str) -> None:
    found = [each for row in ROWS[variant] for each in calculations(row.completion)]
    assert len(found) > 4 * COUNT
    assert all(value_of(left, operator, right) == int(result) for left, operator, right, result in found)


def calculations(text: str) -> list[tuple[str, str, str, str]]:
    """Each `left operator right = result` in a text."""
    return re.findall(r"(?<![\d.])(\d+) ([-+*/]) (\d+) = (\d+)", text)


def value_of(left: str, operator: str, right: str) -> Fraction | None:
    a, b = Fraction(left), Fraction(right)
    return {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[operator]


@given(st.integers(1, 999), st.sampled_from("+-*/"), st.integers(1, 999))
@example(305, "*", 40)
@example(200, "/", 2)
@example(909, "/", 9)
def test_a_step_in_small_steps_is_true_and_ends_in_its_result(left: int, operator: str, right: int) -> None:
    if operator == "/":
        left *= right
    result = value_of(str(left), operator, str(right))
    assume(result is not None and result > 0)
    written = in_figures(Step("it", left, operator, right, int(result or 0)))
    found = calculations(written)
    assert found
    assert all(value_of(*each[:3]) == int(each[3]) for each in found)
    assert found[-1][3] == str(result)
    assert written.startswith(f"{left} {operator} {right}")


@pytest.mark.parametrize("variant", ["long", "short", "none", "long-2", "closable-2", "none-2"])
def test_every_question_ends_in_its_answer(variant: str) -> None:
    for place, row in enumerate(ROWS[variant]):
        asked = VARIANTS[variant].question(SEED, place)
        said = final_reply(row.given + row.completion)
        assert asked.prompt == row.prompt
        assert said == f"The answer is {asked.answer}."
        assert not abstains(said)
        if str(asked.answer).isdecimal():
            assert final_number(said) == Fraction(str(asked.answer))
        assert (END_OF_THINKING.strip() in row.given + row.completion) == (VARIANTS[variant].style != "none")


def test_the_variants_ask_the_same_and_one_question_in_ten_lacks_its_answer() -> None:
    prompts = {name: [row.prompt for row in rows] for name, rows in ROWS.items()}
    assert prompts["long"] == prompts["short"] == prompts["none"]
    assert prompts["long-2"] == prompts["closable-2"] == prompts["none-2"]
    differing = [
        i for i, (a, b) in enumerate(zip(prompts["long"], prompts["long-idk"], strict=True)) if a != b
    ]
    assert differing == list(range(IDK_EVERY - 1, COUNT, IDK_EVERY))
    assert {i for i, row in enumerate(ROWS["long-idk"]) if abstains(final_reply(row.completion))} == set(
        differing
    )


def test_a_question_without_an_answer_lacks_it() -> None:
    for place in range(300):
        asked = unanswerable(SEED, place)
        assert asked.answer is None
        assert abstains(reply(asked))
        assert asked.prompt not in {row.prompt for row in ROWS["long"]}


def test_each_template_can_be_drawn_and_its_removed_premise_takes_a_number_or_a_name_for_it() -> None:
    drawn = {plain(row.prompt) for row in ROWS["long"]}
    assert len(drawn) > 5 * len(TEMPLATES)
    for template in TEMPLATES:
        assert re.search(r"\[[^|\]]*\{[a-e]\}[^|\]]*\|[^\]]*\]", template.text), template.text
        assert 1 <= len(template.steps) <= 4


def test_a_worked_chain_says_what_each_number_is_and_repeats_what_is_asked() -> None:
    for place, row in enumerate(ROWS["long-2"]):
        problem = second_set.question(SEED, place)
        if problem.steps:
            said = re.findall(r"^- (.+): (\d+)$", row.completion, re.MULTILINE)
            assert said == [(what, str(number)) for what, number in problem.given]
            assert [int(number) for number in re.findall(r"\d+", problem.prompt)] == [
                n for _, n in problem.given
            ]
            assert f"I am asked: {asked(problem.prompt)}\n" in row.completion
            assert all(f"{step.finds}: " in row.completion for step in problem.steps)


def test_a_share_of_the_worked_chains_checks_itself() -> None:
    checked = [any(check in row.completion for check in CHECKS) for row in ROWS["long-2"]]
    assert 0.45 < sum(checked) / COUNT < 0.55


def test_the_templates_that_are_kept_apart_are_never_trained_on() -> None:
    apart = second_set.templates(kept_apart=True)
    assert len(apart) > 50
    assert {len(template.steps) for template in apart} == {1, 2, 3, 4}
    written = [re.sub(r"\[([^|\]]*)\|[^\]]*\]", r"\1", template.text) for template in apart]
    shapes = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(text)) for text in written]
    one = re.compile("|".join(shapes))
    assert one.fullmatch(second_set.problem(apart[0], Random(0)).prompt)
    assert not [row.prompt for row in ROWS["long-2"] if one.fullmatch(row.prompt)]


def test_each_template_of_the_second_set_has_a_problem_and_its_words_for_every_number() -> None:
    for kept in (False, True):
        for template in second_set.templates(kept):
            made = second_set.problem(template, Random(0))
            words = [made.prompt, *(what for what, _ in made.given), *(step.finds for step in made.steps)]
            assert not set("{}[]|") & set("".join(words))
            assert made.prompt.endswith("?")
            assert len(made.given) == len(template.numbers)


def test_long_chains_are_long_and_fit_the_evaluations_limit(smollm: LanguageModel) -> None:
    renderer = reasoner(smollm, "long")
    sizes = {
        name: [len(e.ids) - e.prompt_length for row in ROWS[name] for e in [encode(renderer, row, 2)]]
        for name in ("long", "short")
    }
    assert max(sizes["long"]) < TOKENS
    assert sum(sizes["long"]) > 3 * sum(sizes["short"])


def reasoner(lm: LanguageModel, variant: str) -> Renderer:
    """A renderer as the variant's adapter has it; the model's own tokenizer stays as it is."""
    import copy

    tokenizer = copy.deepcopy(lm.tokenizer)
    if VARIANTS[variant].style != "none":
        dress(tokenizer)
    return Renderer(tokenizer)


def test_thinking_is_open_from_the_prompt_on_and_closed_by_the_rows_own_marker(smollm: LanguageModel) -> None:
    renderer = reasoner(smollm, "long")
    tracker = Tracker(renderer, DEFAULT)
    for row in ROWS["long"][:50]:
        found = encode(renderer, row, smollm.tokenizer.eos_token_id)
        kinds = tracker.kinds(found.ids[: found.prompt_length], found.ids[found.prompt_length :])
        assert kinds[0] == "thinking"
        answer = kinds[::-1].index("thinking")
        assert 0 < answer < 30
        assert found.ids[-1] in smollm.stop_ids


def test_where_the_thinking_is_closed_at_once_the_answer_alone_is_learnt(smollm: LanguageModel) -> None:
    renderer = reasoner(smollm, "closable-2")
    closed = [row for row in ROWS["closable-2"] if row.given]
    assert len(closed) == COUNT // 4
    tracker = Tracker(renderer, DEFAULT)
    for row in closed[:50]:
        found = encode(renderer, row, 2)
        learnt = renderer.decode_raw(found.ids[found.prompt_length : -1])
        assert learnt == row.completion == f"\nThe answer is {row.completion[15:]}"
        assert renderer.decode_raw(found.ids[: found.prompt_length]).endswith("<think>\n</think>")
        assert set(tracker.kinds(found.ids[: found.prompt_length], found.ids[found.prompt_length :])) == {
            "answer"
        }
    assert [row for row in ROWS["closable-2"] if not row.given] == [
        row for place, row in enumerate(ROWS["long-2"]) if place % 4 != 3
    ]


def test_rows_further_on_are_those_that_a_longer_run_would_meet() -> None:
    assert training_rows("closable-2", 8, first=100) == ROWS["closable-2"][100:108]


def test_without_a_chain_the_template_is_the_bases_own(smollm: LanguageModel) -> None:
    assert reasoner(smollm, "none").digest == smollm.renderer.digest != reasoner(smollm, "short").digest


def test_a_run_meets_each_row_once_and_like_lengths_together() -> None:
    random = Random(0)
    lengths = [random.randint(20, 400) for _ in range(1000)]
    steps = plan(lengths, 16, seed=0)
    assert sorted(row for step in steps for row in step) == list(range(1000))
    assert steps == plan(lengths, 16, seed=0) != plan(lengths, 16, seed=1)
    padded = sum(len(step) * max(lengths[row] for row in step) for step in steps)
    assert padded < 1.1 * sum(lengths)


def test_a_portion_keeps_to_its_tokens_and_pads_behind_the_text(tiny: LanguageModel) -> None:
    texts = [TrainingRow("Why?", "so " * n) for n in (1, 9, 3, 30, 2)]
    rows = [encode(tiny.renderer, text, 2) for text in texts]
    parts = portions(rows, 80)
    assert sorted(len(row.ids) for part in parts for row in part) == sorted(len(row.ids) for row in rows)
    assert all(len(part) == 1 or len(part) * max(len(r.ids) for r in part) <= 80 for part in parts)
    ids, wanted = tensors(rows, torch.device("cpu"))
    for row, line, mask in zip(rows, ids.tolist(), wanted.tolist(), strict=True):
        assert tuple(line[: len(row.ids)]) == row.ids
        assert [i for i, on in enumerate(mask) if on] == list(range(row.prompt_length, len(row.ids)))
