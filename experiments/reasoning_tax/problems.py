"""Training questions from a seed: word problems with their solutions, small facts, and questions without an answer.

Every question is a function of the seed and its place. Nothing here is shared with an evaluation set: own templates,
own names and things, own seed (tests/experiments holds it to that).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from experiments.reasoning_tax.templates import FRUIT, GOODS, NAMES, TEMPLATES, THINGS, Template

FACT_SHARE = 0.2
LEVEL_WEIGHTS = {1: 0.2, 2: 0.35, 3: 0.3, 4: 0.15}  # by number of steps
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}
_ATTEMPTS = 10_000
_PREMISE = re.compile(r"\[(?P<kept>[^|\]]*)\|(?P<removed>[^\]]*)\]")

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
UNITS = {
    "minutes": ("hours", 60), "seconds": ("minutes", 60), "hours": ("days", 24), "days": ("weeks", 7),
    "months": ("years", 12), "centimeters": ("meters", 100), "grams": ("kilograms", 1000),
    "legs": ("spiders", 8), "wheels": ("tricycles", 3), "eggs": ("dozens", 12),
}  # fmt: skip
WORDS = ("garden", "window", "pencil", "orange", "basket", "silver", "market", "planet", "rocket", "bridge")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
EVENTS = (
    "the mayor's election in {city}", "the regatta of {city}", "the cooking contest of {city}",
    "the lottery of {city}", "the ski race in {city}", "the poetry prize of {city}",
)  # fmt: skip
CITIES = (
    "Lund",
    "Braga",
    "Tampa",
    "Graz",
    "Leeds",
    "Perth",
    "Turku",
    "Halle",
    "Porto",
    "Ghent",
    "Bergen",
    "Quito",
)
PRIVATE = (
    ("What did {name}, who lives next door to me, eat this morning?", "what {name} ate"),
    ("Which number between 1 and {n} do I have in my head?", "the number in your head"),
    ("How many {things} lie in the drawer of my desk?", "what lies in your drawer"),
    ("What is written on the note in my left pocket?", "what the note says"),
    ("At what minute did my uncle {name} fall asleep last night?", "when your uncle fell asleep"),
    ("Which of my {n} {things} did I lose first?", "which of them was lost first"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One calculation, `left operator right = result`, and what it finds; `of` says what the two numbers are."""

    finds: str
    left: int
    operator: str
    right: int
    result: int
    of: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}"

    @property
    def undone(self) -> str:
        """The inverse calculation, `result inverse right = left`."""
        return f"{self.result} {INVERSE[self.operator]} {self.right} = {self.left}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question with what its chain is made of.

    A word problem has `steps`; a fact has `reasons` instead; without an `answer`, `missing` says what is not known.
    `given` are a problem's numbers in the order of its text, each behind what it is; only the second set says so.
    """

    prompt: str
    answer: str | None
    steps: tuple[Step, ...] = ()
    reasons: tuple[str, ...] = ()
    missing: str = ""
    given: tuple[tuple[str, int], ...] = ()


def question(seed: int, place: int) -> Question:
    """The answerable question at a place: a word problem, or a small fact."""
    random = Random(f"train-{seed}-{place}")
    return fact(random) if random.random() < FACT_SHARE else _word_problem(random)[0]


def unanswerable(seed: int, place: int) -> Question:
    """The question without an answer at a place: a missing premise, a future event, or a private matter."""
    random = Random(f"train-unanswerable-{seed}-{place}")
    kind = random.randrange(3)
    if kind == 0:
        return _word_problem(random)[1]
    if kind == 1:
        event = random.choice(EVENTS).format(city=random.choice(CITIES))
        prompt = f"Who will win {event} in {random.randint(2041, 2099)}?"
        return Question(prompt, None, missing="who will win, because it has not happened")
    text, missing = random.choice(PRIVATE)
    words = {"name": random.choice(tuple(NAMES)), "n": random.randint(5, 90), "things": random.choice(THINGS)}
    return Question(text.format_map(words), None, missing=missing.format_map(words))


def _word_problem(random: Random) -> tuple[Question, Question]:
    """A word problem, and the same without a premise."""
    level = random.choices(tuple(LEVEL_WEIGHTS), tuple(LEVEL_WEIGHTS.values()))[0]
    template = random.choice([t for t in TEMPLATES if len(t.steps) == level])
    name, friend = random.sample(tuple(NAMES), 2)
    words = {
        "name": name,
        "friend": friend,
        "they": NAMES[name],
        "things": random.choice(THINGS),
        "fruit": random.choice(FRUIT),
        "goods": random.choice(GOODS),
    }
    for _ in range(_ATTEMPTS):
        numbers = {slot: random.randint(*bounds) for slot, bounds in template.ranges.items()}
        steps = _solve(template, numbers, words)
        if steps is not None:
            break
    else:
        raise ValueError(f"no numbers fit the template {template.text!r}")
    text = template.text.format_map(words | numbers)
    goal = steps[-1].finds
    return (
        Question(with_premise(text, "kept"), str(steps[-1].result), steps),
        Question(with_premise(text, "removed"), None, missing=f"a number that is needed to find {goal}"),
    )


def _solve(template: Template, numbers: dict[str, int], words: dict[str, str]) -> tuple[Step, ...] | None:
    """The steps, or None where one is no positive whole number or the answer stands in the problem."""
    known = dict(numbers)
    steps = []
    for number, (finds, expression) in enumerate(template.steps, start=1):
        left_name, operator, right_name = expression.split()
        left, right = (known.get(part) or int(part) for part in (left_name, right_name))
        if operator == "/" and left % right:
            return None
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[operator]
        if result <= 0:
            return None
        known[f"s{number}"] = result
        steps.append(Step(finds.format_map(words), left, operator, right, result))
    return None if result in numbers.values() else tuple(steps)


def with_premise(text: str, side: str) -> str:
    """The text with the `kept` or the `removed` side of its marked premise."""
    return re.sub(" +", " ", _PREMISE.sub(lambda premise: premise[side], text))


def fact(random: Random) -> Question:
    """A small fact: a day, a month, a unit, a letter, the larger number, or the next one."""
    return random.choice((_later_day, _later_month, _unit, _letter, _larger, _next_number))(random)


def _later_day(random: Random) -> Question:
    return _along(random, DAYS, "What day of the week is {n} days after {start}?", "days")


def _later_month(random: Random) -> Question:
    return _along(random, MONTHS, "Which month comes {n} months after {start}?", "months")


def _along(random: Random, circle: tuple[str, ...], text: str, what: str) -> Question:
    start, n = random.randrange(len(circle)), random.randint(2, 5)
    passed = [circle[(start + i) % len(circle)] for i in range(1, n + 1)]
    counted = ", ".join(f"{i} is {name}" for i, name in enumerate(passed, start=1))
    reasons = (f"I start at {circle[start]} and count {n} {what}.", f"Counting: {counted}.")
    return Question(text.format(n=n, start=circle[start]), passed[-1], reasons=reasons)


def _unit(random: Random) -> Question:
    small = random.choice(tuple(UNITS))
    big, size = UNITS[small]
    n = random.randint(2, 12)
    step = Step(f"the {small} in {n} {big}", n, "*", size, n * size)
    reasons = (f"One of the {big} makes {size} {small}.", f"So {n} of them make {step}.")
    return Question(f"{n} {big} make how many {small}?", str(n * size), reasons=reasons)


def _letter(random: Random) -> Question:
    word, place = random.choice(WORDS), random.randrange(6)
    spelt = ", ".join(f"{ordinal} {letter}" for ordinal, letter in zip(ORDINALS, word, strict=True))
    prompt = f"In the word '{word}', which letter is the {ORDINALS[place]} one?"
    return Question(prompt, word[place], reasons=(f"I spell the word: {spelt}.",))


def _larger(random: Random) -> Question:
    first, second = random.sample(range(11, 999), 2)
    word = random.choice(("larger", "smaller"))
    pick = max(first, second) if word == "larger" else min(first, second)
    gap = abs(first - second)
    reasons = (f"The two numbers are {first} and {second}.", f"They differ by {gap}.")
    return Question(f"Of {first} and {second}, which number is {word}?", str(pick), reasons=reasons)


def _next_number(random: Random) -> Question:
    start, gap = random.randint(1, 30), random.randint(2, 9)
    row = [start + i * gap for i in range(4)]
    reasons = (
        f"From {row[0]} to {row[1]} it is {gap} more, and so on.",
        f"{row[3]} + {gap} = {row[3] + gap}.",
    )
    prompt = f"A row of numbers goes {', '.join(map(str, row))}. What is the next number in the row?"
    return Question(prompt, str(row[3] + gap), reasons=reasons)
