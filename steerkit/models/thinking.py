"""One account of a completion: where its thinking, its answer, its tool calls and their markers stand.

Lengths, replies, scopes, budgets, chains, Inspect and the page all read it. It is found once, on tokens and text
together:

1. A marker is found in the *text* of tokens, special tokens read as text, whatever case it is in and however the
   tokenizer cuts it. The token in which a closing marker's text ends is the closing token; what a special token holds
   behind a marker belongs to the marker.
2. `Tracker` follows a text token by token, and never looks ahead: steering and rules act by it. Thinking opens at a
   marker that begins the completion or a line, follows a sentence, or is written onto a word; behind a word and a
   blank, or in quotes, a marker is talked about. Markers of other families than the model's open thinking only where
   the completion begins with them.
3. Whether thinking is open where a completion begins is said by what stands behind the last turn's header: what the
   template writes for the model's turn, and what the user began it with. A tag in a user's own words opens nothing.
4. `Reading`, of a whole completion, knows besides what came later. A second closing ends the thought that the first one
   seemed to end, so that the thought ends where the reply begins. A closing that was never opened ends a thought that
   began with the completion; not one with nothing behind it. A marker that is only mentioned in a sentence is text.
"""

from __future__ import annotations

import array
import functools
import hashlib
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from steerkit.core.prompts import REPLACEMENT, Renderer
from steerkit.models.markers import (
    BLOCKS,
    CHANNEL,
    DEFAULT,
    ENDS,
    HARMONY,
    HARMONY_NEXT,
    HARMONY_PLAIN,
    MESSAGE,
    START,
    TOOLS,
    WRAPPERS,
    ThinkingMarkers,
)

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["thinking", "answer", "marker", "tool"]
KEPT = 4096  # prompts whose state is remembered
TAIL = 64  # tokens of a prompt in which its last header is looked for first

# What stands before a marker: nothing, a line break or a sentence's end, a letter or digit, anything else.
_BEGINNING, _LINE, _WORD, _WITHIN = range(4)
_ENDS_SENTENCE = ".!?。！？"
_QUOTES = "\"'`“”‘’«»„‹›「」『』*_"
# What a sentence says of a marker that it begins with.
_SAYS = re.compile(
    r"[ \t]+(?:tags?|tokens?|markers?|is|are|was|and|or|marks?|ends?|closes?|opens?|means?|tells?|signals?|indicates?"
    r"|starts?|begins?|shows?|stands?|comes?|delimits?|wraps?)\b"
)
_POINTS = ".,;:!?)]}、，。；：！？）"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a completion: `start` to `stop` of its text, tokens `first_token` to `stop_token` (not included).

    The spans of a completion tile its text and its tokens, in order. A token belongs to the span in which its text
    begins. Of `kind` `marker` are the texts between the others; `of` says of which kind the text before it was, so a
    marker of `thinking` closed it, and came out of it. `late` is thinking that only a later closing showed to be such,
    so that scopes and rules, which go by what is read so far, took it for answer.
    """

    kind: Kind
    start: int
    stop: int
    first_token: int = 0
    stop_token: int = 0
    of: Kind | None = None
    late: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return self.stop_token - self.first_token


@dataclass(frozen=True, slots=True)
class Reading:
    """A completion's text with its markers, stripped, and the spans that tile it."""

    text: str
    spans: tuple[Span, ...]

    @property
    def thinking_tokens(self) -> int:
        """How many tokens came out of thinking, those of the closing marker among them."""
        return sum(s.tokens for s in self.spans if "thinking" in (s.kind, s.of))


class _Place(NamedTuple):
    """Where a text stands: the mode, what is read of a marker, and what stood before that."""

    mode: str
    begun: str
    before: int


class _Move(NamedTuple):
    """What a marker's text does in a mode: `when` is the last of the contexts in which it is one."""

    does: Literal["open", "close", "stray", "begin", "name", "end"]
    to: str
    when: int = _WITHIN


class _Found(NamedTuple):
    """A marker's text that ended: its length, what it does, the kinds before and behind it, what stood before it."""

    length: int
    does: str
    of: Kind
    to: Kind
    before: int
    text: str


