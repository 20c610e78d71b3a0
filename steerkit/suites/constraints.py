"""Constraints for a response that a program can check, and how a prompt states them.

A prompt's constraints stand in its last paragraph, one a line, each in one fixed sentence: so each can be had from the
other, and a record is judged by what its prompt asked for. Checking is `steerkit.scoring.instructions`.

The kinds follow the four groups of MathIF (Fu et al. 2025, arXiv 2505.14810): length, words, format and affix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steerkit.core.errors import MisuseError

HEADING = "Follow these rules in your response:"

SENTENCES = {
    "at-most-words": "Use at most {} words.",
    "at-least-words": "Use at least {} words.",
    "lower-case": "Write in lower case only.",
    "upper-case": "Write in capital letters only.",
    "no-commas": "Use no commas.",
    "include-word": 'Use the word "{}".',
    "avoid-word": 'Do not use the word "{}".',
    "bullets": 'Write exactly {} bullet points, each on a line that begins with "- ".',
    "json": "Write a single JSON object and nothing else.",
    "begins-with": 'Begin with the phrase "{}"',
    "ends-with": 'End with the phrase "{}"',
    "quoted": "Put the whole response in double quotation marks.",
    "repeat": "Repeat the question word for word before you answer it.",
}
NUMBERED = ("at-most-words", "at-least-words", "bullets")
_PATTERNS = {
    kind: re.compile(re.escape(sentence).replace(r"\{\}", "(.+)")) for kind, sentence in SENTENCES.items()
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint. `value` is its word, phrase or number, as the sentence writes it; empty where it has none."""

    kind: str
    value: str = ""

    def __post_init__(self) -> None:
        if self.kind not in SENTENCES:
            raise MisuseError(f"unknown constraint {self.kind!r}: choose from {', '.join(SENTENCES)}")
        if ("{}" in SENTENCES[self.kind]) != bool(self.value):
            raise MisuseError(
                f"constraint {self.kind!r} takes a value if and only if its sentence has room for one"
            )
        if self.kind in NUMBERED and not self.value.isdecimal():
            raise MisuseError(f"constraint {self.kind!r} takes a whole number, got {self.value!r}")

    @property
    def sentence(self) -> str:
        """The constraint as a prompt states it."""
        return SENTENCES[self.kind].format(self.value)


def with_constraints(question: str, constraints: Sequence[Constraint]) -> str:
    """The prompt that asks the question under these constraints."""
    rules = "".join(f"\n- {constraint.sentence}" for constraint in constraints)
    return f"{question}\n\n{HEADING}{rules}"


def question_and_constraints(prompt: str) -> tuple[str, tuple[Constraint, ...]]:
    """What `with_constraints` was given; a prompt that states no constraints is a question without any.

    Raises MisuseError for a line among the constraints that is none of the known sentences.
    """
    question, heading, lines = prompt.rpartition(f"\n\n{HEADING}\n")
    if not heading:
        return prompt, ()
    return question, tuple(_constraint(line) for line in lines.splitlines() if line.strip())


def has_word(text: str, word: str) -> bool:
    """Whether the text has this whole word, in whatever case."""
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def _constraint(line: str) -> Constraint:
    sentence = line.removeprefix("- ").strip()
    for kind, pattern in _PATTERNS.items():
        found = pattern.fullmatch(sentence)
        if found and (kind not in NUMBERED or found[1].isdecimal()):
            return Constraint(kind, "".join(found.groups()))
    raise MisuseError(f"{line!r} is no constraint that can be checked; see steerkit.suites.constraints")
