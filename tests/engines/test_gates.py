"""Row gates and prompt edits: decided once per row from the unsteered prompt, and then as if never asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from steerkit.core.errors import MisuseError, ModelMismatchError, SteerkitError
from steerkit.core.registry import GATES
from steerkit.engines.base import Completion, Decoding, Request, ScoreRequest
from steerkit.engines.context import steer
from steerkit.engines.forward import last_states
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.detectors import gate as register_gate
from steerkit.interventions.gate import DetectorGate, PositionGate, ProbeGate
from steerkit.interventions.logit_rules import OpenerBias
from steerkit.interventions.presets import presets
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.models import LanguageModel
from tests.engines import reference
from tests.tiny import random_vector

QUESTIONS = ["Hi!", "What is the capital of France?", "Who wrote Hamlet?", "Name three colours.", "Why?"]


def splitting_gate(lm: LanguageModel, layer: int, seed: int = 0) -> ProbeGate:
    """A gate that fires for some of the questions and not for others, by plain transformers' states."""
    states = torch.stack([plain_state(lm, q, layer) for q in QUESTIONS])
    weight = (
        torch.randn(lm.d_model, generator=torch.Generator().manual_seed(seed)) / states.norm(dim=1).mean()
    )
    bias = -(states @ weight).median()
    weights, biases = torch.zeros(lm.n_layers, lm.d_model), torch.zeros(lm.n_layers)
    weights[layer], biases[layer] = 40 * weight, 40 * bias
    metadata = ProbeMetadata(name="half", model=lm.name, fingerprint=lm.fingerprint, layer=layer)
    # Just off the median, so that no question stands exactly on the threshold.
    return ProbeGate(Probe(weights, biases - 1e-3, metadata))


def plain_state(lm: LanguageModel, question: str, layer: int) -> torch.Tensor:
    """The state that the gate should read: one unpadded text, one raw hook."""
    seen = []
    handle = lm.blocks[layer].register_forward_hook(lambda _m, _a, out: seen.append(out[0, -1].clone()))
    with torch.inference_mode():
        lm.hf(torch.tensor([lm.renderer.encode_prompt(question)]), use_cache=False)
    handle.remove()
    return seen[0]


def fired(lm: LanguageModel, gate: ProbeGate) -> list[bool]:
    states = torch.stack([plain_state(lm, q, gate.layer) for q in QUESTIONS])
    return gate.probe.fires(gate.layer, states, gate.threshold).tolist()


def run(lm: LanguageModel, requests: list[Request], batch_size: int = 8) -> dict[object, Completion]:
    return {c.request.key: c for c in TransformersEngine(lm, batch_size).generate(requests)}


@pytest.mark.parametrize("scope", ["completion", "prompt", "all"])
def test_a_gated_row_is_the_steered_row_or_the_unsteered_one(bundled: LanguageModel, scope: str) -> None:
    lm = bundled
    # The gate reads above the steered layer: what it must read is the state that steering has not touched.
    steered, read = lm.n_layers // 3, lm.n_layers // 2
    gate = splitting_gate(lm, read)
    opens = fired(lm, gate)
    assert 0 < sum(opens) < len(opens)
    v = random_vector(lm, 1)
    strength = float(3 * plain_state(lm, QUESTIONS[1], steered).norm() / v.direction[steered].norm())
    decoding = Decoding(max_new_tokens=6)
    cells = {
        "gated": (v.at(steered, strength, scope=scope, gate=gate),),
        "steered": (v.at(steered, strength, scope=scope),),
        "plain": (),
    }
    requests = [
        Request(q, cell, decoding, key=(q, name))
        for q, (name, cell) in itertools.product(QUESTIONS, cells.items())
    ]
    done = run(lm, requests)
    assert any(done[q, "steered"].token_ids != done[q, "plain"].token_ids for q in QUESTIONS)
    for question, opened in zip(QUESTIONS, opens, strict=True):
        completion = done[question, "gated"]
        assert completion.token_ids == done[question, "steered" if opened else "plain"].token_ids
        expected = gate.probe.probability(read, plain_state(lm, question, read))
        (read_by,) = completion.gates
        assert (read_by.intervention, read_by.gate, read_by.fired) == (0, "half", opened)
        assert read_by.probability == pytest.approx(float(expected), abs=2e-3)


