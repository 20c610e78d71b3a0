"""The check catches what it is for: each wrong steering below turns the cell wrong that claims it is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from steerkit.checks import check, reference
from steerkit.checks.check import Cell, check_model
from steerkit.checks.families import byte_tokenizer, families, tiny
from steerkit.engines.base import Completion
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.extraction import extract
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel, load_model


def cells_of(lm: LanguageModel) -> dict[str, Cell]:
    steps = check_model("llama", lambda: lm)
    return dict(step for step in steps if isinstance(step, tuple))


def marks_of(lm: LanguageModel) -> dict[str, str]:
    return {column: cell.mark for column, cell in cells_of(lm).items()}


@pytest.fixture
def lm() -> LanguageModel:
    """A tiny Llama that no other test has used: asking for hidden states leaves hooks behind."""
    return load_model(tiny(families()["llama"]), byte_tokenizer())


def test_a_sound_model_is_ok_in_every_column(lm: LanguageModel) -> None:
    cells = cells_of(lm)
    assert list(cells) == list(check.COLUMNS)
    assert {cell.mark for cell in cells.values()} == {"ok"}, cells
    assert sum(cell.rows for cell in cells.values()) > 40


def test_a_model_whose_blocks_are_not_where_they_are_said_to_be_is_wrong(lm: LanguageModel) -> None:
    lm.blocks = (*lm.blocks[1:], lm.blocks[0])
    assert marks_of(lm)["load"] == "wrong"


def test_a_hook_on_another_block_is_wrong(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    at = SteeringVector.at
    monkeypatch.setattr(SteeringVector, "at", lambda self, layer, *a, **k: at(self, layer + 1, *a, **k))
    marks = marks_of(lm)
    assert [marks[column] for column in ("steer", "cache", "batch", "packed", "score")] == ["wrong"] * 5
    assert [marks["load"], marks["extract"]] == ["ok", "ok"]


def test_a_steering_that_is_one_position_late_is_wrong(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = reference.Edit.span

    def early(self: reference.Edit, prompt: int, length: int) -> tuple[int, int]:
        start, stop = span(self, prompt, length)
        return max(0, start - 1), stop

    monkeypatch.setattr(reference.Edit, "span", early)
    marks = marks_of(lm)
    assert [marks[column] for column in ("steer", "cache", "batch", "packed", "score")] == ["wrong"] * 5


def test_a_steering_that_moves_nothing_proves_nothing(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    direction = torch.zeros(lm.n_layers, lm.d_model)
    monkeypatch.setattr(
        check, "SteeringVector", lambda _direction, metadata: SteeringVector(direction, metadata)
    )
    assert "proves nothing" in cells_of(lm)["steer"].detail


def test_rows_that_change_places_in_the_engine_are_wrong(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = TransformersEngine.generate

    def mixed(self: TransformersEngine, requests: Any) -> Iterator[Completion]:
        found = list(generate(self, requests))
        found[3], found[4] = (
            replace(found[3], request=found[4].request),
            replace(found[4], request=found[3].request),
        )
        yield from found

    monkeypatch.setattr(TransformersEngine, "generate", mixed)
    assert marks_of(lm)["packed"] == "wrong"


def test_a_lost_row_is_wrong(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = TransformersEngine.generate
    monkeypatch.setattr(
        TransformersEngine, "generate", lambda self, requests: iter(list(generate(self, requests))[1:])
    )
    assert "29 completions for 30 requests" in cells_of(lm)["packed"].detail


def test_a_direction_that_is_read_one_token_early_is_wrong(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = extract.encoded_example

    def early(lm: LanguageModel, example: Any) -> Any:
        text = encoded(lm, example)
        return replace(text, prompt_length=text.prompt_length - 1)

    monkeypatch.setattr(extract, "encoded_example", early)
    assert marks_of(lm)["extract"] == "wrong"


def test_an_error_is_a_crash_and_a_refusal_is_none() -> None:
    def fail() -> LanguageModel:
        raise KeyError("blocks")

    [(column, cell), report] = list(check_model("broken", fail))
    assert (column, cell.mark) == ("load", "crash")
    assert not report.sound
    hf = tiny(families()["bert"])
    [(column, cell), report] = list(check_model("bert", lambda: load_model(hf, byte_tokenizer())))
    assert (column, cell.mark) == ("load", "refused")
    assert report.sound


def slow_greedy(
    hf: Any, blocks: Any, prompt: list[int], edits: list[reference.Edit], stops: tuple[int, ...], new: int
) -> list[int]:
    """One token at a time, everything recomputed at every step."""
    ids = list(prompt)
    for _ in range(new):
        token = int(reference.logits(hf, blocks, ids, edits, len(prompt))[-1].argmax())
        if token in stops:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", ["llama", "llama4_text", "qwen3_5_text"])
def test_one_pass_over_a_text_judges_as_decoding_it_token_by_token_does(name: str) -> None:
    hf = tiny(families()[name])
    lm = load_model(hf, byte_tokenizer())
    push = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    for scope in ("completion", "prompt", "all"):
        edits = [reference.Edit(1, push, scope)]
        for prompt in (list(range(9, 13)), list(range(30, 60))):
            tokens = slow_greedy(hf, lm.blocks, prompt, edits, (), 12)
            found = reference.logits(hf, lm.blocks, [*prompt, *tokens], edits, len(prompt))

            def verdict(tokens: list[int], found: Any = found, prompt: Any = prompt) -> reference.Verdict:
                return reference.judge(found, tokens, len(prompt), (), len(tokens), 1e-3)

            assert verdict(tokens) == (None, 0)
            wrong = [*tokens[:5], (tokens[5] + 1) % 256, *tokens[6:]]
            assert verdict(wrong).wrong == 5


def test_a_completion_that_ended_too_early_or_went_on_past_its_end_is_wrong() -> None:
    found = torch.zeros(8, 10)
    for place, token in enumerate([4, 5, 2, 7, 7, 7, 7, 7]):
        found[place, token] = 1.0  # a prompt of one token, then 4, 5 and the end
    judge: Callable[..., reference.Verdict] = lambda tokens: reference.judge(found, tokens, 1, (2,), 6, 1e-3)  # noqa: E731
    assert judge([4, 5]).wrong is None
    assert judge([4]).wrong == 1
    assert judge([4, 5, 2]).wrong == 2


def test_tied_tokens_are_counted_and_others_are_not_taken() -> None:
    found = torch.zeros(4, 10)
    found[0, 3], found[0, 4], found[0, 5] = 1.0, 1.0 - 5e-4, 1.0 - 5e-3
    assert reference.judge(found, [4], 1, (), 1, 1e-3) == (None, 1)
    assert reference.judge(found, [5], 1, (), 1, 1e-3) == (0, 0)
