"""Capture: the states that plain transformers has, read in one batched pass."""

from __future__ import annotations

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import EncodedText
from steerkit.extraction.capture import capture
from steerkit.extraction.pairs import load_pairs
from steerkit.models import LanguageModel
from tests.tiny import byte_tokenizer, tiny_model


def hidden_states(lm, ids):
    """Plain transformers on one text, `[n_layers, position, d_model]`: the last layer before the norm."""
    seen = []
    handle = lm.hf.model.layers[-1].register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad():
        inner = lm.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:-1]
    handle.remove()
    return torch.cat([*inner, *seen])


def relative_error(ours, reference):
    """Largest over texts and layers of ||ours - reference|| / ||reference||."""
    return float(((ours - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


@pytest.fixture
def ragged(tiny):
    """Texts of many lengths for the tiny model."""
    prompts = ["Why?", "What is the name of the river?", "Who"]
    answers = ["I do not know.", "No", "It is the Danube, which flows through ten countries."]
    return [tiny.renderer.encode_pair(prompt, answer) for prompt in prompts for answer in answers]


def test_each_aggregation_reads_the_positions_that_it_names(tiny, ragged):
    for text in ragged:
        full = hidden_states(tiny, text.ids)
        expected = {
            "last": full[:, -1],
            "mean": full[:, text.prompt_length :].mean(dim=1),
            "prompt": full[:, text.prompt_length - 1],
        }
        for aggregation, states in expected.items():
            assert relative_error(capture(tiny, [text], aggregation).states[0], states) < 1e-5


@pytest.mark.parametrize("aggregation", ["last", "mean", "prompt"])
@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
def test_batching_changes_nothing_and_keeps_the_order(tiny, ragged, aggregation, batch_tokens):
    single = torch.cat([capture(tiny, [text], aggregation).states for text in ragged])
    batched = capture(tiny, ragged, aggregation, batch_tokens=batch_tokens)
    assert batched.states.shape == (len(ragged), tiny.n_layers, tiny.d_model)
    assert batched.states.dtype == torch.float32
    assert relative_error(batched.states, single) < 1e-5


@pytest.mark.parametrize("aggregation", ["last", "mean"])
def test_a_prompt_run_once_for_its_completions_changes_nothing(bundled, aggregation):
    texts = [example.encoded(bundled.renderer) for example in load_pairs("abstention").examples[:8]]
    shared = capture(bundled, texts, aggregation)
    whole = capture(bundled, texts, aggregation, share_prompts=False)
    assert relative_error(shared.states, whole.states) < 1e-5
    torch.testing.assert_close(shared.norm, whole.norm, rtol=1e-5, atol=0)


def test_capture_equals_plain_transformers_at_every_layer_on_the_bundled_models(bundled):
    texts = [example.encoded(bundled.renderer) for example in load_pairs("abstention").examples[45:55]]
    reference = torch.stack([hidden_states(bundled, text.ids)[:, -1] for text in texts])
    for batch_tokens in (1, 1024):
        assert relative_error(capture(bundled, texts, batch_tokens=batch_tokens).states, reference) < 1e-5


def test_capture_equals_the_bridges_hook_out(smollm):
    names = [f"blocks.{layer}.hook_out" for layer in range(smollm.n_layers)]
    texts = [example.encoded(smollm.renderer) for example in load_pairs("brevity").examples[:2]]
    for text, states in zip(texts, capture(smollm, texts).states, strict=True):
        with torch.no_grad():
            _, cache = smollm.bridge.run_with_cache(torch.tensor([text.ids]), names_filter=names)
        assert relative_error(states, torch.stack([cache[name][0, -1] for name in names])) < 1e-5


def test_the_norm_is_the_mean_over_every_position_but_the_first(tiny, ragged):
    norms = torch.cat([hidden_states(tiny, text.ids)[:, 1:].norm(dim=-1) for text in ragged], dim=1)
    torch.testing.assert_close(capture(tiny, ragged, batch_tokens=200).norm, norms.mean(dim=1))


def test_a_half_precision_model_is_read_into_float32(ragged):
    own = tiny_model()  # rounded for good: not the one that other tests use
    full = capture(own, ragged, "mean").states
    own.hf.to(torch.bfloat16)
    half = capture(own, ragged, "mean").states
    assert half.dtype == torch.float32
    assert relative_error(half, full) < 0.1


def test_the_lm_head_is_never_run(tiny, ragged, monkeypatch):
    monkeypatch.setattr(tiny.hf.lm_head, "forward", lambda *_: pytest.fail("the LM head ran"))
    capture(tiny, ragged)


def test_no_hook_is_left_behind_after_an_exception(tiny, ragged):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = [list(block._forward_hooks) for block in tiny.blocks]
    handle = tiny.blocks[2].register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            capture(tiny, ragged)
    finally:
        handle.remove()
    assert [list(block._forward_hooks) for block in tiny.blocks] == before


def test_the_states_can_be_trained_on(tiny, ragged):
    states = capture(tiny, ragged).states
    weight = torch.ones(tiny.d_model, requires_grad=True)
    (states @ weight).sum().backward()
    assert weight.grad is not None


def test_progress_counts_the_texts(tiny, ragged):
    calls = []
    capture(tiny, ragged, batch_tokens=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, len(ragged)) for done in (3, 6, 9)], "three prompts with three completions each"


@pytest.mark.parametrize(
    ("aggregation", "text", "said"),
    [
        ("last", EncodedText((1, 2), 2), "text 0 has no completion token"),
        ("mean", EncodedText((1, 2), 2), "text 0 has no completion token"),
        ("prompt", EncodedText((1, 2), 0), "text 0 has no prompt token"),
        ("first", EncodedText((1, 2), 1), "one of last, mean, prompt"),
    ],
)
def test_what_cannot_be_read_is_an_error(tiny, aggregation, text, said):
    with pytest.raises(MisuseError, match=said):
        capture(tiny, [text], aggregation)


def test_a_recurrent_model_is_read_text_by_text():
    """Mamba keeps no keys and values that two completions could share."""
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=261, hidden_size=32, num_hidden_layers=2, state_size=4)
    hf = MambaForCausalLM(config).eval()
    seen = []
    lm = LanguageModel(hf, byte_tokenizer(), "mamba")
    texts = [EncodedText((5, 6, 7, 8, 9), 3), EncodedText((5, 6, 7, 11), 3)]
    handle = lm.blocks[-1].register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad():
        for text in texts:
            hf.backbone(torch.tensor([text.ids]))
    handle.remove()
    expected = torch.stack([states[0, -1] for states in seen])
    assert relative_error(capture(lm, texts, "last").states[:, -1], expected) < 1e-5
