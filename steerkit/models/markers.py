"""Thinking markers: the texts that open and close a model's thinking. No other module writes one down.

A model's own are found in its chat template and tokenizer (`find_markers`), in this order:

1. A turn with reasoning in it is rendered, and what stands around the reasoning is read off. So markers are found that
   nobody has listed.
2. Else both texts of a known family stand in the template, or are tokens of their own, or one stands in the template.
3. Else the model has shown no sign of thinking, and the default ones are what is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class ThinkingMarkers:
    """The texts between which a model thinks. A chat template may write the opening one into the prompt."""

    opening: str = "<think>"
    closing: str = "</think>"

    @property
    def has_channels(self) -> bool:
        """Whether thinking is a channel among others, named in the header of each message (gpt-oss' harmony form)."""
        return self.opening.startswith(CHANNEL)


CHANNEL, START, MESSAGE = "<|channel|>", "<|start|>", "<|message|>"
ENDS = ("<|end|>", "<|return|>", "<|call|>")
HARMONY = ThinkingMarkers(f"{CHANNEL}analysis{MESSAGE}", f"{ENDS[0]}{START}assistant{CHANNEL}final{MESSAGE}")
# What is left of that form where special tokens were dropped, or stood in the prompt.
HARMONY_PLAIN = re.compile(
    r"\s*(?:assistant)?(?:(analysis)(?=[A-Z\"“]|.*assistantfinal|<\|message\|>)|(final)(?=[A-Z\"“]|<\|message\|>))"
    r"(?:<\|message\|>)?",
    re.DOTALL,
)
HARMONY_NEXT = re.compile(
    r"(?:<\|end\|>)?(?:<\|start\|>)?assistant(?:<\|channel\|>)?(analysis|final|commentary)(?:<\|message\|>)?"
)

DEFAULT = ThinkingMarkers()
BLOCKS = (
    DEFAULT,
    ThinkingMarkers("<thinking>", "</thinking>"),
    ThinkingMarkers("<thought>", "</thought>"),
    ThinkingMarkers("<thoughts>", "</thoughts>"),
    ThinkingMarkers("<reasoning>", "</reasoning>"),
    ThinkingMarkers("<reflection>", "</reflection>"),
    ThinkingMarkers("<scratchpad>", "</scratchpad>"),
    ThinkingMarkers("<analysis>", "</analysis>"),
    ThinkingMarkers("[THINK]", "[/THINK]"),
    ThinkingMarkers("<seed:think>", "</seed:think>"),
    ThinkingMarkers("<mm:think>", "</mm:think>"),
    ThinkingMarkers("<longcat_think>", "</longcat_think>"),
    ThinkingMarkers("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThinkingMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkingMarkers("<|inner_prefix|>", "<|inner_suffix|>"),
    ThinkingMarkers("<|channel>thought", "<channel|>"),  # Gemma 4
    ThinkingMarkers("<unused94>thought", "<unused95>"),  # MedGemma
    ThinkingMarkers("◁think▷", "◁/think▷"),
)
FAMILIES = (*BLOCKS, HARMONY)
# Between these a model calls a tool; without a closing text the call goes on to the end.
TOOLS = (
    ("<tool_call>", "</tool_call>"),
    ("<|tool_call|>", "<|/tool_call|>"),
    ("<|tool_call>", "<tool_call|>"),
    ("<seed:tool_call>", "</seed:tool_call>"),
    ("<function_call>", "</function_call>"),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("<|START_ACTION|>", "<|END_ACTION|>"),
    ("[TOOL_CALLS]", ""),
    ("<|python_tag|>", ""),
)
# What may stand around the answer itself.
WRAPPERS = (
    ("<answer>", "</answer>"),
    ("<response>", "</response>"),
    ("<final_answer>", "</final_answer>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)


@dataclass(frozen=True, slots=True)
class FoundMarkers:
    """A model's markers and where they were found; `doubt` says in one line why its thinking cannot be told.

    `calls_tools` says that the template or the tokens show how it calls a tool.
    """

    markers: ThinkingMarkers = field(default_factory=ThinkingMarkers)
    source: str = ""
    doubt: str = ""
    calls_tools: bool = False


def find_markers(tokenizer: Any) -> FoundMarkers:
    """Return what a tokenizer and its chat template say of a model's thinking; see the module's contract."""
    template = getattr(tokenizer, "chat_template", None) or ""
    text = template if isinstance(template, str) else str(template)
    found = _find_markers(tokenizer, text)
    shown = any(opening in text or opening in _own_tokens(tokenizer)[1] for opening, _ in TOOLS)
    return replace(found, calls_tools=shown or found.markers.has_channels)


def _find_markers(tokenizer: Any, text: str) -> FoundMarkers:
    around = _around_reasoning(tokenizer) if text else None
    if around is not None:
        before, behind = around
        for family in FAMILIES:
            if family.opening in before and _closes(family, behind):
                return FoundMarkers(family, "chat template")
        opening, closing = _tag(before), _tag(behind)
        if opening and closing and opening != closing:
            return FoundMarkers(ThinkingMarkers(opening, closing), "chat template")
    for family in FAMILIES:
        if family.opening in text and _closes(family, text):
            return FoundMarkers(family, "chat template")
    for tokens in _own_tokens(tokenizer):
        for family in FAMILIES:
            parts = (CHANNEL, START, MESSAGE) if family.has_channels else (family.opening, family.closing)
            if all(part.removesuffix("thought") in tokens for part in parts) and "unused" not in parts[0]:
                return FoundMarkers(family, "tokens of its own")
    for (
        family
    ) in FAMILIES:  # a template may open a block and leave the rest to the model, or take past ones away
        if family.opening in text or family.closing in text:
            return FoundMarkers(family, "chat template")
    if around is not None:
        return FoundMarkers(
            DEFAULT,
            doubt="its chat template shows reasoning in a form that is not known, so thinking cannot be told from the "
            "answer: set lm.markers = ThinkingMarkers(opening, closing)",
        )
    return FoundMarkers()


def _closes(family: ThinkingMarkers, text: str) -> bool:
    return CHANNEL in text and MESSAGE in text if family.has_channels else family.closing in text


def _own_tokens(tokenizer: Any) -> tuple[frozenset[str], frozenset[str]]:
    """The texts of a tokenizer's special tokens, and of all that were added to its vocabulary."""
    added: Iterable[Any] = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = frozenset(str(token.content) for token in added if token.special)
    return special, frozenset(str(token.content) for token in added)


def _around_reasoning(tokenizer: Any) -> tuple[str, str] | None:
    """What a template writes between a turn's header and its reasoning, and between that and the answer.

    None where it shows no reasoning, or cannot be rendered so.
    """
    question, thought, answer = "What is it?", "steerkit-thought", "steerkit-answer"
    turn = {"role": "assistant", "content": answer}
    asked = [{"role": "user", "content": question}]
    for name in ("reasoning_content", "reasoning", "thinking"):
        try:
            rendered = str(tokenizer.apply_chat_template([*asked, {**turn, name: thought}], tokenize=False))
        except Exception:  # a template may raise whatever it likes
            continue
        if rendered.count(thought) == 1 and answer in rendered.partition(thought)[2]:
            before, _, behind = rendered.partition(thought)
            return before.rpartition(question)[2], behind.partition(answer)[0]
    return None


def _tag(text: str) -> str:
    """The tag that stands nearest to the reasoning in such a text; empty where none does."""
    tags = re.findall(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,40}\]|◁[^◁▷\s]{1,40}▷", text)
    return tags[-1] if len(tags) == 1 or (tags and text.rstrip().endswith(tags[-1])) else ""
