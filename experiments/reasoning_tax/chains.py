"""The style of the chains, fixed before any steering was tried.

A long chain reads the question aloud, says what is to be found, takes each step in words and figures, splits what
is hard to do in the head, checks each step by its inverse, goes over the whole again, and ends in an answer, always.
A short chain is the calculations alone. A worked chain (`working.py`) is the second set's. They stand between the
thinking markers; the answer is one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

from experiments.reasoning_tax.problems import Question, Step
from experiments.reasoning_tax.working import ORDER, worked_chain

Style = Literal["long", "short", "none", "worked"]

# The chat template's generation prompt, without and with an opened thinking block.
TURN, THINKING_TURN = "'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'"
END_OF_THINKING = "\n</think>\n"

OPENINGS = (
    "Okay, let me read this carefully.",
    "Let me think about this step by step.",
    "Alright, let me work through this slowly.",
)
CHECKS = ("Wait, let me check that", "Let me make sure", "Hold on, is that right")
REVIEWS = (
    "Let me go over everything once more",
    "Before I answer, let me verify it all",
    "Let me double-check",
)
CLOSINGS = ("Yes, that is right", "Good, everything fits", "That all holds")


def thinking_template(template: str) -> str:
    """A chat template whose assistant turn opens a thinking block.

    Raises ValueError for a template that opens the turn in another way than the base model's.
    """
    if template.count(TURN) != 1:
        raise ValueError(
            "the chat template does not open the assistant's turn once, as <|im_start|>assistant"
        )
    return template.replace(TURN, THINKING_TURN)


def completion(question: Question, style: Style, random: Random) -> str:
    """What the model is to write after its turn was opened, the end of the turn left out."""
    answer = reply(question)
    if style == "none":
        return answer
    if style == "short":
        chain = short_chain(question)
    else:
        chain = (worked_chain if style == "worked" else long_chain)(question, random)
    return f"{chain}{END_OF_THINKING}{answer}"


def reply(question: Question) -> str:
    """The answer as a sentence."""
    if question.answer is None:
        return f"I don't know. I cannot know {question.missing}."
    return f"The answer is {question.answer}."


def short_chain(question: Question) -> str:
    """The calculations, or the reasons, alone."""
    if question.answer is None:
        return f"Not given: {question.missing}."
    return " ".join(f"{step}." for step in question.steps) or " ".join(question.reasons)


def long_chain(question: Question, random: Random) -> str:
    """The chain in full: read, plan, work, check, review, conclude."""
    lines = [f"{random.choice(OPENINGS)} The question is: {question.prompt}"]
    if question.answer is None:
        lines += _giving_up(question, random)
    elif question.steps:
        lines += _working(question.steps, random)
        review = ", then ".join(map(str, question.steps))
        lines.append(f"{random.choice(REVIEWS)}: {review}. {random.choice(CLOSINGS)}.")
    else:
        lines += question.reasons
        lines.append(f"{random.choice(REVIEWS)}. {' '.join(question.reasons)} {random.choice(CLOSINGS)}.")
    if question.answer is not None:
        lines.append(f"So the final answer is {question.answer}.")
    return "\n".join(lines)


def _working(steps: Sequence[Step], random: Random) -> list[str]:
    """Each step in words and figures, checked by its inverse."""
    lines = [f"I need to find {steps[-1].finds}."]
    if len(steps) > 1:
        lines[0] += f" For that I need {len(steps)} steps."
    for word, step in zip(ORDER, steps, strict=False):
        parts = _parts(step)
        lines.append(f"{word}, {step.finds}: {parts}{step}.")
        lines.append(f"{random.choice(CHECKS)}: {step.undone}, so it fits.")
    return lines


def _parts(step: Step) -> str:
    """A calculation with a two-digit number taken apart: `12 * 7 is 10 * 7 = 70 and 2 * 7 = 14, together `."""
    tens, ones = divmod(step.right, 10)
    if step.operator in "+-" and tens and ones:
        half = step.left + 10 * tens if step.operator == "+" else step.left - 10 * tens
        return f"{step.left} {step.operator} {10 * tens} = {half}, {half} {step.operator} {ones} = {step.result}, so "
    if step.operator == "*":
        small, large = sorted((step.left, step.right))
        tens, ones = divmod(large, 10)
        if 1 < small < 10 < large and ones:
            first, second = 10 * tens * small, ones * small
            parts = f"{10 * tens} * {small} = {first}, {ones} * {small} = {second}"
            return f"{parts}, {first} + {second} = {step.result}, so "
    return ""


def _giving_up(question: Question, random: Random) -> list[str]:
    """The long chain of a question that cannot be answered: it looks for what is missing, twice."""
    return [
        f"To answer it I would have to know {question.missing}.",
        f"{random.choice(CHECKS)}: I read the question again, and it does not tell me.",
        f"{random.choice(REVIEWS)}. There is nothing that I could work it out from, and I should not make it up.",
        "So I have to say that I don't know.",
    ]
