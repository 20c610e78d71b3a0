"""Pairs and labelled prompts as tables."""

from __future__ import annotations

from steerkit.core.registry import VIEWS
from steerkit.extraction.pairs import ContrastPairs, LabelledPrompts, prompt_text
from steerkit.report.views.parts import cut, frame, note, table

MOST = 20  # rows that are shown


def pairs_html(pairs: ContrastPairs) -> str:
    """Return the first pairs: id, prompt and the two sides; system prompts and tags where there are any."""
    shown = list(pairs)[:MOST]
    has_system = any(pair.system for pair in pairs)
    has_tags = any(pair.tags for pair in pairs)
    headings = ["id", *["system"] * has_system, "prompt", "positive", "negative", *["tags"] * has_tags]
    rows = [
        [
            pair.id,
            *[cut(pair.system or "")] * has_system,
            cut(prompt_text(pair.prompt)),
            cut(pair.positive),
            cut(pair.negative),
            *[", ".join(pair.tags)] * has_tags,
        ]
        for pair in shown
    ]
    return frame(pairs.name, f"{len(pairs)} contrast pairs", table(headings, rows), _rest(len(pairs)))


def prompts_html(prompts: LabelledPrompts) -> str:
    """Return the first labelled prompts, positive and negative ones in turn: id, label, prompt and kind."""
    positive = [item for item in prompts if item.label]
    negative = [item for item in prompts if not item.label]
    half = max(MOST // 2, MOST - min(len(positive), len(negative)))
    shown = [*positive[:half], *negative[:half]][:MOST]
    has_kind = any(item.kind for item in prompts)
    rows = [
        [
            item.id,
            "positive" if item.label else "negative",
            cut(prompt_text(item.prompt)),
            *[item.kind] * has_kind,
        ]
        for item in shown
    ]
    subtitle = f"{len(positive)} positive, {len(negative)} negative labelled prompts"
    headings = ["id", "label", "prompt", *["kind"] * has_kind]
    return frame(prompts.name, subtitle, table(headings, rows), _rest(len(prompts)))


def _rest(count: int) -> str:
    return note(f"{count - MOST} more") if count > MOST else ""


VIEWS.add("pairs", pairs_html)
VIEWS.add("prompts", prompts_html)