class _Machine:
    """The automaton over characters; states are numbers. `own` opens thinking anywhere, in `bare` text all families."""

    def __init__(self, own: ThinkingMarkers, *, bare: bool = False) -> None:
        self._families = _families(own)
        self._moves = _modes(own, bare=bare)
        # By mode and beginning of a marker's text: in which contexts one that begins so is a marker.
        self._beginnings: dict[str, dict[str, set[int]]] = {mode: {} for mode in self._moves}
        for mode, moves in self._moves.items():
            for text, move in moves.items():
                for n in range(1, len(text)):
                    self._beginnings[mode].setdefault(text[:n], set()).add(move.when)
        outside = (text for mode, moves in self._moves.items() if "header" not in mode for text in moves)
        self._firsts = {c for text in outside for c in (text[0], text[0].upper())}
        self._written = frozenset(c for moves in self._moves.values() for text in moves for c in text)
        letters = (c for c in string.ascii_lowercase + string.digits if c not in self._written)
        self._plain = next(letters, "a")  # stands for the letters and digits of no marker
        self._places: list[_Place] = []
        self._numbers: dict[_Place, int] = {}
        self._steps: dict[tuple[int, str], tuple[int, _Found | None]] = {}
        self.initial = self._number(_Place("channels" if own.has_channels else "answer", "", _BEGINNING))
        block = next((i for i, each in enumerate(self._families) if each == own), 0)
        self.opened = self._number(
            _Place("thinking channel" if own.has_channels else f"thinking {block}", "", 0)
        )

    def kind(self, state: int) -> Kind:
        """What a position with this state belongs to."""
        return _kind(self._places[state].mode)

    def may_find(self, state: int, text: str) -> bool:
        """Whether a text may hold a marker in a state; it does not where none can begin in it or has begun before."""
        mode, begun, _ = self._places[state]
        return bool(begun) or "header" in mode or any(first in text for first in self._firsts)

    def missing(self, state: int) -> str | None:
        """What has to be written so that an open block closes; None for a channel, which a header closes."""
        mode, begun, _ = self._places[state]
        block = mode.removeprefix("thinking ")
        return self._families[int(block)].closing[len(begun) :] if block.isdecimal() else None

    @functools.cached_property
    def alphabet(self) -> tuple[str, ...]:
        """Characters that stand for all that are told apart, once every state there is has been reached by them."""
        alphabet = (*sorted(self._written.union("\n", " ", ".", self._plain, REPLACEMENT)),)
        state = 0
        while state < len(self._places):
            for character in alphabet:
                self.step(state, character)
            state += 1
        return alphabet

    def standing(self, character: str) -> str:
        """The character of the alphabet that a character is like."""
        lower = _lower(character)
        if lower in self._written or lower == "\n":
            return lower
        if lower.isspace():
            return " "
        return "." if lower in _ENDS_SENTENCE else self._plain if _is_word(lower) else REPLACEMENT

    @property
    def n_states(self) -> int:
        """How many states were reached."""
        return len(self._places)

    def step(self, state: int, character: str) -> tuple[int, _Found | None]:
        """Go one character on; returns the state, and the marker that ended there."""
        key = state, character
        if key not in self._steps:
            self._steps[key] = self._step(self._places[state], character)
        return self._steps[key]

    def _step(self, place: _Place, character: str) -> tuple[int, _Found | None]:
        mode, begun, before = place.mode, place.begun + _lower(character), place.before
        while begun:
            move = self._moves[mode].get(begun)
            if move is not None and before <= move.when:
                found = _Found(len(begun), move.does, _kind(mode), _kind(move.to), before, begun)
                return self._number(_Place(move.to, "", _BEGINNING)), found
            if (waiting := self._waiting(mode, begun, before)) is not None:
                return self._number(_Place(mode, begun, waiting)), None
            before, begun = _context(before, begun[0]), begun[1:]
        return self._number(_Place(mode, "", before)), None

    def _waiting(self, mode: str, begun: str, before: int) -> int | None:
        """The context to remember with the beginning of a marker's text; None where no marker of the mode begins so.

        Contexts in which the same markers may still come are one.
        """
        return min((when for when in self._beginnings[mode].get(begun, ()) if before <= when), default=None)

    def _number(self, place: _Place) -> int:
        if place not in self._numbers:
            self._numbers[place] = len(self._places)
            self._places.append(place)
        return self._numbers[place]


