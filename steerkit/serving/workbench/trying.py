"""Try: one conversation with the unsteered model and the steered one, side by side, token by token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from steerkit.core.characters import one_line
from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Message, Prompt
from steerkit.engines.base import Completion, Decoding, Request
from steerkit.interventions.base import Intervention
from steerkit.serving.workbench.coloured import (
    common_scale,
    legend_html,
    notes_html,
    notes_of,
    plain_html,
    written_html,
)
from steerkit.serving.workbench.context import Context
from steerkit.serving.workbench.controls import SteeringControls, reader_names, readers_of
from steerkit.serving.workbench.streams import Written, write
from steerkit.serving.workbench.told import OVER_AT_ONCE, WRITTEN_SLOWLY, in_one_line, said

PLAIN, STEERED = "unsteered", "steered"
EMPTY = (
    '<p class="sk-empty">Ask something: the same question goes to the model as it is and to the steered one. '
    "The two answers come side by side, their tokens coloured by what was read of them.</p>"
)


@dataclass(frozen=True)
class Turn:
    """A question and both answers; `html` is how they were shown, without the question."""

    question: str
    plain: Completion
    steered: Completion
    html: str

    def answer(self, side: str) -> Completion:
        """The answer of a side."""
        return self.plain if side == PLAIN else self.steered


Conversation = tuple[Turn, ...]


def prompt_of(turns: Conversation, side: str, question: str, *, chat: bool) -> Prompt:
    """Return what a side is asked: what it was asked and answered before, and the question.

    A model without a chat template is asked the question alone.
    """
    if not chat:
        return question
    messages: list[Message] = []
    for turn in turns:
        messages.append(Message(role="user", content=turn.question))
        messages.append(Message(role="assistant", content=turn.answer(side).answer))
    return (*messages, Message(role="user", content=question))


class TryTab:
    """The tab's components and what they do."""

    def __init__(self, context: Context) -> None:
        self._context = context
        with gr.Row(elem_classes="sk-split"):
            with gr.Column(scale=1, min_width=300, elem_classes="sk-side"):
                self.controls = SteeringControls(context, "try")
                self.reader = gr.Dropdown(reader_names(), value=reader_names()[0], label="colour tokens by")
                with gr.Accordion("decoding", open=False):
                    self.system = gr.Textbox("", label="system prompt", lines=1, max_lines=6)
                    self.tokens = gr.Number(96, label="most new tokens", minimum=1, precision=0)
                    self.temperature = gr.Number(0, label="temperature (0: greedy)", minimum=0, step=0.1)
                    self.seed = gr.Number(0, label="seed", precision=0)
            with gr.Column(scale=3, min_width=320):
                self.shown = gr.HTML(EMPTY, elem_id="try-conversation", apply_default_css=False)
                self.question = gr.Textbox(
                    "", label="question", lines=1, max_lines=8, elem_id="try-question",
                    placeholder="What did Napoleon say to his barber on 3 May 1809?",
                )  # fmt: skip
                with gr.Row(elem_classes="sk-buttons"):
                    self.ask = gr.Button("Ask both", variant="primary", elem_id="try-ask", min_width=110)
                    self.again = gr.Button("Ask again", elem_id="try-again", min_width=110)
                    self.stop = gr.Button("Stop", elem_id="try-stop", min_width=80)
                    self.clear = gr.Button("New conversation", min_width=140)
                self.line = gr.HTML(elem_id="try-line", elem_classes="sk-line", apply_default_css=False)
        self.turns = gr.State(())
        self._connect()

    def _connect(self) -> None:
        inputs = [
            self.question, self.turns, self.reader, self.system, self.tokens, self.temperature, self.seed,
            *self.controls.inputs,
        ]  # fmt: skip
        outputs = [self.shown, self.turns, self.question, self.line]
        ask = gr.on(
            [self.question.submit, self.ask.click],
            in_one_line(self.line, self._ask),
            inputs,
            outputs,
            concurrency_limit=None,
            **WRITTEN_SLOWLY,
        )
        again = self.again.click(
            in_one_line(self.line, self._ask_again), inputs, outputs, concurrency_limit=None, **WRITTEN_SLOWLY
        )
        stopped = said("stopped: what was written is no part of the conversation")
        self.stop.click(lambda: stopped, None, self.line, cancels=[ask, again], **OVER_AT_ONCE)
        self.clear.click(
            lambda: {self.turns: (), self.shown: EMPTY, self.line: ""}, None, outputs, **OVER_AT_ONCE
        )

    async def _ask(self, question: str, turns: Conversation, *rest: Any) -> AsyncIterator[dict[Any, Any]]:
        if not question.strip():
            raise MisuseError("write a question first")
        async for values in self._asked(question.strip(), turns, *rest, typed=question):
            yield values

    async def _ask_again(self, _: str, turns: Conversation, *rest: Any) -> AsyncIterator[dict[Any, Any]]:
        if not turns:
            raise MisuseError("nothing was asked yet")
        async for values in self._asked(turns[-1].question, turns[:-1], *rest):
            yield values

    async def _asked(
        self,
        question: str,
        turns: Conversation,
        reader: str,
        system: str,
        tokens: float,
        temperature: float,
        seed: float,
        *controls: Any,
        typed: str = "",
    ) -> AsyncIterator[dict[Any, Any]]:
        """Ask both sides; the box of the question is emptied once the model has begun, and not where it refuses."""
        settings = self.controls.settings(controls)
        acting = settings.interventions(self._context)
        decoding = Decoding(int(tokens or 0), temperature=float(temperature or 0), seed=int(seed or 0))
        readers = readers_of(reader, settings, self._context)
        chat = self._context.lm.renderer.has_chat_template
        requests = {
            side: Request(
                prompt_of(turns, side, question, chat=chat),
                does,
                decoding,
                system.strip() or None,
                readers=readers,
                reads_prompt=False,
            )
            for side, does in ((PLAIN, ()), (STEERED, acting))
        }
        yield {self.line: said("writing …")}
        begun = False
        async for written in write(self._context.scheduler, requests):
            failed = next((each.error for each in written.values() if each.error is not None), None)
            if failed is not None:
                yield {self.shown: conversation_html(turns, question, '<p class="sk-wrong">not answered</p>')}
                raise failed
            under_way = turn_html(written, self._context, acting)
            values: dict[Any, Any] = {self.shown: conversation_html(turns, question, under_way)}
            if not begun and any(each.token_ids or each.over for each in written.values()):
                begun = True
                values |= {self.question: ""} if typed else {}
            yield values
        plain, steered = (each.completion for each in written.values())
        assert plain is not None
        assert steered is not None
        turn = Turn(question, plain, steered, turn_html(written, self._context, acting))
        yield {
            self.turns: (*turns, turn),
            self.shown: conversation_html((*turns, turn)),
            self.line: said(f"done: {steered.tokens} tokens steered, {plain.tokens} unsteered"),
        }


