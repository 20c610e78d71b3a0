"""Whatever a model keeps of a row, it goes with the row; a shortcut that a model does not take is left off."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from steerkit.core.prompts import EncodedText
from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
from steerkit.engines.row_states import RowStates, UnknownStateError
from steerkit.engines.shortcuts import shortcuts
from steerkit.engines.transformers.batch import RunningBatch
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.extraction.capture import capture
from steerkit.models import LanguageModel
from tests.engines import reference
from tests.tiny import byte_tokenizer, random_vector

SMALL: dict[str, Any] = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FIELDS: dict[str, dict[str, Any]] = {
    "qwen3_5_text": {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 8},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 4,
        "use_mamba_kernels": False,
    },
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
    "nemotron_h": {
        "layer_types": ["mamba", "attention", "mamba", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 8, "num_hidden_layers": 6},
    "llama4_text": {
        "attention_chunk_size": 8,
        "floor_scale": 16,
        "num_local_experts": 2,
        "intermediate_size_mlp": 64,
    },
    "gpt_neo": {
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 8,
    },
    "doge": {"keep_window_size": 32},
    "rwkv": {"attention_hidden_size": 32},
    "openai-gpt": {"n_embd": 32, "n_layer": 4, "n_head": 4},
}
PACKING = {
    "llama4_text": "whole texts",  # its attention is scaled by the place in the row, padding counted
    "doge": "whole texts",  # a token picks the keys that it sees among all that stand in the row
    "rwkv": "whole texts",
    "openai-gpt": "whole texts",
}
QUESTIONS = (
    "Hi!",
    "What is the capital of France?",
    "Who wrote Hamlet, and in which language was it played?",
    "?",
)


@pytest.fixture(scope="module", params=FIELDS)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    """A random model of each kind of state, its windows and chunks shorter than the texts."""
    torch.manual_seed(0)
    fields = {**SMALL, **FIELDS[request.param]}
    config = transformers.AutoConfig.for_model(request.param, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for module in model.modules():  # drawn larger than each family would, so that completions differ
        if isinstance(module, nn.Linear | nn.Embedding | Conv1D):
            nn.init.normal_(module.weight, std=0.3)
    return LanguageModel(model, byte_tokenizer(), request.param)


def cells(lm: LanguageModel) -> list[tuple[Any, list[tuple[int, reference.Edit, reference.Where]]]]:
    """Steerings, each with what it does written as edits of single positions."""
    size = float(capture(lm, [EncodedText((5, 6, 7, 8), 2)]).norm[1])
    v = random_vector(lm, 1)
    v = v * (0.5 * size / float(v.direction[1].norm()))

    def add(layer: int) -> reference.Edit:
        return lambda h: h + v.direction[layer]

    everywhere: list[tuple[int, reference.Edit, reference.Where]] = [(0, add(0), reference.all_positions)]
    late: list[tuple[int, reference.Edit, reference.Where]] = [(2, add(2), reference.prompt_positions)]
    return [
        ((), []),
        ((v.at(1, 1.0),), [(1, add(1), reference.completion_positions)]),
        ((v.at(0, 1.0, scope="all"),), everywhere),
        ((v.at(2, 1.0, scope="prompt"),), late),
        ((v.at(0, 1.0, scope="all"), v.at(2, 1.0, scope="prompt")), [*everywhere, *late]),
    ]


@pytest.mark.filterwarnings("default")
def test_rows_are_packed_where_the_model_lets_them_and_else_it_is_said(lm: LanguageModel) -> None:
    engine = TransformersEngine(lm)
    with warnings.catch_warnings(record=True) as said:
        list(engine.generate([Request("x" * 40, decoding=Decoding(max_new_tokens=8))]))
    assert engine.packing == PACKING.get(lm.name, "packed")
    assert ["every step runs all texts anew" in str(each.message) for each in said] == [True] * (
        lm.name in PACKING
    )


def test_any_packing_gives_each_row_what_it_gets_alone(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of unequal length join, retire, are refilled and start again after memory ran out, beside other cells."""
    grid = list(itertools.product(QUESTIONS, cells(lm)))
    requests = [
        Request(question, steerings, Decoding(max_new_tokens=3 + 5 * i % 9), key=i)
        for i, (question, (steerings, _)) in enumerate(grid)
    ]
    step, steps = RunningBatch.step, itertools.count(1)

    def once_short_of_memory(self: RunningBatch) -> None:
        if next(steps) == 9:
            raise torch.OutOfMemoryError
        step(self)

    monkeypatch.setattr(RunningBatch, "step", once_short_of_memory)
    done = {c.request.key: c for c in TransformersEngine(lm, 7).generate(requests[::2] + requests[1::2])}
    texts = set()
    for request, (question, (_, edits)) in zip(requests, grid, strict=True):
        prompt = lm.renderer.encode_prompt(question)
        tokens = reference.greedy(lm, prompt, edits, request.decoding.max_new_tokens)
        expected = Completion(request, "", tuple(tokens), "length", len(prompt))
        assert reference.same_or_tied(lm, expected, done[request.key]), (question, request.interventions)
        texts.add(done[request.key].token_ids[:3])
    assert len(texts) > 6, "the cells must differ for this test to mean anything"


