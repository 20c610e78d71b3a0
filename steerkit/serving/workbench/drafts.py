"""Pairs under edit: a set and the pair that is in the boxes, as data, and how both are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from steerkit.core.characters import one_line
from steerkit.core.errors import MisuseError
from steerkit.extraction.lint import Finding
from steerkit.extraction.pairs import ContrastPair, ContrastPairs, prompt_text
from steerkit.serving.workbench.coloured import plain_html

MOST_FINDINGS = 40
LONGEST = 90  # characters of a prompt in the list


@dataclass(frozen=True)
class Draft:
    """A set of pairs under edit, and the place of the pair that is in the boxes."""

    name: str = "pairs"
    pairs: tuple[ContrastPair, ...] = ()
    at: int = 0

    def edited(self, prompt: str, positive: str, negative: str) -> Draft:
        """Return the set with the pair in the boxes as they are now; a conversation keeps all but its last turn."""
        if not self.pairs:
            return self if not any((prompt, positive, negative)) else self.added(prompt, positive, negative)
        pair = self.pairs[self.at]
        if prompt != prompt_text(pair.prompt):
            pair = replace(pair, prompt=prompt)
        pair = replace(pair, positive=positive, negative=negative)
        return replace(self, pairs=(*self.pairs[: self.at], pair, *self.pairs[self.at + 1 :]))

    def added(self, prompt: str = "", positive: str = "", negative: str = "") -> Draft:
        """Return the set with a further pair, which is the one in the boxes."""
        taken = {pair.id for pair in self.pairs}
        number = next(n for n in range(len(taken) + 1, 2 * len(taken) + 3) if f"pair-{n}" not in taken)
        pair = ContrastPair(f"pair-{number}", prompt, positive, negative)
        return replace(self, pairs=(*self.pairs, pair), at=len(self.pairs))

    def without(self) -> Draft:
        """Return the set without the pair in the boxes."""
        pairs = (*self.pairs[: self.at], *self.pairs[self.at + 1 :])
        return replace(self, pairs=pairs, at=max(0, min(self.at, len(pairs) - 1)))

    def moved(self, to: int) -> Draft:
        """Return the set with another pair in the boxes."""
        return replace(self, at=max(0, min(to, len(self.pairs) - 1)))

    @property
    def boxes(self) -> tuple[str, str, str]:
        """Prompt, positive and negative side of the pair in the boxes."""
        if not self.pairs:
            return "", "", ""
        pair = self.pairs[self.at]
        return prompt_text(pair.prompt), pair.positive, pair.negative

    def whole(self) -> ContrastPairs:
        """Return the set. Raises MisuseError where it is empty or a side is."""
        if not self.pairs:
            raise MisuseError("there is no pair yet: write one, or open a set")
        for pair in self.pairs:
            if not (prompt_text(pair.prompt).strip() and pair.positive.strip() and pair.negative.strip()):
                raise MisuseError(
                    f"{pair.id} lacks its prompt or one of its sides: write it, or delete the pair"
                )
        return ContrastPairs(self.name, self.pairs)


def list_html(draft: Draft, findings: Sequence[Finding] = ()) -> str:
    """Return the pairs as a list of buttons, those that lint found something in marked."""
    if not draft.pairs:
        return '<p class="sk-empty">No pairs yet: open a set, or write the first one.</p>'
    worst: dict[str, str] = {}
    for finding in findings:  # errors come first
        worst.setdefault(finding.where.partition(" (")[0], finding.severity)
    entries = []
    for place, pair in enumerate(draft.pairs):
        text = one_line(prompt_text(pair.prompt)) or "(no prompt)"
        mark = worst.get(pair.id, "")
        sign = f' <b class="sk-{mark}">{mark}</b>' if mark in ("error", "warning") else ""
        entries.append(
            f'<li><button type="button" data-at="{place}" aria-current="{str(place == draft.at).lower()}">'
            f"<span>{place + 1}</span> {escape(text[:LONGEST])}{'…' if len(text) > LONGEST else ''}{sign}</button></li>"
        )
    return f'<ol class="sk-pairs" tabindex="-1">{"".join(entries)}</ol>'


def findings_html(findings: Sequence[Finding], draft: Draft) -> str:
    """Return what lint found, errors first, each with a way to its pair."""
    places = {pair.id: place for place, pair in enumerate(draft.pairs)}
    lines = []
    for finding in findings[:MOST_FINDINGS]:
        at = places.get(finding.where.partition(" (")[0])
        where = plain_html(one_line(finding.where))
        button = where if at is None else f'<button type="button" data-at="{at}">{where}</button>'
        lines.append(
            f'<li><b class="sk-{finding.severity}">{finding.severity}</b> {button}: '
            f"{escape(one_line(finding.message))} <code>{finding.code}</code></li>"
        )
    more = f"<p>and {len(findings) - MOST_FINDINGS} more</p>" if len(findings) > MOST_FINDINGS else ""
    if not lines:
        return '<p class="sk-said" role="status">nothing found that would spoil a vector</p>'
    return f'<ul class="sk-findings" role="status">{"".join(lines)}</ul>{more}'


def progress_html(done: int, total: int) -> str:
    """Return a bar."""
    bar = f'<progress max="{total}" value="{done}"></progress>'
    return f'<label class="sk-progress">extracting {bar} {done} of {total}</label>'