def test_states_are_read_at_the_last_token_of_each_padded_text(bundled: LanguageModel) -> None:
    layers = {0, bundled.n_layers // 2, bundled.n_layers - 1}
    texts = [tuple(bundled.renderer.encode_prompt(q)) for q in QUESTIONS]
    hooks = [len(block._forward_hooks) for block in bundled.blocks]
    states = last_states(bundled, texts, layers)
    assert states.keys() == layers
    for layer, row in itertools.product(layers, range(len(QUESTIONS))):
        torch.testing.assert_close(
            states[layer][row], plain_state(bundled, QUESTIONS[row], layer), rtol=2e-4, atol=2e-3
        )
    assert [len(block._forward_hooks) for block in bundled.blocks] == hooks


def test_the_readings_of_an_item_are_shared_by_its_cells_and_rows_that_agree_run_once(
    tiny: LanguageModel,
) -> None:
    gate = splitting_gate(tiny, 2)
    v = random_vector(tiny)
    opens = sum(fired(tiny, gate))
    strengths = [1.0, 2.0, 3.0]
    requests = [
        Request(q, (v.at(1, s, gate=gate),), Decoding(max_new_tokens=4), key=(q, s))
        for q in QUESTIONS
        for s in strengths
    ]
    assert TransformersEngine(tiny).packing == "packed"  # tried before the passes are counted
    rows: list[int] = []
    count = tiny.blocks[0].register_forward_pre_hook(lambda _m, args: rows.append(args[0].shape[0]))
    try:
        done = run(tiny, requests, batch_size=32)
    finally:
        count.remove()
    assert len(done) == len(requests)
    assert rows[0] == len(QUESTIONS), "one reading a prompt"
    assert rows[1] == len(QUESTIONS), "one prefix a prompt"
    shut = len(QUESTIONS) - opens
    assert rows[2] == opens * len(strengths) + shut, "the cells of a shut gate are one row"


def test_scoring_reads_gates_too(tiny: LanguageModel) -> None:
    gate = splitting_gate(tiny, 1)
    v = random_vector(tiny)
    asked = [
        ScoreRequest(q, "yes", cell)
        for q in QUESTIONS
        for cell in ((v.at(2, 2.0, gate=gate),), (v.at(2, 2.0),), ())
    ]
    scores = [s.total for s in TransformersEngine(tiny).score(asked)]
    for row, opened in enumerate(fired(tiny, gate)):
        gated, steered, plain = scores[3 * row : 3 * row + 3]
        assert steered != pytest.approx(plain)
        assert gated == pytest.approx(steered if opened else plain)


def test_sk_steer_around_generate_agrees_with_the_engine(bundled: LanguageModel) -> None:
    lm = bundled
    gate = splitting_gate(lm, lm.n_layers // 2)
    v = random_vector(lm, 1)
    layer = lm.n_layers // 3
    strength = float(3 * plain_state(lm, QUESTIONS[1], layer).norm() / v.direction[layer].norm())
    steering = v.at(layer, strength, gate=gate)
    expected = run(lm, [Request(q, (steering,), Decoding(max_new_tokens=5), key=q) for q in QUESTIONS])
    texts = [lm.renderer.encode_prompt(q) for q in QUESTIONS]
    width = max(map(len, texts))
    ids = torch.tensor([[lm.pad_id] * (width - len(t)) + t for t in texts])
    mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in texts])
    for use_cache, beams in ((True, 1), (False, 1)):
        with steer(lm, steering):
            out = lm.hf.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=5,
                do_sample=False,
                use_cache=use_cache,
                num_beams=beams,
            )
        for question, row in zip(QUESTIONS, out[:, width:].tolist(), strict=True):
            kept = row[: next((i for i, t in enumerate(row) if t in lm.stop_ids), len(row))]
            assert tuple(kept) == expected[question].token_ids
    # Around a bare pass, with an outer steering open that the reading must not see.
    other = v.at(0, strength)
    with steer(lm, other), torch.inference_mode():
        base = lm.hf(ids, attention_mask=mask).logits[:, -1]
        with steer(lm, steering):
            gated = lm.hf(ids, attention_mask=mask).logits[:, -1]
    changed = [not torch.allclose(a, b, atol=1e-3) for a, b in zip(base, gated, strict=True)]
    assert changed == fired(lm, gate)


