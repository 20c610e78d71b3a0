"""A completion as a chain of thought and an answer.

The chain is what the model thought (`steerkit.models.thinking`). Where a chat template opens the block itself, the
completion has the closing marker alone, and the chain begins with the completion. A completion without markers is
split at its answer line: the last step with `\\boxed{…}`, `####` or "the answer is" (and those right before it that
say the same); else the last one that states the completion's final number (`steerkit.scoring.answers`); else its last
step. What comes before is the chain.

Steps are lines, and sentences within a line. A bare list marker is no step of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from steerkit.models.markers import ThinkingMarkers
from steerkit.models.thinking import spans_of
from steerkit.scoring.answers import final_number
from steerkit.scoring.reply import final_reply

CUE = "The answer is"

_BOUNDARY = re.compile(r"(?<=[.!?])[ \t]+(?=\S)|\n\s*")
_NO_STEP = re.compile(r"\s*(?:\d{1,2}[.)]|[-*•])?\s*")
_ANSWER_LINE = re.compile(r"\\boxed\{|####|\banswer\b[^.!?\n]{0,60}?(?:\bis\b|:|=)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of thought. `opening + "".join(steps) + closing + reply` is the completion up to its answer's end.

    `steps` keep the white space behind them, but for the last; `opening` and `closing` hold the markers with the
    white space around them, and are empty for a chain without markers.
    """

    opening: str
    steps: tuple[str, ...]
    closing: str
    reply: str

    @property
    def body(self) -> str:
        """All steps."""
        return "".join(self.steps)

    def first(self, n: int) -> str:
        """The first `n` steps, without the white space behind them."""
        return "".join(self.steps[:n]).rstrip()

    def begun(self, body: str) -> str:
        """A completion that begins with `body` for its chain and may go on thinking."""
        return (self.opening + body).rstrip(" ")

    def asked(self, body: str) -> str:
        """A completion whose chain is `body`, up to the cue for its answer."""
        if self.closing:
            closing = self.closing if self.closing[-1].isspace() else self.closing + "\n"
            return self.opening + body + closing + CUE
        return f"{body}\n{CUE}" if body else CUE


def find_chain(text: str, markers: ThinkingMarkers | None = None) -> Chain | None:
    """Return the chain of a completion; None where it never closed, or where the answer is all there is."""
    spans = spans_of(text, markers)
    closed = [span for span in spans if span.of == "thinking"]
    if closed:
        begins = next((span.start for span in spans if span.kind == "thinking"), closed[0].start)
        lead = text[begins : closed[-1].start]
        opening = text[: begins + len(lead) - len(lead.lstrip())] if begins else ""
        body = text[len(opening) : closed[-1].start]
        kept, reply = body.rstrip(), text[closed[-1].stop :]
        answer = reply.lstrip()
        closing = text[len(opening) + len(kept) : len(text) - len(answer)]
        return Chain(opening, split_steps(kept), closing, answer) if kept else None
    if any(span.kind == "thinking" for span in spans):
        return None
    steps = split_steps(final_reply(text, markers))
    answer_line = _answer_line(steps)
    if answer_line == 0:
        return None
    kept_steps = (*steps[: answer_line - 1], steps[answer_line - 1].rstrip())
    between = steps[answer_line - 1][len(kept_steps[-1]) :]
    return Chain("", kept_steps, "", between + "".join(steps[answer_line:]))


def split_steps(text: str) -> tuple[str, ...]:
    """The steps of a text, in order; joined, they are the text."""
    steps: list[str] = []
    start = 0
    for boundary in _BOUNDARY.finditer(text):
        if not _NO_STEP.fullmatch(text, start, boundary.end()):
            steps.append(text[start : boundary.end()])
            start = boundary.end()
    if start < len(text):
        steps.append(text[start:])
    return tuple(steps)


def _answer_line(steps: tuple[str, ...]) -> int:
    """The number of the step that states the answer; 0 where there are no steps at all."""
    last_to_first = range(len(steps) - 1, -1, -1)
    stated = next((i for i in last_to_first if _ANSWER_LINE.search(steps[i])), None)
    if stated is not None:
        number = final_number(steps[stated])
        while stated and _ANSWER_LINE.search(steps[stated - 1]) and final_number(steps[stated - 1]) == number:
            stated -= 1
        return stated
    number = final_number("".join(steps))
    if number is not None:
        concluding = next((i for i in last_to_first if final_number(steps[i]) == number), None)
        if concluding is not None:
            return concluding
    return max(0, len(steps) - 1)
