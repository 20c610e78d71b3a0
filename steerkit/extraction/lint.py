"""What in a set of pairs would spoil a direction, found before anything is fitted.

code                 severity     what it means
empty                error        a prompt or a side without a letter or a digit
identical-sides      error        a pair whose two sides are the same; a warning where only case, spacing
                                  or punctuation differ
duplicate            warning      a prompt, or one side's completion, that occurs twice
near-duplicate       warning      the same but for case, spacing or punctuation
leakage              error        a prompt that also occurs in the set that it must not touch
length-skew          warning      one side is longer on average, and that was not declared
no-length-contrast   warning      length was declared as the contrast, but the sides are alike in it
few                  warning      fewer than 20 pairs, or labelled prompts of one side
doubled-bos          error        a text that holds the beginning-of-sequence token, which rendering adds, or
                                  that begins with two of them once rendered
special-token        warning      a text that holds another special token of the tokenizer
unreadable           error        the model's tokenizer or template cannot take the text; a warning for a system prompt
                                  that it takes only in the first user turn
rendered             warning      a prompt that a chat template has rendered already
too-long             error        more tokens than the model's context holds
words-alone          information  how well a TF-IDF classifier tells held-out sides apart
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Prompt, Renderer
from steerkit.extraction.held_out import folds_by_group, words_alone
from steerkit.extraction.pairs import Example, LabelledPrompts, PairsOrPrompts, examples_of, prompt_text

if TYPE_CHECKING:  # lint without a model needs no torch
    from steerkit.models import LanguageModel

Contrast = Literal["content", "length"]
Severity = Literal["error", "warning", "information"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "information")

FEWEST = 20
SKEW = 1.25
LEAK_WORDS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that lint found. `where` names a pair, one side of it, or the whole set."""

    severity: Severity
    code: str
    where: str
    message: str


def lint(
    pairs: PairsOrPrompts | str | os.PathLike[str],
    contrast: Contrast = "content",
    *,
    other: Iterable[Prompt] = (),
    lm: LanguageModel | None = None,
) -> list[Finding]:
    """Everything found in `pairs` (a set, its name, a file), errors first; the module's table says what a code means.

    `contrast` declares whether the two sides differ in `content` or in `length`. `other` are prompts that
    must not occur here: a suite's, or another split's. With `lm`, its tokenizer and its context are checked.
    """
    pairs = examples_of(pairs)
    examples = pairs.examples
    findings = [
        *_empty(examples),
        *_identical_sides(pairs),
        *_repeated(examples),
        *_leaked(pairs, other),
        *_few(pairs),
        *_length(pairs.name, examples, contrast),
        *(_unreadable(examples, lm) if lm else ()),
        *_words(pairs.name, examples),
    ]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _empty(examples: tuple[Example, ...]) -> Iterator[Finding]:
    texts = {e.id: prompt_text(e.prompt) for e in examples} | {e.where: e.text for e in examples}
    for where, text in texts.items():
        if not _words_of(text):
            yield Finding("error", "empty", where, f"{text!r} holds no word")


def _identical_sides(pairs: PairsOrPrompts) -> Iterator[Finding]:
    if isinstance(pairs, LabelledPrompts):
        return
    for pair in pairs:
        if pair.positive.strip() == pair.negative.strip():
            yield Finding("error", "identical-sides", pair.id, "both sides are the same text")
        elif _words_of(pair.positive) == _words_of(pair.negative):
            message = "the sides differ only in case, spacing or punctuation"
            yield Finding("warning", "identical-sides", pair.id, message)


def _repeated(examples: tuple[Example, ...]) -> Iterator[Finding]:
    prompts = {example.id: (example.id, prompt_text(example.prompt)) for example in examples}
    yield from _repeats("prompt", prompts.values())
    for side in (True, False):
        completions = [(e.where, e.text) for e in examples if e.completion is not None and e.positive is side]
        yield from _repeats("completion", completions)