def test_scores_are_those_of_each_text_alone(lm: LanguageModel) -> None:
    (steering,), edits = cells(lm)[2]
    requests = [ScoreRequest(question, " yes, perhaps", (steering,)) for question in QUESTIONS]
    for score, question in zip(TransformersEngine(lm).score(requests), QUESTIONS, strict=True):
        text = lm.renderer.encode_pair(question, " yes, perhaps")
        placed = [(layer, edit, where(text.ids, text.prompt_length)) for layer, edit, where in edits]
        nats = reference.steered_logits(lm, text.ids, placed).log_softmax(-1)
        expected = [float(nats[i - 1, text.ids[i]]) for i in range(text.prompt_length, len(text.ids))]
        assert score.log_probabilities == pytest.approx(expected, abs=1e-3)


def test_two_sides_of_a_pair_read_as_each_alone(lm: LanguageModel) -> None:
    prompt = tuple(range(40, 85))
    texts = [EncodedText((*prompt, *behind), len(prompt)) for behind in ((90, 91, 92), (93, 94, 95, 96))]
    alone = capture(lm, texts, "mean", share_prompts=False)
    torch.testing.assert_close(capture(lm, texts, "mean").states, alone.states, rtol=1e-4, atol=1e-4)


class Layer:
    """One layer's state as a stranger might keep it."""

    def __init__(self, **kept: Any) -> None:
        vars(self).update(kept)


def states_of(kept: Any) -> RowStates:
    class Filled:
        def __init__(self, rows: int, positions: int) -> None:
            self.layers = [Layer(**kept(rows, positions))]

    return RowStates(Filled)  # type: ignore[arg-type]


def test_what_follows_rows_and_positions_is_seen_wherever_it_is_kept() -> None:
    states = states_of(
        lambda rows, positions: {
            "where": torch.zeros(3, rows, positions, dtype=torch.int16),
            "states": {0: torch.zeros(rows, 7)},
            "seen": positions,
            "size": 4,
        }
    )
    (layer,) = states.layers
    assert [(h.attribute, h.key, h.rows, h.positions) for h in layer.held] == [
        ("where", None, 1, 2),
        ("states", 0, 0, None),
    ]
    assert layer.lengths == ("seen",)
    assert (states.per_position, states.per_row) == (6, 28)


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (lambda _rows, positions: {"x": torch.zeros(1, positions)}, "does not have a dimension of rows"),
        (lambda rows, positions: {"x": torch.zeros(rows, positions // 4)}, "grows otherwise"),
        (lambda rows, positions: {"x": torch.zeros(rows, positions), "n": positions // 2}, "n is neither"),
        (lambda rows, positions: {"x": torch.zeros(rows, positions), "n": rows}, "counts its rows"),
        (lambda rows, positions: {"x": torch.zeros(rows)} if positions > 5 else {}, "depends on how much"),
        (lambda _rows, _positions: {"n": 4}, "fills no cache"),
    ],
)
def test_state_that_cannot_be_told_apart_by_rows_is_not(kept: Any, reason: str) -> None:
    with pytest.raises(UnknownStateError, match=reason):
        states_of(kept)


def test_a_model_that_keeps_its_past_outside_the_cache_runs_whole_texts(tiny: LanguageModel) -> None:
    """Rows that are taken apart do not take along what a module remembers by itself."""

    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.past: Tensor | None = None

        def forward(self, hidden: Tensor, **_kwargs: Any) -> Tensor:
            if hidden.shape[1] > 1 or self.past is None or self.past.shape[0] != hidden.shape[0]:
                self.past = torch.zeros_like(hidden[:, 0])
            summed = self.past[:, None] + hidden.cumsum(1)
            self.past = summed[:, -1]
            return hidden + 0.1 * summed

    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).eval()
    model.model.layers[2] = Remembers()
    forgetful = LanguageModel(model, byte_tokenizer(), "remembers")
    assert shortcuts(forgetful, 30).states is None
    assert "do not go on as they should" in shortcuts(forgetful, 30).reason
    assert shortcuts(tiny, 30).states is not None