@functools.cache
def _machine(own: ThinkingMarkers, *, bare: bool = False) -> _Machine:
    return _Machine(own, bare=bare)


def _families(own: ThinkingMarkers) -> tuple[ThinkingMarkers, ...]:
    return BLOCKS if own in BLOCKS or own.has_channels else (own, *BLOCKS)


def _modes(own: ThinkingMarkers, *, bare: bool) -> dict[str, dict[str, _Move]]:
    answer: dict[str, _Move] = {}
    modes = {"answer": answer}
    for i, family in enumerate(_families(own)):
        known = bare or family == own
        answer[_lower(family.opening)] = _Move("open", f"thinking {i}", _WORD if known else _BEGINNING)
        if known:
            answer[_lower(family.closing)] = _Move("stray", "answer")
        modes[f"thinking {i}"] = {_lower(family.closing): _Move("close", "answer")}
    for i, (opening, closing) in enumerate(TOOLS):
        answer[_lower(opening)] = _Move("open", f"tool {i}", _WORD)
        modes[f"tool {i}"] = {_lower(closing): _Move("close", "answer")} if closing else {}
    known = bare or own.has_channels
    if known:
        answer[START] = _Move("begin", "answer header", _BEGINNING)
    answer[CHANNEL] = _Move("begin", "answer header", _WORD if known else _BEGINNING)
    # Of messages in channels, each led by a header that names its channel, and who it goes to.
    between = (*ENDS, START, CHANNEL)
    modes["channels"] = {**answer, **dict.fromkeys(between, _Move("begin", "answer header"))}
    modes["thinking channel"] = dict.fromkeys(between, _Move("begin", "thinking header"))
    modes["tool channel"] = dict.fromkeys(between, _Move("begin", "tool header"))
    channels = {"": "channels", "final": "channels", "commentary": "channels", "analysis": "thinking channel"}
    for kind in ("answer", "thinking", "tool"):
        for name, behind in {**channels, "to": "tool channel"}.items():
            moves = {
                word: _Move("name", f"{kind} header {word}") for word in channels if word and name != "to"
            }
            moves["to="] = _Move("name", f"{kind} header to")
            modes[f"{kind} header {name}".strip()] = {**moves, MESSAGE: _Move("end", behind)}
    return modes


def _kind(mode: str) -> Kind:
    return "thinking" if mode.startswith("thinking") else "tool" if mode.startswith("tool") else "answer"


def _lower(text: str) -> str:
    """The text with the letters A to Z in lower case, and no others, so that its length stays."""
    return "".join(c.lower() if c.isascii() else c for c in text)


def _context(before: int, character: str) -> int:
    if character == "\n":
        return _BEGINNING if before == _BEGINNING else _LINE
    if character.isspace():
        return _WITHIN if before == _WORD else before
    if character in _ENDS_SENTENCE:
        return _LINE
    return _WORD if _is_word(character) else _WITHIN


def _is_word(character: str) -> bool:
    return character.isascii() and character.isalnum()


class TransitionTable(NamedTuple):
    """A tracker for a device: the state behind a token is `moves[state, columns[token]]`, and `is_open[state]`.

    `columns` is `[vocabulary]`, `moves` `[state, column]`, `is_open` `[state]`.
    """

    columns: np.ndarray
    moves: np.ndarray
    is_open: np.ndarray