def _repeats(part: str, texts: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    seen: dict[str, tuple[str, str]] = {}
    for where, text in texts:
        first, earlier = seen.setdefault(_words_of(text), (where, text))
        if first == where:
            continue
        same = f"the same {part} as {first}"
        if text == earlier:
            yield Finding("warning", "duplicate", where, same)
        else:
            yield Finding("warning", "near-duplicate", where, f"{same}, spelled otherwise")


def _leaked(pairs: PairsOrPrompts, other: Iterable[Prompt]) -> Iterator[Finding]:
    """Prompts that equal another set's, or of which one contains the other (from five words on)."""
    foreign = {_words_of(prompt_text(prompt)) for prompt in other}
    for item in pairs:
        words = _words_of(prompt_text(item.prompt))
        if words in foreign:
            yield Finding("error", "leakage", item.id, "this prompt is in the other set as well")
        elif any(_contains(words, text) or _contains(text, words) for text in foreign):
            message = "this prompt contains, or is part of, one in the other set"
            yield Finding("error", "leakage", item.id, message)


def _few(pairs: PairsOrPrompts) -> Iterator[Finding]:
    labels = [example.positive for example in pairs.examples]
    fewest = min(labels.count(True), labels.count(False))
    if fewest < FEWEST:
        message = f"{fewest} examples on one side: a direction from fewer than {FEWEST} is mostly noise"
        yield Finding("warning", "few", pairs.name, message)


def _length(name: str, examples: Iterable[Example], contrast: Contrast) -> Iterator[Finding]:
    """Geometric mean length in characters of one side over the other's, against the declared contrast."""
    logs: dict[bool, list[float]] = {True: [], False: []}
    for example in examples:
        logs[example.positive].append(math.log(max(1, len(example.text))))
    if not all(logs.values()):
        return
    ratio = math.exp(fmean(logs[True]) - fmean(logs[False]))
    skewed = not 1 / SKEW <= ratio <= SKEW
    if skewed and contrast == "content":
        message = (
            f"the positive side is {ratio:.2f} times as long as the negative one: balance them, or declare length "
            "as the contrast"
        )
        yield Finding("warning", "length-skew", name, message)
    if not skewed and contrast == "length":
        message = f"length was declared as the contrast, but the positive side is {ratio:.2f} times as long"
        yield Finding("warning", "no-length-contrast", name, message)


def _unreadable(examples: tuple[Example, ...], lm: LanguageModel) -> Iterator[Finding]:
    bos, bos_id = lm.tokenizer.bos_token, lm.tokenizer.bos_token_id
    yield from _badly_led(examples, lm.renderer)
    yield from _rendered(examples, lm.renderer, lm.tokenizer.all_special_tokens)
    for example in examples:
        where = example.where
        for token in lm.tokenizer.all_special_tokens:
            if token in example.text or token in prompt_text(example.prompt):
                message = f"holds {token}: was it rendered already?"
                if token == bos:
                    yield Finding("error", "doubled-bos", where, message)
                else:
                    yield Finding("warning", "special-token", where, message)
        try:
            with lm.renderer.silent():  # what it would warn of is a finding here
                text = example.encoded(lm.renderer)
        except MisuseError as error:
            yield Finding("error", "unreadable", where, str(error))
            continue
        if bos_id is not None and text.ids[:2] == (bos_id, bos_id):
            yield Finding("error", "doubled-bos", where, f"begins with {bos} twice once rendered")
        if len(text.ids) > lm.context_length:
            message = f"{len(text.ids)} tokens, but {lm.name} reads at most {lm.context_length}"
            yield Finding("error", "too-long", where, message)


def _badly_led(examples: Iterable[Example], renderer: Renderer) -> Iterator[Finding]:
    """Prompts whose system message the model's template takes only in the first user turn."""
    if renderer.takes_system:
        return
    led = [
        e.id
        for e in examples
        if e.system or (not isinstance(e.prompt, str) and e.prompt[0]["role"] == "system")
    ]
    for where in dict.fromkeys(led):
        message = "the model's chat template takes no system message: it goes into the first user turn"
        yield Finding("warning", "unreadable", where, message)


def _rendered(examples: Iterable[Example], renderer: Renderer, special: Collection[str]) -> Iterator[Finding]:
    """Prompts that were rendered already, but for those that hold a special token, which are found as such."""
    for where, text in {e.id: prompt_text(e.prompt) for e in examples}.items():
        mark = renderer.turn_marker_in(text)
        if mark is not None and mark not in special:
            yield Finding("warning", "rendered", where, f"the prompt holds {mark}: give the question alone")


def _words(name: str, examples: tuple[Example, ...]) -> Iterator[Finding]:
    result = words_alone(examples, folds_by_group(examples, folds=5, seed=0))
    if result:
        message = (
            f"a TF-IDF classifier tells held-out sides apart with {result.accuracy:.0%} accuracy "
            f"(AUROC {result.auroc:.2f}): the wording alone gives that much away"
        )
        yield Finding("information", "words-alone", name, message)


def _words_of(text: str) -> str:
    """The words of a text in one spelling: case folded, single spaces, no punctuation."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _contains(text: str, part: str) -> bool:
    return part.count(" ") >= LEAK_WORDS - 1 and f" {part} " in f" {text} "