def test_a_gate_is_refused_where_it_cannot_be_read(tiny: LanguageModel) -> None:
    gate = splitting_gate(tiny, 1)
    steering = random_vector(tiny).at(2, 1.0, gate=gate)
    embeddings = torch.zeros(1, 3, tiny.d_model)
    with steer(tiny, steering), pytest.raises(MisuseError, match="token ids"):
        tiny.hf(inputs_embeds=embeddings)
    with pytest.raises(MisuseError, match="0 and 1"):
        ProbeGate(gate.probe, threshold=1.5)
    with pytest.raises(MisuseError, match="out of range"):
        ProbeGate(gate.probe, layer=99)
    foreign = ProbeGate(
        Probe(
            gate.probe.weight,
            gate.probe.bias,
            gate.probe.metadata.model_copy(update={"fingerprint": tiny.fingerprint[:-4] + "0000"}),
        )
    )
    with pytest.raises(ModelMismatchError, match="other weights"):
        next(
            TransformersEngine(tiny).generate(
                [Request("Hi", (random_vector(tiny).at(2, 1.0, gate=foreign),))]
            )
        )
    from steerkit.engines.transformers.table import Program

    with pytest.raises(SteerkitError, match="before a program"):
        Program.of([steering])


def test_prompt_edits_do_what_they_say(smollm: LanguageModel) -> None:
    system = PromptEdit(system="Answer in French.")
    instruction = PromptEdit(instruction="Answer in one word.")
    decoding = Decoding(max_new_tokens=8)
    question = QUESTIONS[1]
    done = run(
        smollm,
        [
            Request(question, (system,), decoding, system="Be kind.", key="system"),
            Request(question, (), decoding, system="Answer in French.", key="system by hand"),
            Request(question, (instruction,), decoding, key="instruction"),
            Request(f"{question}\n\nAnswer in one word.", (), decoding, key="instruction by hand"),
            Request(question, (instruction, system), decoding, key="both"),
            Request(
                f"{question}\n\nAnswer in one word.",
                (),
                decoding,
                system="Answer in French.",
                key="both by hand",
            ),
        ],
    )
    for edit in ("system", "instruction", "both"):
        assert done[edit].token_ids == done[f"{edit} by hand"].token_ids
    chat = ({"role": "user", "content": "a"}, {"role": "user", "content": "b"})
    assert instruction.prompt(chat)[-1]["content"] == "b\n\nAnswer in one word."


def test_a_forced_beginning_is_written_and_steered_as_if_the_model_had_said_it(tiny: LanguageModel) -> None:
    begin, decoding = PromptEdit(begin="It "), Decoding(max_new_tokens=8)
    steering = random_vector(tiny, 2).at(1, 1.5)
    done = run(
        tiny,
        [
            Request("hi", (begin,), decoding, key="plain"),
            Request("hi", (begin, steering), decoding, key="steered"),
            Request("hi", (begin, PromptEdit(begin="is ")), decoding, key="two"),
        ],
    )
    prompt = tiny.renderer.encode_prompt("hi")
    for key, acting in (("plain", ()), ("steered", (steering,))):
        assert done[key].text.startswith("It ")
        ids, written = list(prompt), list(done[key].token_ids)
        for place, token in enumerate(written[3:], start=3):
            logits = reference.steered_logits(
                tiny, [*ids, *written[:place]], edits_at(acting, len(ids), place)
            )[-1]
            assert token == int(logits.argmax())
    assert done["two"].text.startswith("It is ")
    assert not done["plain"].forced


def edits_at(acting: tuple, prompt: int, generated: int) -> list:
    """What a plain loop adds: each steering's vector at every completion position so far."""
    where = range(prompt - 1, prompt + generated)
    return [
        (s.layers[0], lambda h, push=s.strength * s.vector.direction[s.layers[0]]: h + push, where)
        for s in acting
    ]


def test_a_registered_gate_decides_by_the_unedited_prompt(tiny: LanguageModel) -> None:
    seen: list[object] = []

    @register_gate("asks-why")
    def asks_why(prompts, lm):
        seen.extend(prompts)
        assert lm is tiny
        return [1.0 if "Why" in prompt else 0.25 for prompt in prompts]

    try:
        steering = random_vector(tiny, 2).at(1, 2.0)
        gated = random_vector(tiny, 2).at(1, 2.0, gate=DetectorGate("asks-why"))
        edit = PromptEdit(instruction="Why?")
        decoding = Decoding(max_new_tokens=6)
        done = run(
            tiny,
            [
                Request(q, (edit, s), decoding, key=(q, n))
                for q in QUESTIONS
                for n, s in enumerate((gated, steering))
            ]
            + [Request(q, (edit,), decoding, key=(q, 2)) for q in QUESTIONS],
        )
    finally:
        del GATES._things["asks-why"]
    assert sorted(map(str, seen)) == sorted(QUESTIONS)
    for question in QUESTIONS:
        opened = "Why" in question
        assert done[question, 0].token_ids == done[question, 1 if opened else 2].token_ids
        (reading,) = done[question, 0].gates
        assert (reading.intervention, reading.gate, reading.fired) == (1, "asks-why", opened)
        assert reading.probability == pytest.approx(1.0 if opened else 0.25)