class Tracker:
    """Follows thinking through the tokens of one model; states are numbers, and nothing touches a device."""

    def __init__(self, renderer: Renderer, markers: ThinkingMarkers) -> None:
        self.markers = markers
        self._renderer = renderer
        self._machine = _machine(markers)
        self._after: dict[tuple[int, int], int] = {}
        self._starts: dict[bytes, int] = {}  # by the prompt's digest, as prompts are long
        self._closing: dict[str, tuple[int, ...]] = {}

    def start(self, prompt: Sequence[int]) -> int:
        """Return the state in which a prompt leaves the model's turn, whatever the user wrote in it."""
        key = hashlib.blake2b(array.array("q", prompt).tobytes(), digest_size=16).digest()
        if key not in self._starts:
            if len(self._starts) >= KEPT:
                self._starts.clear()
            self._starts[key] = self._start(tuple(prompt))
        return self._starts[key]

    def after(self, state: int, token: int) -> int:
        """Go one token on. A token in which the closing marker ends still came out of thinking."""
        key = state, token
        if key not in self._after:
            now = state
            for character in self._renderer.own_text(token) or REPLACEMENT:
                now, found = self._machine.step(now, character)
                if _ends_marker(found) and self._renderer.is_special(token):
                    break  # what it holds besides belongs to the marker
            self._after[key] = now
        return self._after[key]

    def kind(self, state: int) -> Kind:
        """Return what the position behind which the state is belongs to: thinking, answer or tool."""
        return self._machine.kind(state)

    def is_open(self, state: int) -> bool:
        """Return whether thinking is open."""
        return self._machine.kind(state) == "thinking"

    def closing_from(self, state: int, tail: Sequence[int]) -> int | None:
        """Return the next token of what closes open thinking; `tail` are the newest tokens, as many as close a channel.

        None where the tokenizer cannot write it.
        """
        if (missing := self._machine.missing(state)) is not None:
            if missing not in self._closing:
                self._closing[missing] = self._written(missing)
            return next(iter(self._closing[missing]), None)
        ids = self.channel_closing
        begun = (n for n in range(len(ids)) if n == 0 or tuple(tail[-n:]) == ids[:n])
        return ids[max(begun)] if ids else None

    @functools.cached_property
    def channel_closing(self) -> tuple[int, ...]:
        """The tokens that close a thinking channel; none where the tokenizer cannot write them."""
        return self._written(HARMONY.closing)

    def _written(self, text: str) -> tuple[int, ...]:
        """The tokens of a text that goes on from another."""
        for ids in (self._renderer.encode(text), self._renderer.encode_behind("\n", text)):
            if "".join(self._renderer.own_text(token) or "" for token in ids) == text:
                return tuple(ids)
        return ()

    def table(self, vocabulary: int) -> TransitionTable:
        """Return the automaton over tokens as arrays, where the host cannot read each token as it comes."""
        import numpy as np  # which nothing else here needs

        machine = self._machine
        alphabet = machine.alphabet
        states = range(machine.n_states)
        steps = {c: [machine.step(state, c) for state in states] for c in alphabet}
        goes = {c: np.array([state for state, _ in found], np.int32) for c, found in steps.items()}
        ends = {c: np.array([_ends_marker(each) for _, each in found]) for c, found in steps.items()}
        columns: dict[tuple[str, bool], int] = {}
        distinct: dict[bytes, int] = {}
        moves: list[np.ndarray] = []
        column_of = np.empty(vocabulary, np.int64)
        for token in range(vocabulary):
            text = "".join(map(machine.standing, self._renderer.own_text(token) or REPLACEMENT))
            key = text, self._renderer.is_special(token)
            if key not in columns:
                now, over = np.arange(len(states), dtype=np.int32), np.zeros(len(states), bool)
                for c in text:
                    if key[1]:
                        now, over = np.where(over, now, goes[c][now]), over | ends[c][now]
                    else:
                        now = goes[c][now]
                place = columns[key] = distinct.setdefault(now.tobytes(), len(moves))
                if place == len(moves):
                    moves.append(now)
            column_of[token] = columns[key]
        return TransitionTable(column_of, np.stack(moves, 1), np.array([self.is_open(s) for s in states]))

    def kinds(self, prompt: Sequence[int], generated: Sequence[int]) -> list[Kind]:
        """Return what each position belongs to, from the last of the prompt on."""
        state = self.start(prompt)
        kinds = [self.kind(state)]
        for token in generated:
            state = self.after(state, token)
            kinds.append(self.kind(state))
        return kinds

    def read(self, prompt: Sequence[int], ids: Sequence[int], kept: str | None = None) -> Reading:
        """Return the account of a completion; `kept` is what of its text, special tokens read as text, is left."""
        renderer = self._renderer
        text = renderer.decode_raw(ids) if kept is None else kept
        begins = renderer.offsets(ids, text)
        special = {i for i, token in enumerate(ids) if renderer.is_special(token)}
        ends = {begins[i]: begins[i + 1] for i in special}
        parts = _parts(self._machine, self.start(prompt), text, self.markers, ends)
        marked = [part for part in parts if part.kind == "marker"]
        dropped = [
            (begins[i], begins[i + 1])
            for i in sorted(special)
            if not any(part.start < begins[i + 1] and begins[i] < part.stop for part in marked)
        ]
        return _shown(text, parts, begins[:-1], dropped)

    @functools.cached_property
    def _header(self) -> tuple[str, str]:
        """What begins the model's turn in a template, without what it opens there, and all that it writes for it."""
        written = self._renderer.generation_prompt
        written = self._renderer.decode_raw(self._renderer.encode(written)).strip() if written else ""
        opens = [f.opening for f in (self.markers, *BLOCKS) if f.opening in written]
        at = min((written.find(opening) for opening in opens), default=len(written))
        return written[:at].strip(), written

    def _start(self, prompt: tuple[int, ...]) -> int:
        header, written = self._header
        decode = self._renderer.decode_raw
        tail = decode(prompt[-TAIL:])
        if header:
            text = tail if header in tail or len(prompt) <= TAIL else decode(prompt)
            _, found, behind = text.rpartition(header)
            if found:
                return self._through(found * self.markers.has_channels + behind)
        elif written and tail.rstrip().endswith(written):
            return self._through(written)
        ended = _lower(tail.rstrip())
        opens = any(ended.endswith(_lower(opening)) for opening in {self.markers.opening, DEFAULT.opening})
        return self._machine.opened if opens else self._machine.initial

    def _through(self, text: str) -> int:
        state = self._machine.initial
        for character in text:
            state, _ = self._machine.step(state, character)
        return state


