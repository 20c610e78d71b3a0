"""Probes of what the model writes: fitted on the states of its own completions, and refused by what reads prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import steerkit as sk
from steerkit.core.errors import InputError, MisuseError
from steerkit.extraction.own_completions import TOKENS_EACH, completion_states
from steerkit.extraction.pairs import LabelledPrompt, LabelledPrompts
from steerkit.extraction.probe_fit import choose_threshold
from steerkit.models import LanguageModel

SHORT = sk.Decoding(6)


def questions(n: int = 12) -> LabelledPrompts:
    """Prompts that a model over bytes can tell apart; half of them call for abstention."""
    several = (
        LabelledPrompt(f"q{i}", f"What is {i * i} {'zzz' if i % 2 else 'plus one'}", bool(i % 2))
        for i in range(n)
    )
    return LabelledPrompts("questions", tuple(several))


def test_the_states_are_those_of_a_plain_pass_over_what_the_model_wrote(tiny: LanguageModel) -> None:
    data = questions()
    states, examples = completion_states(tiny, data, SHORT)
    assert examples == tuple(example for example in data.examples for _ in range(TOKENS_EACH))
    for place, written in enumerate(sk.generate(tiny, [e.prompt for e in data.examples], decoding=SHORT)):
        prompt = tiny.renderer.encode_prompt(data.examples[place].prompt)
        ids = torch.tensor([[*prompt, *written.token_ids]])
        with torch.inference_mode():
            hidden = tiny.hf(input_ids=ids, output_hidden_states=True).hidden_states
        for layer in range(tiny.n_layers - 1):  # the last one's are given behind the final norm
            completion = hidden[layer + 1][0, len(prompt) :].float()
            read = torch.from_numpy(states[place * TOKENS_EACH : (place + 1) * TOKENS_EACH, layer])
            assert torch.allclose(read[0], completion[0], atol=1e-4)
            assert torch.allclose(read[-1], completion[-1], atol=1e-4)


def test_a_completion_without_a_token_is_read_at_the_prompts_last_one(tiny: LanguageModel) -> None:
    data = questions(4)
    every = tuple(range(len(tiny.tokenizer)))
    states, _ = completion_states(tiny, data, sk.Decoding(4, stop_token_ids=every))
    prompt = torch.tensor([tiny.renderer.encode_prompt(data.examples[0].prompt)])
    with torch.inference_mode():
        hidden = tiny.hf(input_ids=prompt, output_hidden_states=True).hidden_states
    assert torch.allclose(torch.from_numpy(states[:TOKENS_EACH, 0]), hidden[1][0, -1].float(), atol=1e-4)


def test_a_probe_of_completions_reads_rows_and_gates_refuse_it(tiny: LanguageModel, tmp_path: Path) -> None:
    probe = sk.load_probe(
        sk.fit_probe(tiny, questions(), written=SHORT).save(tmp_path / "written.safetensors")
    )
    assert probe.metadata.aggregation == "completion"
    assert sk.fit_probe(tiny, questions()).metadata.aggregation == "prompt"
    [done] = sk.generate(tiny, "What is it", read=sk.ProbeReader(probe), decoding=SHORT)
    assert len(done.readings[0].completion) == done.tokens
    with pytest.raises(MisuseError, match="fitted on completions"):
        sk.ProbeGate(probe)
    with pytest.raises(MisuseError, match="fitted on completions"):
        choose_threshold(probe, tiny, questions(), 0.1)


def test_both_labels_must_be_there(tiny: LanguageModel) -> None:
    lone = LabelledPrompts("lone", questions().prompts[:1])
    with pytest.raises(InputError, match="both positive and negative"):
        sk.fit_probe(tiny, lone, written=SHORT)