def conversation_html(turns: Conversation, question: str = "", under_way: str = "") -> str:
    """Return a conversation, and the question that is being answered, as a part of a page."""
    shown = [(turn.question, turn.html) for turn in turns]
    if under_way:
        shown.append((question, under_way))
    if not shown:
        return EMPTY
    asked = "".join(
        f'<h3 class="sk-question" dir="auto">{plain_html(text)}</h3>{answers}' for text, answers in shown
    )
    return f'<div class="sk-talk sk-read">{asked}</div>'


def turn_html(written: Mapping[Any, Written], context: Context, acting: Sequence[Intervention]) -> str:
    """Return both answers of a turn side by side, coloured on one scale where they are there."""
    read = common_scale(written.values())
    scale = None if read is None else read[1]
    specs = " ; ".join(one_line(str(each)) for each in acting) or "nothing acts"
    columns = []
    for side, each in written.items():
        text = written_html(each, context.lm.renderer, scale)
        notes = notes_html(notes_of(each.completion)) if each.completion is not None else ""
        spec = f'<p class="sk-notes sk-spec">{plain_html(specs)}</p>' if side == STEERED else ""
        columns.append(
            f'<section class="sk-answer" aria-label="{side}"><h4>{side}</h4>'
            f'<div class="sk-text" dir="auto">{text}</div>{notes}{spec}</section>'
        )
    legend = "" if read is None else legend_html(*read)
    return f'<div class="sk-two">{"".join(columns)}</div>{legend}'