def _ends_marker(found: _Found | None) -> bool:
    return found is not None and found.does != "name"


def spans_of(text: str, markers: ThinkingMarkers | None = None) -> tuple[Span, ...]:
    """Return the spans of a text of which no tokens are known; markers of all known families count in it."""
    if (plain := HARMONY_PLAIN.match(text)) is not None:
        return _channels_without_markers(text, plain)
    own = markers or DEFAULT
    machine = _machine(own, bare=True)
    return tuple(p.span for p in _parts(machine, machine.initial, text, own, {}))


def _channels_without_markers(text: str, first: re.Match[str]) -> tuple[Span, ...]:
    """The spans of gpt-oss' form where a decoder dropped its special tokens, and the headers' words are left."""
    kinds: dict[str, Kind] = {"analysis": "thinking", "final": "answer"}
    at = first.end()
    spans, kind = [Span("marker", 0, at, of="answer")], kinds["analysis" if first[1] else "final"]
    for header in HARMONY_NEXT.finditer(text, at):
        spans.append(Span(kind, at, header.start()))
        spans.append(Span("marker", header.start(), header.end(), of=kind))
        is_call = header[1] == "commentary" and text[header.end() :].lstrip().startswith("to=")
        kind, at = "tool" if is_call else kinds.get(header[1], "answer"), header.end()
    return (*spans, Span(kind, at, len(text)))


def unwrapped(reply: str) -> str:
    """Return a reply without the tags around the answer in it, where such stand."""
    for opening, closing in WRAPPERS:
        o, c = re.escape(opening), re.escape(closing)
        whole = re.findall(rf"(?:^|\n|>)[ \t]*{o}(.*?)(?:{c}|\Z)", reply, re.DOTALL | re.IGNORECASE)
        if inner := [text.strip() for text in whole if text.strip()]:
            return str(inner[-1])
        reply = str(re.sub(rf"\s*{c}\s*\Z", "", reply, flags=re.IGNORECASE))
    return reply


