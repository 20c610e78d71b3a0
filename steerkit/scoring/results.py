"""Find the number that a text states as its result.

It stands in the first of these that the text has:

1. its last `\\boxed{}`;
2. its last `####` with a number alone, or with its unit, on that line (`#### Check` is a heading);
3. its last "answer is" or "answer:", in one of many languages, that a number follows in that sentence, unless
   it only announces one ("is as follows", "is found by");
4. its last sentence with a number that is no aside: no check or note, no offer of help, no question, and not all in
   parentheses.

There it is the number in bold, if one is; else what the last equation comes to; else the first number in 1 to 3
and the last one in 4. A number in parentheses, after "not" or in a later clause ("7, and one check is
2 * 7 = 14") is taken only where there is no other. Numbers in words count where the place has none in digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from steerkit.scoring.numbers import Number, find_number_words, find_numbers, plain, writes_european

_LIST_MARKER = re.compile(
    r"^[ \t]*(?:[-*+>•][ \t]+)?(?:\*\*)?(?:Step[ \t]+\d{1,2}[.:)]|\d{1,2}[.)])(?:\*\*)?[ \t]+(?=\S)",
    re.MULTILINE | re.IGNORECASE,
)
_ABBREVIATION = re.compile(
    r"\b(Rs|approx|ca|vs|Mrs?|Ms|Dr|St|Prof|Fig|Eq|e\.g|i\.e|Mio|Mrd|No(?=\.\s*\d)|Nr)\.(?=\s)", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?<=\S)[.!?]+[)*_\"”’]*(?=\s)|\n+|[。！？।؟]")
_EQUALS = re.compile(r"(?<![<>!])=|≈|\bequals?\b|\bequal to\b", re.IGNORECASE)
_CLAUSE_END = re.compile(
    r"(?:(?<!thousand)(?<!million)(?<!billion),|;)(?=\s)|:(?=\s)|\s[–—]\s|\(|\b(?:because|since|so|but|where|which|with|if|when|while|weil|porque|car)\b",
    re.IGNORECASE,
)
_BETWEEN_NUMBERS = re.compile(
    r"\s*[-−–+*×·÷/x^]\s*|\s*(?:plus|minus|times|divided by|multiplied by)\s*", re.IGNORECASE
)
_TOLD = re.compile(r"\b(?:is|are|was|and|or|because|since|check|gives?)\b", re.IGNORECASE)
_COMBINED = re.compile(
    r"\b(?:sum|product|difference|quotient|ratio) (?:of|between)\b|\b(?:half|twice|double|triple)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:\bnot|n['’]t|\bnicht|\bnor|\bno longer|\bnever|\binstead of|\brather than)\s+(?:\*\*)?$",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")

_RESULT_LINE = re.compile(r"(?<!#)####(?!#)[ \t]*\n?([^\n]*)")
_UNIT_WORD = re.compile(r"[a-zµ°²³%]+[23]?|[A-Z]{1,3}|[^\W\d_a-zA-Z]+")

_ANSWER = (
    r"\b(?:answer|ans\.?|final result)(?![\w'’])"
    r"(?:,[^,.!?\n]{1,20},| (?:to|for|here|then|now|therefore|thus)\b[^.!?\n]{0,60}?)?[\s*_`\"]*?"
    r"(?:\bis\b|\bwas\b|:|\bw(?:ould|ill) be\b|\b(?:should|must|has to|can only) be\b|"
    r"\bcomes? (?:out )?(?:to|as)\b|\bturns? out to be\b|\bequals?\b|=|[-–—](?=\s))"
)
_HEADED = r"^[#*_ \t]*(?:final )?answer[*_ \t]*$"
_IN_OTHER_LANGUAGES = (
    r"答案|答え|こたえ|解答|정답|답|الجواب|الإجابة|الاجابة|उत्तर|উত্তর|คำตอบ|תשובה|"
    r"\b(?:antwort|lösung lautet|respuesta|réponse|resposta|risposta|antwoord|svaret?|vastaus|odpowied[źz]|odpověď|"
    r"válasz|răspunsul|cevap|yanıt|jawaban(?:nya)?|đáp án|đáp số|câu trả lời|ответ|відповідь|απάντηση)\b"
)
_STATED = re.compile(f"{_ANSWER}|{_HEADED}|{_IN_OTHER_LANGUAGES}", re.IGNORECASE | re.MULTILINE)
_ANNOUNCED = re.compile(
    r"\W*(?:as follows|(?:given |shown |found )?below|the following|found|obtained|calculated|computed|determined|"
    r"derived|given by|reached|based on|explained|correct\b|right\b|wrong\b)",
    re.IGNORECASE,
)

_INTRODUCED = re.compile(r"\bhere(?:['’]s| is) (?:the |my |your )?(?:final |full )?$", re.IGNORECASE)

_CHECKS = (
    r"double-?check|check(?!s|ing? a)|verif|confirm|proof\b|comprobación|vérification|prüfung|probe\b|verifica|"
    r"проверка|验证|验算|检验|検算|검산|확인"
)
_EXPLANATIONS = (
    r"explanation|reasoning|rationale|justification|why\b|here(?:['’]?s| is) (?:why|how)|"
    r"explicación|explication|erklärung|объяснение|"
    r"解释|解説|説明|설명"
)
_CHECK_TO_THE_END = re.compile(
    rf"^[ \t#*_>-]*(?:{_CHECKS}|notes?\b|p\.?s\b)[^\n:：.=]{{0,30}}(?:[:：]|[*_ \t]*$)",
    re.IGNORECASE | re.MULTILINE,
)
_EXPLANATION_TO_THE_END = re.compile(
    rf"^[ \t#*_>-]*(?:{_EXPLANATIONS})[^\n:：.=]{{0,30}}(?:[:：]|[*_ \t]*$)", re.IGNORECASE | re.MULTILINE
)
_LEAD_IN = r"[\s#*_>(\"-]*(?:(?:to|let['’]?s|let us|let me(?! know)|we can|you can|we|now|and|just|also)\s+)*"
_CLOSINGS = (
    r"let me know|would you|do you|did you|can i|may i|shall i|feel free|i hope|hope (?:this|that|it)|"
    r"if you(?:['’]d like| would like| have| need| want)"
    r"(?: any| (?:\d+ )?(?:more|further|other)| to\b| questions| help)|"
    r"is there any|please\b|(?:i['’]m |i am |always )?happy to|need (?:any|more|help)|want me|thanks?\b|"
    r"have a \w+ day|good luck|(?:do not|don['’]t) hesitate|"
    r"i(?:['’]d| would) be (?:glad|happy)|i can also|i could also|"
    r"no dudes|si (?:tienes|necesitas|quieres|vous avez|tu as)|n['’]hésite|espero|j['’]espère|wenn (?:du|sie) noch|"
    r"lass mich|lassen sie|ich hoffe|se (?:hai|você|quiser)|"
    r"если (?:у вас|нужно|хотите)|如果(?:你|您)|希望|请告诉|もし|궁금"
)
_NOTES = (
    r"note\b|notice that|remember|recall that|p\.?s\b|tip\b|hint\b|fun fact|"
    r"for (?:example|instance|reference|comparison)|(?:this|that|it) is because|explanation"
)
_ASIDE = re.compile(f"{_LEAD_IN}(?:{_CHECKS}|{_CLOSINGS}|{_NOTES})", re.IGNORECASE)
_IN_PARENTHESES = re.compile(r"\s*\([^()]*\)?\s*")  # the end of a sentence may have taken the last one
_GOES_ON = re.compile(f"{_LEAD_IN}(?:{_CHECKS}|{_CLOSINGS})", re.IGNORECASE)
_CONCLUDES = re.compile(
    r"[\s*_]*(?:so|thus|therefore|hence|in total|altogether|in all|that (?:is|makes|leaves))\b", re.I
)


def final_number(text: str) -> Fraction | None:
    """Return the number that a text states as its result, or None where it has no number."""
    number = stated_number(text)
    return None if number is None else number.value


def stated_number(text: str) -> Number | None:
    """Return that number as it is written, with its value before a word such as "million"; its place is of no use."""
    boxed = last_boxed(text)
    if boxed is not None:
        return _in_order(
            [re.sub(r"^\s*([-−–])\s+(?=[\d.$])", r"\1", plain(boxed))], writes_european(plain(text))
        )
    text = _ABBREVIATION.sub(r"\1", _LIST_MARKER.sub("", plain(text)))
    european = writes_european(text)
    for line in reversed(_RESULT_LINE.findall(text)):
        if _is_amount(line, european):
            return _in_order([line], european)
    for stated in reversed(list(_STATED.finditer(text))):
        tail = text[stated.end() :]
        if _INTRODUCED.search(text, max(0, stated.start() - 40), stated.start()) or (
            stated[0].endswith(":") and _is_worked_out(tail)
        ):
            continue
        number = _stated(tail, european)
        if number is not None:
            return number
    return _concluded(_without_tail(text, european), european)


def last_boxed(text: str) -> str | None:
    """Return what stands between the braces of the last `\\boxed{`; braces may nest, and the last may be cut off."""
    _, marker, rest = text.rpartition(r"\boxed{")
    if not marker:
        return None
    depth = 1
    for place, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:place]
    return rest


def _is_amount(line: str, european: bool) -> bool:
    """Whether a line is a number, or a sum, with no more beside it than a currency or a unit of up to four words."""
    numbers = find_numbers(line, european)
    if not numbers or re.match(r"\s*\d+[.)]\s+\S", line):
        return False
    if re.search(r"\w", line[: numbers[0].start]):
        return False
    words = re.findall(r"\w+", re.sub(r"\^[-−]?\d+", "", line[numbers[-1].stop :]))
    return len(words) <= 4 and all(_UNIT_WORD.fullmatch(word) for word in words)


def _stated(tail: str, european: bool) -> Number | None:
    """The number in the sentence that begins with `tail`, after "the answer is"; None for none."""
    rest = tail.lstrip(
        " \t*_`\"':：=-" if not re.match(r"[ \t*_`\"':：=]*-[\d.$]", tail) else " \t*_`\"':：="
    )
    if rest.startswith("\n"):
        line = rest.strip(" \t\n*_`#").split("\n", maxsplit=1)[0]
        return _in_order([line], european) if _is_amount(line.strip("*_` ."), european) else None
    sentence = _SENTENCE_END.split(rest, maxsplit=1)[0]
    if _ANNOUNCED.match(sentence):
        return None
    return _in_order(_CLAUSE_END.split(sentence), european)


def _is_worked_out(tail: str) -> bool:
    """Whether what follows "answer:" is a working whose last sentence concludes: "Tom has 3 hens. So he gets 12"."""
    first, *others = _SENTENCE_END.split(re.split(r"\n\s*\n", tail.lstrip(), maxsplit=1)[0])
    return re.match(r"\W*[^\W\d_]+[ ,]+[^\W\d_]+", first) is not None and any(map(_CONCLUDES.match, others))


def _in_order(clauses: Sequence[str], european: bool) -> Number | None:
    """The number of the first clause that has one: what its equation comes to, or else its first.

    A sum that is not worked out ("5 + 7, which is 12") is taken only where no later clause has a number.
    """
    unsolved: Number | None = None
    for with_denied in (False, True):
        for clause in clauses:
            numbers = _numbers(clause, european) if with_denied else _asserted(clause, european)
            if not numbers:
                continue
            solved = _solved(clause, numbers)
            if solved is not None:
                return solved
            if not (_is_sum(clause, numbers) or _COMBINED.search(clause)):
                return numbers[0]
            unsolved = unsolved or numbers[0]
        if unsolved is not None:
            return unsolved
    return None


def _numbers(text: str, european: bool) -> list[Number]:
    """The numbers of a clause or sentence: those in digits, else those in words."""
    return find_numbers(text, european) or find_number_words(text)


def _asserted(text: str, european: bool) -> list[Number]:
    """Those of the numbers that do not stand after "not"."""
    return [n for n in _numbers(text, european) if not _DENIED.search(text, max(0, n.start - 24), n.start)]


def _solved(text: str, numbers: Sequence[Number]) -> Number | None:
    """What the last equation of a clause comes to; None where it has none, or the first number stands apart from it."""
    equals = list(_EQUALS.finditer(text))
    if not equals:
        return None
    before = [n for n in numbers if n.stop <= equals[-1].start()]
    behind = [n for n in numbers if n.start >= equals[-1].end()]
    if not behind or (before and _TOLD.search(text[before[0].stop : equals[0].start()])):
        return None
    if len(before) == 1 and _is_sum(text, behind[:2]):
        return before[0]  # 12 = 3 * 4
    return behind[0]


def _is_sum(text: str, numbers: Sequence[Number]) -> bool:
    return any(
        _BETWEEN_NUMBERS.fullmatch(text[first.stop : second.start]) or second.start == first.stop
        for first, second in pairwise(numbers)
    )


def _without_tail(text: str, european: bool) -> str:
    """The text up to a check of the result, or to an explanation of one that stands by itself."""
    check = _CHECK_TO_THE_END.search(text)
    if check and _numbers(text[: check.start()], european):
        text = text[: check.start()]
    explanation = _EXPLANATION_TO_THE_END.search(text)
    if explanation and _is_amount(text[: explanation.start()].strip(" \n*_."), european):
        text = text[: explanation.start()]
    return text


def _sentences(text: str) -> tuple[list[str], list[str]]:
    """The sentences of a text, last first: those that may conclude it, and all of them.

    A check and an offer of help go on to the end of their line. A question that works something out is no question.
    """
    concluding: list[str] = []
    every: list[str] = []
    start, goes_on = 0, False
    for end in [*_SENTENCE_END.finditer(text), None]:
        sentence, mark = (text[start : end.start()], end[0]) if end else (text[start:], text[-3:])
        is_question = any(character in mark for character in "?？؟") and "=" not in sentence
        goes_on = goes_on or _GOES_ON.match(sentence) is not None
        every.append(sentence)
        if not (is_question or goes_on or _ASIDE.match(sentence) or _IN_PARENTHESES.fullmatch(sentence)):
            concluding.append(sentence)
        if end:
            start, goes_on = end.end(), goes_on and "\n" not in mark
    return concluding[::-1], every[::-1]


def _concluded(text: str, european: bool) -> Number | None:
    """The number of the last sentence that has one; asides and questions only where nothing else has."""
    concluding, every = _sentences(text)
    for among in (concluding, every):
        for sentence in among:
            in_digits = find_numbers(sentence, european)
            if in_digits or (_CONCLUDES.match(sentence) and find_number_words(sentence)):
                return _last(sentence, european)
    for sentence in (*concluding, *every):
        if find_number_words(sentence):
            return _last(sentence, european)
    return None


def _last(sentence: str, european: bool) -> Number | None:
    """The number that a sentence ends on: the one in bold, what its last equation comes to, or its last."""
    bold = [part for part in _BOLD.findall(sentence) if not part.rstrip().endswith(":")]
    in_bold = [part for part in bold if find_numbers(part, european)]
    if len(in_bold) == 1:
        sentence = in_bold[0]
    outside = re.sub(r"(?<!\w)\([^()]*\)", lambda m: " " * len(m[0]), sentence)
    if find_numbers(outside, european):
        sentence = outside
    numbers = _asserted(sentence, european) or _numbers(sentence, european)
    equals = list(_EQUALS.finditer(sentence))
    behind = [n for n in numbers if equals and n.start >= equals[-1].end()]
    if behind:
        before = [n for n in numbers if n.stop <= equals[-1].start()]
        return before[0] if len(before) == 1 and _is_sum(sentence, behind[:2]) else behind[0]
    return numbers[-1] if numbers else None
