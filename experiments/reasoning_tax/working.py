"""The style of the second set's chains, fixed before a model was trained on them.

A chain says what each number of the problem is, repeats what is asked, and takes each step in words, in figures, and
where a step is hard to do in the head in figures of one place at a time. Half of the chains check each step by its
inverse before they end in the answer, always: that is the half that a shorter chain can do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from experiments.reasoning_tax.problems import Question, Step

CHECKED = 0.5  # the share of chains that check themselves
TABLE = 12  # products of two numbers up to here, and their inverses, are known by heart

ORDER = ("First", "Next", "Then", "After that")
OPENINGS = (
    "Okay, let me write down what I am told.",
    "Let me think about this step by step. What do I know?",
    "Alright, first I collect what the problem says.",
)
CHECKS = ("Wait, let me check that.", "Let me make sure that this is right.", "Before I answer, I check it.")
CLOSINGS = ("Yes, that is right.", "Good, everything fits.", "That all holds.")
JOINED = {"+": "{} and {} together", "-": "{} less {}", "*": "{} times {}", "/": "{} divided by {}"}


def worked_chain(question: Question, random: Random) -> str:
    """The chain in full: what is known, what is asked, the work, in half of them a check, and the answer."""
    lines = [random.choice(OPENINGS)]
    checked = random.random() < CHECKED
    if question.steps:
        lines += [f"- {what}: {number}" for what, number in question.given]
        lines.append(f"I am asked: {asked(question.prompt)}")
        lines += [
            f"{word}, {_in_words(step)}. {in_figures(step)}"
            for word, step in zip(ORDER, question.steps, strict=False)
        ]
        if checked:
            lines.append(f"{random.choice(CHECKS)} {_check(question.steps)} {random.choice(CLOSINGS)}")
    else:
        lines += [f"I am asked: {question.prompt}", *question.reasons]
        if checked:
            lines.append(f"{random.choice(CHECKS)} {' '.join(question.reasons)} {random.choice(CLOSINGS)}")
    return "\n".join([*lines, f"So the final answer is {question.answer}."])


def asked(prompt: str) -> str:
    """A problem's last sentence, which is its question."""
    starts = [place + 2 for mark in ".!?" for place in _places(prompt, f"{mark} ")]
    return prompt[max(starts, default=0) :]


def _places(text: str, part: str) -> list[int]:
    return [place for place in range(len(text)) if text.startswith(part, place)]


def _in_words(step: Step) -> str:
    """What is found and from what: `unused beds: beds in all the huts less beds used tonight`."""
    return f"{step.finds}: {JOINED[step.operator].format(*step.of)}"


def in_figures(step: Step) -> str:
    """The calculation, `6 * 4 = 24.`, or in parts that end in its result, `47 + 38: 47 + 30 = 77, 77 + 8 = 85.`"""
    parts = _parts(step)
    if not parts:
        return f"{step}."
    return f"{step.left} {step.operator} {step.right}: {', '.join(parts)}."


def _parts(step: Step) -> list[str]:
    """The calculation one place at a time, where it is not known by heart."""
    if step.operator in "+-":
        return _by_places(step)
    if step.operator == "*":
        return _product(step.left, step.right)
    return _quotient(step.left, step.right)


def _by_places(step: Step) -> list[str]:
    """A sum or difference, taking the right number apart: 47 + 38 is 47 + 30 = 77, 77 + 8 = 85."""
    places = _split(step.right)
    if len(places) < 2:
        return []
    so_far, parts = step.left, []
    for place in places:
        after = so_far + place if step.operator == "+" else so_far - place
        parts.append(f"{so_far} {step.operator} {place} = {after}")
        so_far = after
    return parts


def _product(left: int, right: int) -> list[str]:
    """A product, taking one number apart: 7 * 36 is 7 * 30 = 210, 7 * 6 = 42, 210 + 42 = 252."""
    small, large = sorted((left, right))
    if large <= TABLE:
        return []
    whole, split = (large, small) if small > TABLE else (small, large)
    places = _split(split)
    if len(places) < 2:
        return []
    parts = [f"{whole} * {place} = {whole * place}" for place in places]
    so_far = whole * places[0]
    for place in places[1:]:
        parts.append(f"{so_far} + {whole * place} = {so_far + whole * place}")
        so_far += whole * place
    return parts


def _quotient(left: int, right: int) -> list[str]:
    """A quotient, place by place: 96 / 4 is 4 * 20 = 80, 96 - 80 = 16, 4 * 4 = 16, 20 + 4 = 24."""
    places = _split(left // right)
    if left // right <= TABLE or len(places) < 2:
        return []
    rest, so_far, parts = left, 0, []
    for place in places:
        parts.append(f"{right} * {place} = {right * place}")
        if so_far:
            parts.append(f"{so_far} + {place} = {so_far + place}")
        so_far += place
        if rest - right * place:
            parts.append(f"{rest} - {right * place} = {rest - right * place}")
        rest -= right * place
    return parts


def _split(number: int) -> list[int]:
    """The number by places, the zeros left out: 305 is 300 and 5."""
    digits = str(number)
    return [
        int(digit) * 10 ** (len(digits) - place - 1) for place, digit in enumerate(digits) if digit != "0"
    ]


def _check(steps: Sequence[Step]) -> str:
    """Each step undone, the last one first."""
    return ", and ".join(step.undone for step in reversed(steps)) + "."