def test_a_large_bias_writes_an_opener_and_then_lets_go(smollm: LanguageModel) -> None:
    opener = "I don't know"
    forced = OpenerBias((opener, "It is not possible"), 100.0)
    gate = splitting_gate(smollm, 12)
    gated = OpenerBias((opener,), 100.0, gate=gate)
    requests = [
        Request(q, acting, Decoding(max_new_tokens=12), key=(q, name))
        for q in QUESTIONS
        for name, acting in {"forced": (forced,), "gated": (gated,), "plain": ()}.items()
    ]
    done = run(smollm, requests, batch_size=4)
    for question, opened in zip(QUESTIONS, fired(smollm, gate), strict=True):
        assert done[question, "forced"].text.startswith((opener, "It is not possible"))
        assert done[question, "gated"].text.startswith(opener) == opened
        if not opened:
            assert done[question, "gated"].token_ids == done[question, "plain"].token_ids
    plain = reference.steered_logits(smollm, smollm.renderer.encode_prompt(QUESTIONS[2]), [])[-1]
    first = smollm.renderer.encode_pair("?", opener)
    token = first.ids[first.prompt_length]
    margin = float(plain.max() - plain[token])
    for bias, wins in ((margin + 0.01, True), (margin - 0.01, False)):
        nudged = OpenerBias((opener,), bias)
        (only,) = run(smollm, [Request(QUESTIONS[2], (nudged,), Decoding(max_new_tokens=1))]).values()
        assert (only.token_ids == (token,)) is wins


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: PromptEdit(),
        lambda: PromptEdit(name="nothing"),
        lambda: PromptEdit(system="half of a pair: \ud800"),
        lambda: OpenerBias(()),
        lambda: OpenerBias(("x",), 0.0),
        lambda: OpenerBias(("x",), float("nan")),
        lambda: DetectorGate("nobody"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(MisuseError):
        wrong()


def test_the_presets_are_sound_and_differ() -> None:
    assert {"dont-know-system", "dont-know-instruction", "refusal-bias"} <= presets().keys()
    assert len(set(presets().values())) == len(presets())


@pytest.mark.parametrize("scope", ["completion", "prompt", "all"])
def test_a_position_gate_tells_at_which_share_of_its_positions_it_fired(
    tiny: LanguageModel, scope: str
) -> None:
    v, w = random_vector(tiny, 1), random_vector(tiny, 2, name="reader")
    steering = v.at(1, 0.5, scope=scope, gate=PositionGate(w, 0.0))
    other = v.at(1, 0.5, scope="all", gate=PositionGate(w, 0.5))
    requests = [
        Request(q, (steering,), Decoding(max_new_tokens=3 + i), key=q) for i, q in enumerate(QUESTIONS)
    ]
    requests += [Request(q, (other,), Decoding(max_new_tokens=5), key=(q, "other")) for q in QUESTIONS]
    for batch_size in (1, 3, 16):
        done = run(tiny, requests, batch_size)
        for question in QUESTIONS:
            completion = done[question]
            ids = tiny.renderer.encode_prompt(question)
            # The end of the sequence, where it was sampled, came out of one position more.
            length = len(ids) + completion.tokens - (completion.finish == "length")
            positions = {
                "completion": range(len(ids) - 1, length),
                "prompt": range(len(ids) - 1),
                "all": range(length),
            }[scope]
            states = gated_states(tiny, [*ids, *completion.token_ids], positions)
            fired = [float(h @ w.direction[1] / w.direction[1].norm()) > 0 for h in states]
            (reading,) = completion.gates
            assert (reading.intervention, reading.gate, reading.probability) == (0, "reader", None)
            assert reading.fired == pytest.approx(sum(fired) / len(fired))


def gated_states(lm: LanguageModel, ids: list[int], positions: range) -> list[torch.Tensor]:
    """The states after block 1 that the gate read: blocks below are not steered, so those of the plain text."""
    seen = []
    handle = lm.blocks[1].register_forward_hook(lambda _m, _a, out: seen.append(out[0].clone()))
    with torch.inference_mode():
        lm.hf(torch.tensor([ids]), use_cache=False)
    handle.remove()
    return [seen[0][place] for place in positions if place < len(ids)]
