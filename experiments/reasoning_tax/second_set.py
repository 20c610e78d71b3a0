"""The second set of training questions: more templates, whose numbers and steps say what they are.

The templates stand in `second_set.jsonl`, one JSON object a line:

text      the problem; `[premise|what stands there instead]` marks a premise that the answer needs
numbers   for each slot, in the order of the text, what its number is, then its smallest and its largest value
words     for each further slot what may stand there
steps     what each step finds, and `left operator right` on slots, constants and the results `s1`, `s2`, …

They were written by writers who had not seen the evaluation suites. One template in twelve is never trained on, so that
reading can be told from remembering before an evaluation suite is asked.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from experiments.reasoning_tax.problems import Question, Step, fact, with_premise

FILE = Path(__file__).with_name("second_set.jsonl")
FACT_SHARE = 0.1
STEP_WEIGHTS = {1: 0.2, 2: 0.37, 3: 0.33, 4: 0.1}
LARGEST = 999
KEPT_APART = 12  # one template in so many
_ATTEMPTS = 20_000
_SLOT = re.compile(r"\{(\w+)\}")

PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}
NAMES = {
    "Abel": "he", "Agnes": "she", "Alma": "she", "Anders": "he", "Bianca": "she", "Boris": "he", "Celia": "she",
    "Conrad": "he", "Dora": "she", "Edgar": "he", "Esther": "she", "Felix": "he", "Frida": "she", "Gavin": "he",
    "Hana": "she", "Hector": "he", "Ida": "she", "Igor": "he", "Jakob": "he", "Judith": "she", "Karim": "he",
    "Kira": "she", "Leo": "he", "Lucia": "she", "Martin": "he", "Maya": "she", "Nadia": "she", "Noel": "he",
    "Otto": "he", "Petra": "she", "Quentin": "he", "Rita": "she", "Ruben": "he", "Selma": "she", "Stefan": "he",
    "Tara": "she", "Theo": "he", "Ursula": "she", "Victor": "he", "Wilma": "she", "Yusuf": "he", "Zelda": "she",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of word problem, with what its numbers are and its solution."""

    text: str
    numbers: Mapping[str, tuple[str, int, int]]
    words: Mapping[str, tuple[str, ...]]
    steps: tuple[tuple[str, str], ...]

    @property
    def kept_apart(self) -> bool:
        """Whether it is never trained on."""
        return int(hashlib.sha256(self.text.encode()).hexdigest(), 16) % KEPT_APART == 0


@functools.cache
def templates(kept_apart: bool = False) -> tuple[Template, ...]:
    """The templates that are trained on, or those that are not."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    found = [_template(json.loads(line)) for line in lines]
    return tuple(template for template in found if template.kept_apart == kept_apart)


def question(seed: int, place: int) -> Question:
    """The training question at a place: a word problem, or a small fact."""
    random = Random(f"second-{seed}-{place}")
    if random.random() < FACT_SHARE:
        return fact(random)
    count = random.choices(tuple(STEP_WEIGHTS), tuple(STEP_WEIGHTS.values()))[0]
    return problem(random.choice([t for t in templates() if len(t.steps) == count]), random)


def problem(template: Template, random: Random) -> Question:
    """A word problem of a template. Raises ValueError where no numbers fit it."""
    words = _drawn_words(template, random)
    for _ in range(_ATTEMPTS):
        numbers = {slot: random.randint(low, high) for slot, (_, low, high) in template.numbers.items()}
        results = _results(template, numbers)
        if results is not None:
            break
    else:
        raise ValueError(f"no numbers fit the template {template.text!r}")
    text = with_premise(template.text, "kept").format_map(words | numbers)
    given = {slot: (what.format_map(words), numbers[slot]) for slot, (what, *_) in template.numbers.items()}
    steps = _steps(template, given, results, words)
    return Question(text, str(results[-1]), steps, given=tuple(given.values()))


def _template(line: dict[str, object]) -> Template:
    text, numbers, words, steps = line["text"], line["numbers"], line.get("words", {}), line["steps"]
    assert isinstance(text, str)
    assert isinstance(numbers, dict)
    assert isinstance(words, dict)
    assert isinstance(steps, list)
    order = list(dict.fromkeys(slot for slot in _SLOT.findall(text) if slot in numbers))
    return Template(
        text,
        {slot: tuple(numbers[slot]) for slot in order},
        {slot: tuple(some) for slot, some in words.items()},
        tuple((finds, expression) for finds, expression in steps),
    )


def _drawn_words(template: Template, random: Random) -> dict[str, str]:
    """Names, pronouns and the template's own words; one that another stands for is drawn again."""
    name, friend, third = random.sample(tuple(NAMES), 3)
    they, them, their = PRONOUNS[NAMES[name]]
    words = {"name": name, "friend": friend, "third": third, "they": they, "them": them, "their": their}
    for slot, some in template.words.items():
        words[slot] = random.choice([word for word in some if word not in words.values()])
    return words


def _results(template: Template, numbers: Mapping[str, int]) -> list[int] | None:
    """What each step gives, or None where that is no positive whole number, or the answer stands in the problem."""
    known = dict(numbers)
    results: list[int] = []
    for _, expression in template.steps:
        left, operator, right = _parsed(expression)
        a, b = (known[part] if part in known else int(part) for part in (left, right))
        if operator == "/" and a % b:
            return None
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[operator]
        if not 0 < result <= LARGEST:
            return None
        results.append(result)
        known[f"s{len(results)}"] = result
    return None if results[-1] in numbers.values() else results


def _steps(
    template: Template, given: Mapping[str, tuple[str, int]], results: Sequence[int], words: Mapping[str, str]
) -> tuple[Step, ...]:
    """The steps in words: what each finds, and what its two numbers are; a constant is called by its figures."""
    known = dict(given)
    steps: list[Step] = []
    for (finds, expression), result in zip(template.steps, results, strict=True):
        left, operator, right = _parsed(expression)
        (left_is, a), (right_is, b) = (
            known[part] if part in known else (part, int(part)) for part in (left, right)
        )
        found = finds.format_map(words)
        steps.append(Step(found, a, operator, b, result, (left_is, right_is)))
        known[f"s{len(steps)}"] = (found, result)
    return tuple(steps)


def _parsed(expression: str) -> tuple[str, str, str]:
    left, operator, right = expression.split()
    return left, operator, right
