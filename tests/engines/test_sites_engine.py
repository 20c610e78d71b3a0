"""Sites: each equals a hook that is written by hand on the module, captured and steered, alone and in mixed batches."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

import pytest
import torch
import transformers
from torch import Tensor, nn

from steerkit.core.errors import MisuseError, ModelMismatchError, SteerkitError
from steerkit.core.prompts import EncodedText
from steerkit.core.registry import EXPORTERS
from steerkit.core.sites import SITES, SiteName
from steerkit.engines.base import Decoding, Request, ScoreRequest
from steerkit.engines.context import steer
from steerkit.engines.remote.wire import supports
from steerkit.engines.transformers.divergence import divergences
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.gates import Readings
from steerkit.engines.transformers.table import ANSWER, Program, RowTable
from steerkit.extraction.capture import capture
from steerkit.interventions.gate import PositionGate, ProbeGate
from steerkit.interventions.operations import unit_of
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.steering import Scope, Steering
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from tests.engines.reference import (
    Edit,
    Spot,
    Where,
    all_positions,
    completion_positions,
    greedy,
    prompt_positions,
    steered_logits,
)
from tests.engines.sites import CONFIGS, family, hybrid, random_at, spot, states_at, width_of
from tests.tiny import byte_tokenizer, tiny_hf

PROMPTS = ("Why?", "What is the name of the river?", "Who")
WHERE: dict[str, Where] = {
    "completion": completion_positions,
    "prompt": prompt_positions,
    "all": all_positions,
}
TOKENS = 8
# How far a random push goes at a site, relative to a standard normal one: the states there are of different sizes.
SIZE: dict[SiteName, float] = {"resid_pre": 2, "resid_post": 2, "attn_out": 2, "mlp_out": 2, "z": 1}


@pytest.fixture(params=CONFIGS)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    """A tiny model of each family."""
    return family(request.param)


def texts_of(lm: LanguageModel) -> list[EncodedText]:
    answers = ("I do not know.", "No", "It is the Danube, which flows through ten countries.")
    return [lm.renderer.encode_pair(prompt, answer) for prompt in PROMPTS for answer in answers]


def edit_of(steering: Steering, layer: int) -> Edit:
    """The operation's formula, written anew."""
    v, s = steering.vector.direction[layer], steering.strength
    u = unit_of(v)
    formulas: dict[str, Edit] = {
        "add": lambda h: h + s * v,
        "ablate": lambda h: h - s * (u @ h) * u,
        "clamp": lambda h: h + s * (steering.target - u @ h) * u,
    }
    return formulas[steering.operation]


def edits_of(lm: LanguageModel, steerings: Sequence[Steering]) -> list[tuple[Spot, Edit, Where]]:
    return [
        (spot(lm, steering.site, layer), edit_of(steering, layer), WHERE[steering.scope])
        for steering in steerings
        for layer in steering.layers
    ]


def agrees(
    lm: LanguageModel, prompt: str, steerings: Sequence[Steering], tokens: Sequence[int], most: int = TOKENS
) -> bool:
    """Whether these are the tokens of the slow reference, or its two best logits are close where they part."""
    ids = lm.renderer.encode_prompt(prompt)
    edits = edits_of(lm, steerings)
    expected = greedy(lm, ids, edits, most)
    if list(tokens) == expected:
        return True
    pairs = zip(tokens, expected, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(expected)))
    read = [*ids, *expected[:shared]]
    logits = steered_logits(lm, read, [(at, edit, where(read, len(ids))) for at, edit, where in edits])
    best = logits[-1].topk(2).values
    return float(best[0] - best[1]) < 1e-3