@dataclass
class _Part:
    """A part of a raw text that is being read; `does` and `before` are a marker's."""

    kind: Kind
    start: int
    stop: int
    of: Kind | None = None
    does: str = ""
    before: int = 0
    text: str = ""
    late: bool = False

    def says(self, text: str) -> bool:
        """Whether it holds more than blanks and points."""
        return bool(text[self.start : self.stop].strip(" \t\n" + _POINTS))

    @property
    def span(self) -> Span:
        of = self.of if self.kind == "marker" else None
        return Span(self.kind, self.start, self.stop, of=of, late=self.late)


def _parts(
    machine: _Machine, state: int, text: str, own: ThinkingMarkers, ends: dict[int, int]
) -> list[_Part]:
    """What a text consists of. `ends` has where each special token ends, by where it begins."""
    kind = machine.kind(state)
    if not machine.may_find(state, text):
        return [_Part(kind, 0, len(text))] if text else []
    parts, at, header = [], 0, None
    swallowed = token_end = 0
    for i, character in enumerate(text):
        token_end = ends.get(i, token_end)
        if i < swallowed:
            continue
        state, found = machine.step(state, character)
        if found is None or found.does == "name":
            continue
        start, stop = max(i + 1 - found.length, 0), i + 1
        if stop < token_end:  # inside a special token, whose end goes with it
            stop = swallowed = token_end
        if found.does == "begin":
            header = max(start, at) if header is None else header
            of = kind
            continue
        if found.does == "end":
            start, header = (at if header is None else header), None
            of = found.of
        else:
            of = kind
        parts.append(_Part(kind, at, max(start, at)))
        parts.append(_Part("marker", max(start, at), stop, of, found.does, found.before, found.text))
        at, kind = stop, found.to
    if header is not None:
        parts += [_Part(kind, at, header), _Part("marker", header, len(text), kind, "end")]
        at = len(text)
    parts.append(_Part(kind, at, len(text)))
    _take_back_mentions(parts, text)
    _join_second_closings(parts, text, own)
    _answer_inside(parts, text)
    return _merged(parts)


def _take_back_mentions(parts: list[_Part], text: str) -> None:
    """Read an opening that is only talked about as text, with all behind it that it seemed to open."""
    for i, part in enumerate(parts):
        if part.does != "open" or i + 1 >= len(parts):
            continue
        inside, closing = parts[i + 1], parts[i + 2] if i + 2 < len(parts) else None
        pair = text[inside.start : inside.stop].strip().lower() in (
            "and",
            "or",
            "&",
            ",",
            "/",
            "...",
            "…",
            "to",
        )
        told = _SAYS.match(text, part.stop) is not None or (
            part.before != _BEGINNING and (_goes_on(text, part.stop) or _is_fenced(text, part))
        )
        if (closing is None and told) or (
            closing is not None and (pair or told) and _is_mention(text, closing)
        ):
            for each in (part, inside, *([closing] if closing else [])):
                each.kind, each.does = "answer", ""


def _join_second_closings(parts: list[_Part], text: str, own: ThinkingMarkers) -> None:
    """Let a closing that nothing opened end a thought from the last one on, or be text, or nothing."""
    says = (p.start for p in reversed(parts) if p.kind in ("answer", "tool") and p.says(text))
    last, lower = next(says, -1), ""
    i = 0
    while i < len(parts):
        part = parts[i]
        if part.does == "stray" and _is_mention(text, part):
            part.kind, part.does = "answer", ""
        elif part.does == "stray" and part.start < last:
            first = i
            while first and (parts[first - 1].kind == "answer" or parts[first - 1].does == "stray"):
                first -= 1
            for each in parts[first:i]:
                each.kind, each.does, each.late = "thinking", "", True
            part.of, part.does, part.late = "thinking", "close", True
            opening = next((f.opening for f in (own, *BLOCKS) if _lower(f.closing) == part.text), "")
            lower = lower or _lower(text)
            at = lower.find(_lower(opening), parts[first].start, part.start) if first < i and opening else -1
            if at >= 0:  # it was opened in the middle of a line
                stop = at + len(opening)
                opened = [
                    _Part("answer", parts[first].start, at),
                    _Part("marker", at, stop, "answer", "open"),
                    _Part("thinking", stop, part.start, late=True),
                ]
                parts[first:i] = opened
                i = first + len(opened)
        i += 1


