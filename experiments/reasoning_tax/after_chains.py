"""Answers steered behind a chain that is already written: what scope `answer` does, at a tenth of the cost.

A steering of scope `answer` does nothing until the thinking is closed, so every cell of that scope shares the chain
that the unsteered model wrote. Here the chain, with the marker that closes it, is given back as part of the prompt,
and only what follows is decoded:

1. The model is the same; its chat template is replaced by one that passes a text through, and the text is the
   prompt as the model's own template renders it, then the chain up to and including `</think>`.
2. So the marker's last token is the prompt's last, from whose output the first answer token comes: just where
   scope `answer` begins in the whole completion.
3. A chain that never closed has no answer to steer, and its record is the unsteered one. So that twins stay
   together its item is asked all the same, with the marker alone for a prompt: equal rows run once, and what comes of
   it is not used.

In float32 the completions are those of the ordinary way, token by token (a test compares them), provided that the
chain's text reads back as the tokens that were written. The unsteered answer is decoded here too, to see that it does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import steerkit as sk
from experiments.reasoning_tax.setting import Setting, by_item, records_of
from steerkit.interventions.prompt_edit import edited_prompt
from steerkit.models.markers import DEFAULT
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.scoring.reply import final_reply
from steerkit.suites.suite import Suite

PASS_THROUGH = "{{ messages[0]['content'] }}"
CLOSING = DEFAULT.closing
TOKENS = 48  # an answer that was trained on is one sentence; longer ones are cut off

ByCell = dict[str, dict[str, Record]]  # by cell id, then by item


def answered(
    setting: Setting,
    lm: sk.LanguageModel,
    cells: Sequence[Cell],
    items: Suite,
    plain: Mapping[str, Record],
    told: Sequence[sk.Intervention],
    split: str,
    out: Path,
) -> tuple[ByCell, float]:
    """Each cell's records for the items, as whole completions, and for how many items decoding anew agrees.

    `plain` are the unsteered model's records of these items under the same condition `told`. The second value is the
    share of the closed chains whose unsteered answer is the same words when it is decoded behind the given chain.
    """
    asked = with_chains(lm, items, plain, told)
    tokens = min(TOKENS, setting.tokens)
    run = setting.measured(passing_through(lm), [Cell(), *cells], out, asked, split, tokens=tokens)
    written = {cell.id: by_item(records_of(run, cell)) for cell in (Cell(), *cells)}
    whole = {
        cell.id: {item: joined(plain[item], written[cell.id][item], cell) for item in plain} for cell in cells
    }
    return whole, agreement(plain, written[Cell().id])


def passing_through(lm: sk.LanguageModel) -> sk.LanguageModel:
    """The same model, to which a prompt is the very text that it reads."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = PASS_THROUGH
    return sk.LanguageModel(lm.hf, tokenizer, lm.name)


def with_chains(
    lm: sk.LanguageModel, items: Suite, plain: Mapping[str, Record], told: Sequence[sk.Intervention]
) -> Suite:
    """The items, each prompt as the model reads it, up to the end of the chain that it wrote."""
    asked = []
    for item in items:
        text = CLOSING
        if is_closed(plain[item.id]):
            text = lm.renderer.render(*edited_prompt(item.prompt, None, told)) + chain_of(plain[item.id])
        asked.append(replace(item, prompt=text))
    return replace(items, items=tuple(asked))


def chain_of(record: Record) -> str:
    """The completion up to and including the first closing marker."""
    return record.completion.partition(CLOSING)[0] + CLOSING


def is_closed(record: Record) -> bool:
    """Whether there is a chain with an answer behind it."""
    return CLOSING in record.completion


def joined(plain: Record, answer: Record, cell: Cell) -> Record:
    """The record of the whole completion: the unsteered chain, then the steered answer.

    Degenerate where the answer is, or the unsteered completion was; its repetition is not known. An answer that is cut
    off is no abstention and not correct, whatever it has said: it may yet say something else.
    """
    if not is_closed(plain):
        return replace(plain, cell=cell.id)
    thinking = plain.scores["thinking_tokens"]
    total = thinking + answer.tokens
    scores = {**answer.scores, "thinking_tokens": thinking, "tokens": total}
    scores["degenerate"] = answer.scores["degenerate"] or plain.scores["degenerate"]
    del scores["repetition"]
    if answer.finish == "length":
        scores |= {"abstained": False, "correct": False}
    whole = f"{chain_of(plain)}\n{answer.completion}"
    return replace(plain, cell=cell.id, completion=whole, tokens=total, finish=answer.finish, scores=scores)


def agreement(plain: Mapping[str, Record], unsteered: Mapping[str, Record]) -> float:
    """Among closed chains, how often the answer behind the given chain is the answer of the whole completion."""
    same = [
        _begins_alike(final_reply(record.completion), final_reply(unsteered[item].completion))
        for item, record in plain.items()
        if is_closed(record)
    ]
    return sum(same) / len(same) if same else float("nan")


def _begins_alike(whole: str, again: str) -> bool:
    """The second is cut off at fewer tokens, so it may be the beginning of the first."""
    return whole.split() == again.split() or (bool(again) and whole.startswith(again))
