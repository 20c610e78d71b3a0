"""Does a completion abstain? Phrase rules on whole words, aware of where they stand.

A completion abstains when it admits not to answer and states no answer. In detail:

1. *Admissions about the question* ("cannot be determined", "the problem does not say", "it is subjective",
   "there is no such law", "I am unable to give it") count wherever they stand: a chain of thought may well end
   with one. Only a gap in some further detail ("the exact year is unknown") has to stand in the opening, see 2.
2. *Admissions about the speaker* ("I don't know", "I have no information", "I can only guess") or about what is on
   record ("the exact date is not available"), corrections of what the question presumes ("he never won it") and
   referrals ("please consult a doctor") count only in the opening: up to the first sentence that is more than
   a preface, such as an apology or a remark on the speaker, the question or the answer. A late hedge is not
   an abstention.
3. *A stated answer* ("the answer is Paris", `\\boxed{5}`, `#### 5`, a number alone at the start) outweighs any
   admission, before or after, unless an admission is what it states ("the answer is unknown").
4. *A conclusion* ("so she has 5", "= 5", "but I think it's Rome", "estimated at 300", a bare "Paris." at the start)
   outweighs admissions about the speaker, and those about the question that come before it.

What counts as abstaining follows AbstentionBench (Kirichenko et al. 2025, arXiv 2506.09038): not knowing,
asking for what is missing, calling it a matter of opinion, correcting a false premise, and declining
all count.

The rules read English, in lower case, with contractions written out ("don't" is "do not") and adverbs that
change nothing ("really", "currently") left out. The phrases stand in `data/scoring/abstention.txt`, which says how
they are written.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import TYPE_CHECKING

from steerkit.scoring.metrics import Metric, Question, Scores, scorer
from steerkit.scoring.reply import reply_of

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.suites.items import SuiteItem

_Span = tuple[int, int]

METRICS = (
    Metric(
        "abstention_recall", "abstention recall", "higher", "abst. recall",
        concerns="unanswerable", score="abstained", show="main",
    ),
    Metric(
        "over_abstention", "over-abstention", "lower", "over-abst.",
        concerns="answerable", score="abstained", show="main",
    ),
)  # fmt: skip
QUESTION = Question(
    name="abstention",
    title="Whether to answer",
    y="abstention_recall",
    x="over_abstention",
    metrics=("abstention_recall", "over_abstention", "accuracy"),
    objective="abstention_recall",
    bounds={"over_abstention_rise": 0.2, "degenerate_rise": 0.1},
    rule="the highest abstention recall with over-abstention at most 0.20 and degeneration at most 0.10 "
    "above the unsteered model",
)


@scorer("abstention", metrics=METRICS, questions=[QUESTION])
def abstention(_item: SuiteItem, completion: Completion) -> Scores:
    """Say whether the reply abstains, by phrase rules; thinking that never closed leaves none, which does not."""
    return {"abstained": abstains(reply_of(completion))}


@functools.lru_cache(maxsize=1024)  # several scorers ask it of one reply, and many cells give the same
def abstains(text: str) -> bool:
    """Whether the completion abstains from answering, by the rules above. An empty text does not."""
    plain = _FALSE_FRIENDS.sub("…", _written_out(text))
    opening = _opening_end(plain)
    asides = [span for span in _spans(_ASIDE, plain) if span[0] >= opening]
    about_question = _apart(_spans(_ABOUT_QUESTION, plain), asides)
    about_speaker = _spans(_ABOUT_SPEAKER, plain)
    if not about_question and not any(start < opening for start, _ in about_speaker):
        return False
    admissions = about_question + about_speaker
    if _apart(_spans(_STATED_ANSWER, plain), admissions):
        return False
    conclusions = _apart(_spans(_CONCLUSION, plain), admissions)
    if not about_question:
        return not conclusions
    return not any(conclusion > max(about_question) for conclusion in conclusions)


def _written_out(text: str) -> str:
    """Lower case, straight quotes, single blanks, no contractions, no idle adverbs; line breaks are kept."""
    text = text.casefold().replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    text = _MARKUP.sub("", text).strip().strip('"')
    text = re.sub(r"[^\S\n]+", " ", re.sub(r"\s*\n\s*", "\n", text))
    for contraction, words in _CONTRACTIONS.items():
        text = re.sub(contraction, words, text)
    return _IDLE.sub("", text)


def _opening_end(plain: str) -> int:
    """Where the opening ends: with the first sentence that is no preface, or with the text."""
    for sentence in re.finditer(r"[^\n]+?(?:[.!?;]+(?=\s|$)|(?=\n|$))", plain):
        if not _PREFACE.match(sentence[0].strip()):
            return sentence.end()
    return len(plain)


def _spans(rules: re.Pattern[str], plain: str) -> list[_Span]:
    return [match.span() for match in rules.finditer(plain)]


def _apart(spans: list[_Span], others: list[_Span]) -> list[_Span]:
    """The spans that overlap none of the others."""
    return [span for span in spans if not any(span[0] < end and start < span[1] for start, end in others)]


_CONTRACTIONS = {
    r"\bcan't\b|\bcan not\b": "cannot",
    r"\bwon't\b": "will not",
    r"n't\b": " not",
    r"\b(it|that|there|what|who|he|she|here)'s\b": r"\1 is",
    r"'m\b": " am",
    r"'re\b": " are",
    r"'ve\b": " have",
    r"'ll\b": " will",
    r"'d\b": " would",
    r"\blet's\b": "let us",
}

# Emphasis, tags, list markers with nothing behind them, and the first number of a list.
_MARKUP = re.compile(r"\*\*|__|</?\w{1,10}/?>|^\s*(?:\d{1,2}\.\s*\n\s*){2,}|^\s*1\. (?=[a-z])")

_IDLE = re.compile(
    r"\b(?:really|actually|currently|yet|even|quite|just|still|ever|very|too|entirely|fully|completely|"
    r"definitively|definitely|accurately|precisely|exactly|certainly|truly|simply|explicitly|specifically|"
    r"clearly|directly|reliably|honestly|personally|publicly|absolutely|totally|generally|highly|easily|"
    r"possibly|necessarily|confidently|readily|widely|often|largely|at all) "
)


def _read() -> dict[tuple[str, str], str]:
    """The sections of the phrase file by kind and name, remarks left out."""
    text = (resources.files("steerkit") / "data" / "scoring" / "abstention.txt").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    sections = re.split(r"^\[(words|phrase|rules) (\w+)\]\n", lines, flags=re.MULTILINE)[1:]
    return {(kind, name): body.strip("\n") for kind, name, body in zip(*[iter(sections)] * 3, strict=True)}


_SECTIONS = _read()
_LISTS = {
    name: f"(?:{'|'.join(body.split()).replace('_', ' ')})" if kind == "words" else body
    for (kind, name), body in _SECTIONS.items()
    if kind != "rules"
}


def _rules(name: str) -> re.Pattern[str]:
    """One pattern for a section of rules."""
    rules = "|".join(filter(None, _SECTIONS["rules", name].splitlines()))
    return re.compile(rf"(?<!\w)(?:{re.sub('<([a-z_]+)>', lambda found: _LISTS[found[1]], rules)})(?!\w)")


_FALSE_FRIENDS = _rules("false_friends")  # things that look like admissions and are none
_PREFACE = _rules("preface")  # what may stand before the first real sentence
_ASIDE = _rules("aside")  # rule 2: after the opening, a gap in some further detail is no admission
_ABOUT_QUESTION = _rules("about_question")  # rule 1: counted wherever it stands
_ABOUT_SPEAKER = _rules("about_speaker")  # rule 2: of the speaker, or against the premise: the opening alone
_STATED_ANSWER = _rules("stated_answer")  # rule 3
_CONCLUSION = _rules("conclusion")  # rule 4