def cells_of(lm: LanguageModel) -> list[tuple[Steering, ...]]:
    """Every site by itself at every layer, under every scope, and compositions across sites, layers and operations."""
    at = {site: [random_at(lm, site, seed, SIZE[site]) for seed in (1, 2)] for site in SITES}
    cells: list[tuple[Steering, ...]] = [()]
    scopes: tuple[Scope, ...] = ("completion", "prompt", "all")
    for number, site in enumerate(SITES):
        layers = range(lm.n_layers)
        cells += [(at[site][0].at(layer, 1.0, scope=scopes[(number + layer) % 3]),) for layer in layers]
    cells.append(tuple(at[site][0].at(1, 0.7) for site in SITES))
    cells.append(tuple(at[site][1].at((0, 2), -0.7, scope="all") for site in reversed(SITES)))
    cells.append((at["z"][0].at(1, 1.0), at["z"][1].at(1, 1.0, operation="ablate"), at["mlp_out"][0].at(1)))
    cells.append(
        (
            at["attn_out"][0].at(2, operation="clamp", target=4.0),
            at["resid_pre"][0].at(2, 0.5, scope="prompt"),
        )
    )
    return cells


@pytest.mark.parametrize("site", SITES)
def test_what_is_captured_is_what_a_raw_hook_sees(lm: LanguageModel, site: SiteName) -> None:
    texts = texts_of(lm)
    alone = [states_at(lm, site, list(text.ids)) for text in texts]
    assert alone[0].shape == (lm.n_layers, len(texts[0].ids), width_of(lm, site))
    for aggregation in ("last", "mean", "prompt"):
        spans = {
            "last": lambda text: slice(len(text.ids) - 1, None),
            "mean": lambda text: slice(text.prompt_length, None),
            "prompt": lambda text: slice(text.prompt_length - 1, text.prompt_length),
        }
        found = capture(lm, texts, aggregation, site=site)
        expected = torch.stack(
            [seen[:, spans[aggregation](text)].mean(1) for text, seen in zip(texts, alone, strict=True)]
        )
        error = (found.states - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert float(error.max()) < 1e-4
        norms = torch.cat([seen[:, 1:].norm(dim=-1) for seen in alone], dim=1).mean(dim=1)
        torch.testing.assert_close(found.norm, norms, rtol=1e-4, atol=0)


def test_attention_and_mlp_are_read_as_they_are_added_to_the_stream(lm: LanguageModel) -> None:
    states = {site: capture(lm, texts_of(lm), "last", site=site).states for site in SITES if site != "z"}
    added = states["resid_post"] - states["resid_pre"]
    torch.testing.assert_close(states["attn_out"] + states["mlp_out"], added, rtol=1e-3, atol=1e-4)


def test_what_enters_a_block_is_what_left_the_one_before(lm: LanguageModel) -> None:
    before, behind = (capture(lm, texts_of(lm), site=site).states for site in ("resid_pre", "resid_post"))
    assert torch.equal(before[:, 1:], behind[:, :-1])
    pre, post = random_at(lm, "resid_pre", 3), random_at(lm, "resid_post", 3)
    post_moved = post.direction.roll(1, dims=0)
    moved = type(pre)(post_moved, pre.metadata)
    engine = TransformersEngine(lm, 4)
    requests = [
        Request(PROMPTS[1], (steering,), decoding=Decoding(max_new_tokens=TOKENS), key=i)
        for i, steering in enumerate((moved.at(2, 2.0, scope="all"), post.at(1, 2.0, scope="all")))
    ]
    done = {each.request.key: each.token_ids for each in engine.generate(requests)}
    assert done[0] == done[1]


@pytest.mark.parametrize("batch_size", [3, 64])
def test_rows_of_many_sites_in_one_batch_equal_raw_hooks_one_at_a_time(
    lm: LanguageModel, batch_size: int
) -> None:
    requests = [
        Request(prompt, cell, decoding=Decoding(max_new_tokens=TOKENS))
        for cell in cells_of(lm)
        for prompt in (PROMPTS if batch_size == 64 else PROMPTS[:1])
    ]
    random.Random(batch_size).shuffle(requests)
    done = list(TransformersEngine(lm, batch_size).generate(requests))
    assert len(done) == len(requests)
    moved = 0
    plain = {each.request.prompt: each.token_ids for each in done if not each.request.interventions}
    for each in done:
        assert agrees(lm, each.request.prompt, each.request.interventions, each.token_ids), each.request
        moved += each.token_ids != plain[each.request.prompt]
    assert moved > len(requests) // 2, "the steerings do nothing, so their equality says nothing"


@pytest.mark.parametrize("site", SITES)
def test_around_the_users_own_generate_a_site_equals_a_raw_hook(lm: LanguageModel, site: SiteName) -> None:
    for scope in ("completion", "all"):
        steering = random_at(lm, site, 1, SIZE[site]).at((0, 2), 1.0, scope=scope)
        ids = torch.tensor([lm.renderer.encode_prompt(PROMPTS[1])])
        with steer(lm, steering):
            found = lm.hf.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
        tokens = [token for token in found[0, ids.shape[1] :].tolist() if token not in lm.stop_ids]
        assert agrees(lm, PROMPTS[1], [steering], tokens)


def test_scores_under_every_site_equal_raw_hooks(lm: LanguageModel) -> None:
    cells = cells_of(lm)
    requests = [ScoreRequest(PROMPTS[i % 3], "It is the Danube.", cell) for i, cell in enumerate(cells)]
    for request, score in zip(requests, TransformersEngine(lm).score(requests), strict=True):
        text = lm.renderer.encode_pair(request.prompt, request.continuation)
        edits = [
            (at, edit, where(text.ids, text.prompt_length))
            for at, edit, where in edits_of(lm, request.interventions)
        ]
        nats = steered_logits(lm, text.ids, edits)[text.prompt_length - 1 : -1].log_softmax(-1)
        expected = nats.gather(1, torch.tensor(text.ids[text.prompt_length :])[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(score.log_probabilities), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("layer", [0, 2])
def test_prompts_are_shared_below_a_steered_site_and_no_further(
    site: SiteName, layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = family("llama")
    rows: list[int] = []
    for block in lm.blocks:
        monkeypatch.setattr(block, "forward", counting(block.forward, rows))
    vector = random_at(lm, site, 4, SIZE[site])
    cells = [vector.at(layer, strength, scope="prompt") for strength in (-1.0, 0.5, 1.0, 2.0)]
    requests = [
        Request(prompt, (cell,), decoding=Decoding(max_new_tokens=1))
        for prompt in PROMPTS[:2]
        for cell in cells
    ]
    done = list(TransformersEngine(lm, 64).generate(requests))
    shared = layer + (site == "resid_post")  # blocks that run once a prompt
    assert rows[:3] == [2 if block < shared else 8 for block in range(3)]
    for each in done:
        assert agrees(lm, each.request.prompt, each.request.interventions, each.token_ids, most=1)


def counting(forward: Callable[..., Tensor], rows: list[int]) -> Callable[..., Tensor]:
    def counted(hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        rows.append(hidden_states.shape[0])
        return forward(hidden_states, *args, **kwargs)

    return counted


@pytest.mark.parametrize("site", SITES)
def test_position_gates_and_half_lives_hold_at_every_site(site: SiteName) -> None:
    lm = family("gemma3_text")
    v, along = random_at(lm, site, 1, SIZE[site]), random_at(lm, site, 2)
    layer, half_life = 1, 2.0
    unit = unit_of(along.direction[layer])
    threshold = float((states_at(lm, site, lm.renderer.encode_prompt(PROMPTS[1]))[layer] @ unit).median())
    gate = PositionGate(along, threshold)
    gated, fading = v.at(layer, 2.0, scope="all", gate=gate), v.at(layer, 2.0, half_life=half_life)
    push = 2.0 * v.direction[layer]

    def push_where_it_fires(h: Tensor) -> Tensor:
        return h + push if float(h @ unit) > threshold else h

    requests = [
        Request(PROMPTS[1], (steering,), decoding=Decoding(max_new_tokens=TOKENS))
        for steering in (gated, fading)
    ]
    by_gate, by_age = sorted(
        TransformersEngine(lm).generate(requests), key=lambda done: done.request.interventions[0].gate is None
    )
    prompt = lm.renderer.encode_prompt(PROMPTS[1])
    expected = greedy(lm, prompt, [(spot(lm, site, layer), push_where_it_fires, all_positions)], TOKENS)
    assert list(by_gate.token_ids) == expected
    assert 0 < by_gate.gates[0].fired < 1
    ids = list(prompt)
    for _ in range(TOKENS):
        edits = [
            (spot(lm, site, layer), lambda h, left=0.5 ** (age / half_life): h + left * push, [position])
            for age, position in enumerate(range(len(prompt) - 1, len(ids)))
        ]
        token = int(steered_logits(lm, ids, edits)[-1].argmax())
        if token in lm.stop_ids:
            break
        ids.append(token)
    assert list(by_age.token_ids) == ids[len(prompt) :]


def test_a_vector_for_one_head_moves_that_heads_output_alone() -> None:
    lm = family("qwen3_moe")
    vector, each = random_at(lm, "z", 5), 16
    one = vector.head(3)
    assert one.name == "z-5.head3"
    assert torch.equal(one.direction[:, 3 * each :], vector.direction[:, 3 * each :])
    assert not one.direction[:, : 3 * each].any()
    assert not one.random_control().direction[:, : 3 * each].any()
    assert torch.equal(sum((vector.head(h) for h in range(1, 4)), vector.head(0)).direction, vector.direction)

    def push(z: Tensor) -> Tensor:
        heads = z.clone().view(4, each)
        heads[3] += 2.0 * vector.direction[1].view(4, each)[3]
        return heads.flatten()

    request = Request(PROMPTS[0], (one.at(1, 2.0),), decoding=Decoding(max_new_tokens=TOKENS))
    [done] = TransformersEngine(lm).generate([request])
    ids = lm.renderer.encode_prompt(PROMPTS[0])
    assert list(done.token_ids) == greedy(lm, ids, [(spot(lm, "z", 1), push, completion_positions)], TOKENS)
    with pytest.raises(MisuseError, match="heads 0 to 3"):
        vector.head(4)
    with pytest.raises(MisuseError, match="at mlp_out"):
        random_at(lm, "mlp_out", 5).head(0)


@pytest.mark.parametrize("site", SITES)
def test_a_probe_reads_its_own_site(site: SiteName) -> None:
    lm = family("phi")
    weight = torch.randn(lm.n_layers, width_of(lm, site), generator=torch.Generator().manual_seed(6))
    metadata = ProbeMetadata(name="p", model=lm.name, fingerprint=lm.fingerprint, site=site, layer=1)
    gate = ProbeGate(Probe(weight, torch.zeros(lm.n_layers), metadata))
    steering = random_at(lm, "resid_post", 1).at(1, gate=gate)
    asked = [(prompt, tuple(lm.renderer.encode_prompt(prompt)), (steering,)) for prompt in PROMPTS]
    readings = Readings(lm)
    readings.read(asked)
    for _, ids, steerings in asked:
        [reading] = readings.verdicts(steerings, ids)
        logit = states_at(lm, site, list(ids))[1, -1] @ weight[1]
        assert reading.probability == pytest.approx(float(logit.sigmoid()), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("site", SITES)
def test_the_divergence_of_a_site_is_that_of_its_raw_hook(site: SiteName) -> None:
    lm = family("gpt_neox")
    text = texts_of(lm)[2]
    steering = random_at(lm, site, 1, SIZE[site]).at(1, 0.5)
    [found] = divergences(lm, [text], [Program.of([steering])])
    edits = [(at, edit, where(text.ids, text.prompt_length)) for at, edit, where in edits_of(lm, [steering])]
    plain, steered = (
        steered_logits(lm, text.ids, some)[text.prompt_length - 1 : -1].double().log_softmax(-1)
        for some in ([], edits)
    )
    torch.testing.assert_close(found[0], (plain.exp() * (plain - steered)).sum(-1), rtol=1e-3, atol=1e-6)


def test_a_site_that_a_block_lacks_is_refused_by_layer_and_name() -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=261, hidden_size=32, num_hidden_layers=2, state_size=4)
    lm = LanguageModel(transformers.MambaForCausalLM(config).eval(), byte_tokenizer(), "mamba")
    for site in ("attn_out", "z"):
        with pytest.raises(MisuseError, match=f"block 0 of MambaForCausalLM has no site '{site}'"):
            capture(lm, texts_of(lm), site=site)
    with pytest.raises(MisuseError, match="block 1 of MambaForCausalLM has no site 'mlp_out'"):
        RowTable(lm, [Program.of([random_at_width(lm, "mlp_out").at(1)])])
    assert capture(lm, texts_of(lm), site="resid_pre").states.shape[1:] == (2, 32)


def random_at_width(lm: LanguageModel, site: SiteName) -> object:
    vector = random_at(family("llama"), site, 1)
    metadata = vector.metadata.model_copy(update={"fingerprint": lm.fingerprint})
    return type(vector)(vector.direction[: lm.n_layers], metadata)


def test_a_state_that_is_not_one_a_position_is_refused() -> None:
    config = transformers.OPTConfig(
        vocab_size=261,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        word_embed_proj_dim=32,
    )
    lm = LanguageModel(transformers.OPTForCausalLM(config).eval(), byte_tokenizer(), "opt")
    # Its MLP runs on a flat list of positions.
    with pytest.raises(
        SteerkitError, match=r"opt: site 'mlp_out' of block 0 is \[\[4, 32\]\] for \[1, 4\] tokens"
    ):
        capture(lm, texts_of(lm), site="mlp_out")


def test_a_vector_as_wide_as_another_site_is_refused() -> None:
    lm = family("qwen3_moe")
    vector = random_at(lm, "z", 1)
    narrow = type(vector)(vector.direction[:, :32], vector.metadata)
    with pytest.raises(ModelMismatchError, match=r"width 32 at z.*3 layers, width 64 at z"):
        TransformersEngine(lm).check(Request("Why?", (narrow.at(1),)))


def test_other_consumers_refuse_a_site_by_name() -> None:
    steering = random_at(family("llama"), "attn_out", 1).at(1, scope="all")
    assert "'site' 'attn_out' is not supported in vLLM" in str(supports(steering))
    for exporter in dict(EXPORTERS.items()).values():
        assert str(exporter.supports(steering)).startswith("site=attn_out:")


def test_a_gate_along_a_vector_of_another_site_is_refused() -> None:
    lm = family("llama")
    with pytest.raises(MisuseError, match=r"reads where the steering acts.*at resid_post.*at attn_out"):
        random_at(lm, "attn_out", 1).at(1, gate=PositionGate(random_at(lm, "resid_post", 2), 0.0))


def test_a_projection_that_is_wrapped_later_is_steered_whole() -> None:
    """As LoRA wraps it: a hook on what is inside would leave the adapter's own path unsteered."""
    lm = LanguageModel(tiny_hf(), byte_tokenizer(), "wrapped")
    assert lm.width("z") == 32

    class Wrapped(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base, self.beside = base, nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.beside(x)

    lm.blocks[1].self_attn.o_proj = Wrapped(lm.blocks[1].self_attn.o_proj)
    v = torch.randn(lm.n_layers, 32, generator=torch.Generator().manual_seed(0))
    metadata = random_at(family("llama"), "z", 1).metadata.model_copy(update={"fingerprint": lm.fingerprint})
    steering = SteeringVector(v, metadata).at(1, 2.0)
    text = lm.renderer.encode_pair("Why?", "No")
    [score] = TransformersEngine(lm).score([ScoreRequest("Why?", "No", (steering,))])
    where = completion_positions(text.ids, text.prompt_length)
    logits = steered_logits(
        lm, text.ids, [((lm.blocks[1].self_attn.o_proj, "in"), lambda h: h + 2 * v[1], where)]
    )
    nats = logits[text.prompt_length - 1 : -1].log_softmax(-1)
    expected = nats.gather(1, torch.tensor(text.ids[text.prompt_length :])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(score.log_probabilities), expected, rtol=1e-4, atol=1e-4)


def test_what_never_reaches_the_output_of_its_block_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = LanguageModel(family("phi").hf, byte_tokenizer(), "deaf")
    monkeypatch.setattr(lm.blocks[1].mlp, "forward", torch.zeros_like)
    monkeypatch.setattr(lm.blocks[1].self_attn.dense, "forward", torch.zeros_like)
    with pytest.raises(SteerkitError, match="a nudge at deaf: site 'z' of block 1 did not reach"):
        lm.width("z")


def test_constants_are_where_the_states_of_their_place_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device map, each block's states are on a device of their own, perhaps in another number format."""
    lm = family("llama")
    places = {1: ("meta", torch.bfloat16), 2: ("cpu", torch.float32)}
    monkeypatch.setattr(
        lm, "like", lambda layer, _site: torch.empty(0, 32, device=places[layer][0], dtype=places[layer][1])
    )
    v, along = random_at(lm, "attn_out", 1), random_at(lm, "attn_out", 2)
    steerings = [
        v.at((1, 2), half_life=3.0, gate=PositionGate(along, 0.0)),
        v.at((1, 2), operation="ablate"),
        v.at((1, 2), operation="rotate"),
    ]
    table = RowTable(lm, [Program.of(steerings), Program.of([])], counts_gates=True)
    for width in (1, 5):
        phase, ages = torch.full((2, width), ANSWER), torch.zeros(2, width, dtype=torch.long)
        table.point(phase, ages)
        with table.installed():
            for layer, (device, dtype) in places.items():
                states = torch.ones(2, width, 32, device=device, dtype=dtype)
                [hook] = lm.blocks[layer].self_attn._forward_hooks.values()
                found = hook(None, (), states)
                assert (found.device, found.dtype, found.shape) == (states.device, dtype, states.shape)


def test_no_hook_is_left_behind(lm: LanguageModel) -> None:
    for site in SITES:
        lm.like(1, site)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in lm.hf.modules())


def test_a_steering_says_its_site() -> None:
    vector = random_at(family("llama"), "attn_out", 1)
    steering = vector.at(1)
    assert str(steering) == "attn_out-1@layer=1,site=attn_out,strength=1,scope=completion"
    assert "at attn_out" in repr(vector)
    other = type(vector)(vector.direction, vector.metadata.model_copy(update={"site": "resid_post"}))
    assert other.digest != vector.digest
    assert json.dumps(other.at(1).to_json()) != json.dumps(steering.to_json())


def test_a_hybrid_is_steered_where_each_block_has_the_site() -> None:
    """Three recurrent blocks and one of attention, each with experts: its rows of many sites equal raw hooks."""
    lm = hybrid()
    at = {site: random_at(lm, site, 1, SIZE[site]) for site in SITES}
    layers = {"attn_out": (3,), "z": (3,)}
    cells: list[tuple[Steering, ...]] = [
        (),
        tuple(at[site].at(layers.get(site, (1, 3)), 0.7) for site in SITES),
    ]
    cells += [(at[site].at(layers.get(site, (0, 2)), 1.0, scope="all"),) for site in SITES]
    requests = [
        Request(prompt, cell, decoding=Decoding(max_new_tokens=TOKENS))
        for cell in cells
        for prompt in PROMPTS
    ]
    for each in TransformersEngine(lm, 64).generate(requests):
        assert agrees(lm, each.request.prompt, each.request.interventions, each.token_ids), each.request