def _answer_inside(parts: list[_Part], text: str) -> None:
    """Let a thought that never closed end where the answer is marked as such."""
    last = parts[-1]
    if last.kind == "thinking":
        wrapped = (rf"(?:^|\n[ \t]*|[\w.!?>])({re.escape(opening)})" for opening, _ in WRAPPERS)
        pattern = re.compile("|".join(wrapped), re.IGNORECASE)
        if (found := pattern.search(text, last.start)) is not None:
            at = max(found.start(n) for n in range(1, len(WRAPPERS) + 1))
            parts.append(_Part("answer", at, last.stop))
            last.stop = at


def _merged(parts: list[_Part]) -> list[_Part]:
    """The parts that are not empty, neighbours of one kind as one."""
    merged: list[_Part] = []
    for part in parts:
        if part.start == part.stop:
            continue
        if merged and (merged[-1].kind, merged[-1].late) == (part.kind, part.late) and part.kind != "marker":
            merged[-1].stop = part.stop
        else:
            merged.append(replace(part))
    return merged


def _is_mention(text: str, marker: _Part) -> bool:
    """Whether a marker stands in a sentence that talks about it."""
    before, behind = text[max(marker.start - 80, 0) : marker.start], text[marker.stop : marker.stop + 80]
    if before[-1:] and before[-1:] in _QUOTES and behind[:1] and behind[:1] in _QUOTES:
        return True
    if _is_fenced(text, marker):
        return True
    if _SAYS.match(text, marker.stop) or (re.search(r"\w[ \t]+\Z", before) and not behind.strip()):
        return True
    led = before[-1:].isspace() or (before[-1:] and before[-1:] in _QUOTES + "([{/")
    return bool(led) and _goes_on(text, marker.stop)


def _is_fenced(text: str, marker: _Part) -> bool:
    """Whether a marker stands in a block of code."""
    return text.count("```", 0, marker.start) % 2 == 1 and "```" in text[marker.stop :]


def _goes_on(text: str, at: int) -> bool:
    """Whether a sentence goes on at a place: with a point or quote, or a blank and a small letter or quote."""
    behind = text[at : at + 2]
    if not behind:
        return False
    if behind[0] in _POINTS + _QUOTES[:-2] + "/":
        return True
    return behind[0] in " \t" and (behind[1:].islower() or behind[1:] in tuple(_QUOTES[:-2] + "(=–—-"))


def _shown(
    text: str, parts: Sequence[_Part], begins: Sequence[int], dropped: Sequence[tuple[int, int]]
) -> Reading:
    """The account of a raw text without the special tokens at `dropped`, stripped; tokens begin at `begins`."""
    kept = "".join(text[a:b] for a, b in _between(dropped, len(text)))
    shown = kept.strip()
    lead = len(kept) - len(kept.lstrip())

    def moved(at: int) -> int:
        gone = sum(min(stop, at) - start for start, stop in dropped if start < at)
        return min(max(at - gone - lead, 0), len(shown))

    spans, token = [], 0
    for i, part in enumerate(parts):
        first = token
        while token < len(begins) and (begins[token] < part.stop or i == len(parts) - 1):
            token += 1
        start, stop = moved(part.start), moved(part.stop)
        if start < stop or first < token:
            spans.append(replace(part.span, start=start, stop=stop, first_token=first, stop_token=token))
    if not parts and begins:
        spans = [Span("answer", 0, 0, 0, len(begins))]
    return Reading(shown, tuple(spans))


def _between(dropped: Sequence[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    at = 0
    for start, stop in dropped:
        yield at, start
        at = stop
    yield at, length
