"""The front end's checks on hostile and mistaken requests, with a stand-in for vLLM's configuration."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steerkit.core.errors import SteerkitError
from steerkit.engines.remote.wire import EXPRESSED, supports
from steerkit.engines.transformers.stages import Acting
from steerkit.integrations.vllm import admission as admitting
from steerkit.integrations.vllm.admission import Admission
from steerkit.integrations.vllm.http_requests import check_one_answer
from steerkit.integrations.vllm.payload import NUMBERS, VECTORS, Payload, is_wire
from steerkit.integrations.vllm.plan import plan_from_wire
from steerkit.integrations.vllm.settings import Settings
from steerkit.interventions.following import StrengthRamp
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.logit_rules import ThinkingBudget
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.readers import VectorReader
from steerkit.interventions.steering import Steering
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.models.checkpoint import checkpoint_fingerprint
from tests.tiny import random_vector, tiny_model


@pytest.fixture(scope="module")
def checkpoint(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.hf.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    random_vector(tiny, name="good").save(folder / "good.safetensors")
    random_vector(tiny_model(seed=7), name="other").save(folder / "other.safetensors")
    random_vector(tiny_model(width=16), name="narrow").save(folder / "narrow.safetensors")
    random_vector(tiny_model(layers=2), name="shallow").save(folder / "shallow.safetensors")
    return folder


def config(checkpoint: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    model = SimpleNamespace(
        model=str(checkpoint),
        dtype=dtype,
        architectures=["LlamaForCausalLM"],
        hf_text_config=SimpleNamespace(num_hidden_layers=4),
        get_hidden_size=lambda: 32,
        is_encoder_decoder=False,
    )
    parts: dict[str, Any] = {
        "model_config": model,
        "speculative_config": None,
        "parallel_config": SimpleNamespace(pipeline_parallel_size=1),
        "compilation_config": SimpleNamespace(),
        "cache_config": SimpleNamespace(kv_sharing_fast_prefill=False),
    }
    return SimpleNamespace(**parts | changes)


@pytest.fixture
def admission(tiny: LanguageModel, checkpoint: Path, folder: Path) -> Admission:
    return Admission(config(checkpoint), tiny.tokenizer, Settings(vectors=folder.resolve(), depth=2))


def test_a_sound_request_leaves_as_the_constants_of_its_steerings(
    admission: Admission, tiny: LanguageModel
) -> None:
    wire = admission.wire({"steerkit": ["good@layer=2,strength=3"], "other": 1}, 9)
    assert is_wire(wire)
    assert wire is not None
    [cell] = Payload.from_wire(wire).cells
    assert cell.layer == 2
    torch.testing.assert_close(cell.constants.shift, 3 * random_vector(tiny).direction[2])


def test_what_asks_for_nothing_gets_nothing(admission: Admission) -> None:
    assert admission.wire({"other": 1}, 9) is None
    assert admission.wire({"steerkit": "good@layer=2,strength=0"}, 9) is None
    assert admission.wire({"steerkit": []}, 9) is None


def test_equal_requests_are_computed_once_and_others_are_not_mixed_up(admission: Admission) -> None:
    first = admission.wire({"steerkit": "good@layer=2"}, 9)
    assert admission.wire({"steerkit": ["good@layer=2,strength=1"]}, 12) is first
    assert admission.wire({"steerkit": "good@layer=2", "steerkit_prompt_tokens": 3}, 9) != first
    assert admission.wire({"steerkit": "good@layer=2,strength=2"}, 9) != first


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"steerkit": "../good@layer=1"}, "not the name"),
        ({"steerkit": "/etc/passwd@layer=1"}, "not the name"),
        ({"steerkit": "good@layer=1,gate=/etc/passwd,threshold=0.5"}, "not the name"),
        ({"steerkit": "good@layer=1,along=/etc/passwd,threshold=0"}, "not the name"),
        ({"steerkit": "absent@layer=1"}, "no vector 'absent'"),
        ({"steerkit": "narrow@layer=1"}, "width 16"),
        ({"steerkit": "shallow@layer=1"}, "2 layers"),
        ({"steerkit": "other@layer=1"}, "other weights"),
        ({"steerkit": "good@layer=1,along=other,threshold=0"}, "other weights"),
        ({"steerkit": "good@layer=4"}, "layer 4"),
        ({"steerkit": "good@layer=1,half_life=8"}, "'half_life' 8.0 is not supported"),
        ({"steerkit": "good@layer=1,positions=boundaries"}, "'positions' 'boundaries' is not supported"),
        ({"steerkit": "good@layer=1,positions=last"}, "'positions' 'last' is not supported"),
        ({"steerkit": "good@layer=1,follows=entropy,low=1,high=3"}, "'follows' .* is not supported"),
        ({"steerkit": "thinking-budget@tokens=4"}, "no rules on logits"),
        ({"steerkit": "dont-know-system"}, "edits the prompt"),
        ({"steerkit": 'prompt@begin="Sure"'}, "'begin' forces tokens"),
        ({"steerkit": "good@layer=1,strength=1e30"}, "'strength'"),
        ({"steerkit": "good@layer=1,strength=1e39"}, "strength"),
        ({"steerkit": "good@layer=1,strength=1e9,operation=ablate"}, "'strength'"),
        ({"steerkit": "good@layer=1,operation=clamp,target=1e30"}, "'strength'"),
        ({"steerkit": ["good@layer=1"] * 3}, "3 steerings meet"),
        ({"steerkit": "good@layer=1", "steerkit_prompt_tokens": 10}, "the prompt has 9"),
        ({"steerkit": {"form": "steerkit-program-1", "cells": [], "key": "x"}}, "'vector'"),
        ({"steerkit": (1, 2)}, "Steering objects"),
        ({"steerkit_vector": "good"}, "unknown argument"),
    ],
)
def test_a_hostile_or_mistaken_request_is_refused_by_name(
    arguments: dict[str, Any], named: str, admission: Admission
) -> None:
    with pytest.raises(SteerkitError, match=named):
        admission.wire(arguments, 9)
    if "the prompt" not in named:  # all else is refused before the prompt is known
        with pytest.raises(SteerkitError, match=named):
            admission.check(arguments)
    assert admission.wire({"steerkit": "good@layer=2"}, 9) is not None  # and leaves the server as it was


def test_a_field_that_vllm_does_not_know_is_refused_by_name(
    admission: Admission, tiny: LanguageModel
) -> None:
    @dataclass(frozen=True, eq=False, repr=False)
    class Decaying(Steering):
        decay: float = 1.0

    vector = random_vector(tiny)
    assert admission.wire({"steerkit": (Decaying(vector, (1,)),)}, 9) is not None
    with pytest.raises(SteerkitError, match=r"'decay' 0\.5 is not supported"):
        admission.wire({"steerkit": (Decaying(vector, (1,), decay=0.5),)}, 9)


def test_a_payload_holds_all_constants_or_is_none(tiny: LanguageModel) -> None:
    # Numbers of gates whose firing is counted and of what strengths follow, which nobody asks of vLLM.
    unasked = {"gate", "follows"}
    assert {field.name for field in fields(Acting)} == {*VECTORS, *NUMBERS, "own", "halvings", *unasked}
    vector = random_vector(tiny)
    for asked in (
        vector.at(1, half_life=8.0),
        vector.at(1, positions="boundaries"),
        vector.at(1, positions="last"),
        vector.at(1, follows=StrengthRamp(VectorReader(vector, 0), 0.0, 1.0)),
    ):
        with pytest.raises(SteerkitError, match="past the front end's checks"):
            Payload.of((asked,), ((3,), (4,)))


def test_what_is_kept_ready_is_bounded_by_its_cells(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admitting, "KEPT", 8)
    for number in range(40):
        spec = f"good@layer=0:3,strength={number}"
        wire = admission.wire({"steerkit": spec}, 9)
        assert admission.wire({"steerkit": spec}, 9) is wire
        kept = [len(w["cells"]) for w in admission._wires.values() if w is not None]
        assert sum(kept) <= 8


def test_half_precision_refuses_what_it_cannot_hold(
    tiny: LanguageModel, checkpoint: Path, folder: Path
) -> None:
    half = Admission(config(checkpoint, torch.float16), tiny.tokenizer, Settings(vectors=folder.resolve()))
    assert half.wire({"steerkit": "good@layer=1"}, 9) is not None
    for strength in ("1e3", "1e6"):
        with pytest.raises(SteerkitError, match="strength"):
            half.wire({"steerkit": f"good@layer=1,strength={strength}"}, 9)


def test_a_probe_gate_is_refused_by_name(admission: Admission, folder: Path, tiny: LanguageModel) -> None:
    metadata = ProbeMetadata(name="probe", model=tiny.name, fingerprint=tiny.fingerprint, layer=1)
    probe = Probe(torch.ones(tiny.n_layers, tiny.d_model), torch.zeros(tiny.n_layers), metadata)
    probe.save(folder / "probe.safetensors")
    gated = random_vector(tiny).at(2, gate=ProbeGate(probe))
    for arguments in ({"steerkit": "good@layer=1,gate=probe,threshold=0.5"}, {"steerkit": (gated,)}):
        with pytest.raises(SteerkitError, match=r"'gate' 'probe' .*vLLM gates positions alone"):
            admission.wire(arguments, 9)


def test_an_operation_with_arithmetic_of_its_own_travels_by_name(admission: Admission) -> None:
    wire = admission.wire({"steerkit": "good@layer=1,strength=0.5,operation=rotate"}, 9)
    assert wire is not None
    [cell] = Payload.from_wire(wire).cells
    assert (cell.constants.own, cell.constants.amount) == ("rotate", 0.5)


def test_objects_that_act_elsewhere_are_refused(admission: Admission) -> None:
    for other, named in (
        (ThinkingBudget(4), "no rules on logits"),
        (PromptEdit("Be brief."), "edits the prompt"),
    ):
        with pytest.raises(SteerkitError, match=named):
            admission.wire({"steerkit": (other,)}, 9)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"speculative_config": object()}, "speculative decoding"),
        ({"parallel_config": SimpleNamespace(pipeline_parallel_size=2)}, "pipeline parallelism"),
    ],
)
def test_scopes_that_follow_the_text_are_refused_where_it_cannot_be_followed(
    changes: dict[str, Any], named: str, tiny: LanguageModel, checkpoint: Path, folder: Path
) -> None:
    there = Admission(config(checkpoint, **changes), tiny.tokenizer, Settings(vectors=folder.resolve()))
    assert there.wire({"steerkit": "good@layer=1"}, 9) is not None
    with pytest.raises(SteerkitError, match=named):
        there.wire({"steerkit": "good@layer=1,scope=thinking"}, 9)


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel_config": SimpleNamespace(pipeline_parallel_size=1, use_ubatching=True)},
        {"parallel_config": SimpleNamespace(pipeline_parallel_size=1, prefill_context_parallel_size=2)},
        {"compilation_config": SimpleNamespace(pass_config=SimpleNamespace(enable_sp=True))},
        {"cache_config": SimpleNamespace(kv_sharing_fast_prefill=True)},
        {"kv_transfer_config": SimpleNamespace(kv_connector="LMCacheConnectorV1")},
    ],
)
def test_a_setup_whose_tokens_are_split_up_is_refused(
    changes: dict[str, Any], tiny: LanguageModel, checkpoint: Path, folder: Path
) -> None:
    there = Admission(config(checkpoint, **changes), tiny.tokenizer, Settings(vectors=folder.resolve()))
    with pytest.raises(SteerkitError, match="this server runs with"):
        there.wire({"steerkit": "good@layer=1"}, 9)


def test_a_cache_that_goes_by_block_hashes_is_no_obstacle(
    tiny: LanguageModel, checkpoint: Path, folder: Path
) -> None:
    offloading = config(checkpoint, kv_transfer_config=SimpleNamespace(kv_connector="OffloadingConnector"))
    there = Admission(offloading, tiny.tokenizer, Settings(vectors=folder.resolve()))
    assert there.wire({"steerkit": "good@layer=1"}, 9) is not None


def test_layers_that_the_server_does_not_hook_are_refused(
    tiny: LanguageModel, checkpoint: Path, folder: Path
) -> None:
    few = Settings(vectors=folder.resolve(), layers=frozenset({1, 2}))
    there = Admission(config(checkpoint), tiny.tokenizer, few)
    assert there.wire({"steerkit": "good@layer=1+2"}, 9) is not None
    with pytest.raises(SteerkitError, match="'layer' 3"):
        there.wire({"steerkit": "good@layer=2+3"}, 9)


def test_embeddings_have_no_positions_to_steer(admission: Admission) -> None:
    with pytest.raises(SteerkitError, match="embeddings"):
        admission.wire({"steerkit": "good@layer=1"}, None)


def test_a_mismatch_that_is_meant_is_let_through(tiny: LanguageModel, checkpoint: Path, folder: Path) -> None:
    lenient = Settings(vectors=folder.resolve(), allow_mismatch=True)
    there = Admission(config(checkpoint), tiny.tokenizer, lenient)
    assert there.wire({"steerkit": "other@layer=1"}, 9) is not None
    with pytest.raises(SteerkitError, match="width 16"):
        there.wire({"steerkit": "narrow@layer=1"}, 9)


def test_objects_from_this_process_need_no_file(admission: Admission, tiny: LanguageModel) -> None:
    vector: SteeringVector = random_vector(tiny, seed=42, name="nowhere")
    assert admission.wire({"steerkit": (vector.at(1),)}, 9) is not None
    with pytest.raises(SteerkitError, match="other weights"):
        admission.wire({"steerkit": (random_vector(tiny_model(seed=7), seed=5).at(2),)}, 9)


def test_the_checkpoints_fingerprint_is_the_loaded_models(
    tiny: LanguageModel, checkpoint: Path, smollm: LanguageModel, gemma: LanguageModel
) -> None:
    assert checkpoint_fingerprint(str(checkpoint)) == tiny.fingerprint
    for lm in (smollm, gemma):
        assert checkpoint_fingerprint(lm.hf.config.name_or_path) == lm.fingerprint


def test_weights_that_are_no_plain_checkpoint_are_not_guessed_at(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(SteerkitError, match="STEERKIT_ALLOW_MISMATCH"):
        checkpoint_fingerprint(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STEERKIT_CELLS", "0"),
        ("STEERKIT_CELLS", "many"),
        ("STEERKIT_DEPTH", "-1"),
        ("STEERKIT_VECTORS", "/nowhere"),
    ],
)
def test_an_operators_mistake_stops_the_server(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SteerkitError, match=name):
        Settings.from_environment()


def test_what_is_read_leaves_as_constants_and_needs_no_steering(
    admission: Admission, tiny: LanguageModel
) -> None:
    asked = {"steerkit_readers": ["entropy", "good@layer=2"]}
    assert admission.wire(asked, 9) is None
    admission.check(asked)
    plan = admission.plan(asked, stepwise=True)
    assert plan is not None
    assert plan["stepwise"]
    entropy, good = plan_from_wire(plan)
    assert (entropy.name, entropy.layer, entropy.function) == ("entropy", None, "entropy")
    direction = random_vector(tiny).direction[2]
    assert good.layer == 2
    assert good.weight is not None
    torch.testing.assert_close(good.weight, direction / direction.norm())
    objects = admission.plan({"steerkit_readers": (VectorReader(random_vector(tiny), 2),)})
    assert objects is not None
    assert plan_from_wire(objects)[0].key == good.key
    assert admission.plan({"steerkit": "good@layer=2"}) is None
    assert admission.plan({"steerkit_readers": ()}) is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"steerkit_readers": "other@layer=1"}, "other weights"),
        ({"steerkit_readers": "narrow@layer=1"}, "width 16"),
        ({"steerkit_readers": "good@layer=7"}, "layer 7"),
        ({"steerkit_readers": "nothing"}, "'nothing'"),
        ({"steerkit_readers": (1,)}, "tuple of readers"),
        ({"steerkit_readers": {"form": "steerkit-readers-1", "readers": []}}, "kind vector"),
        ({"steerkit_reader": "entropy"}, "unknown argument"),
        ({"steerkit_readers": "entropy", "steerkit_prompt_tokens": 3}, "no meaning without 'steerkit'"),
    ],
)
def test_readers_that_cannot_be_read_are_refused_by_name(
    arguments: dict[str, Any], named: str, admission: Admission
) -> None:
    with pytest.raises(SteerkitError, match=named):
        admission.check(arguments)


def test_readers_are_refused_where_a_server_cannot_read(checkpoint: Path, folder: Path) -> None:
    def server(settings: Settings, **changes: Any) -> Admission:
        return Admission(config(checkpoint, **changes), None, replace(settings, vectors=folder.resolve()))

    states, logits = {"steerkit_readers": "good@layer=2"}, {"steerkit_readers": "entropy"}
    with pytest.raises(SteerkitError, match="STEERKIT_READERS=0"):
        server(Settings(readers=0)).plan(states)
    assert server(Settings(readers=0)).plan(logits) is not None
    with pytest.raises(SteerkitError, match="'layer' 2 is not among those"):
        server(Settings(layers=frozenset({1}))).plan(states)
    with pytest.raises(SteerkitError, match="speculative decoding"):
        server(Settings(), speculative_config=object()).plan(logits)


@pytest.mark.parametrize(
    "request_", [{"stream": True}, {"n": 2}, {"prompt": ["a", "b"]}, {"prompt": [[1, 2], [3]]}]
)
def test_readings_need_one_answer_to_stand_in(request_: dict[str, Any]) -> None:
    with pytest.raises(SteerkitError, match=r"leave out stream|one prompt and one choice"):
        check_one_answer(SimpleNamespace(**request_))
    check_one_answer(SimpleNamespace(stream=False, n=1, prompt=[1, 2, 3]))
    check_one_answer(SimpleNamespace(messages=[]))


@pytest.mark.parametrize("name", [each.name for each in fields(Steering)])
def test_whatever_a_steering_gains_is_refused_until_it_is_expressed(name: str, tiny: LanguageModel) -> None:
    """A field of a steering that the tables do not know is refused by its name, whatever stands in it."""
    if name in EXPRESSED or name in {"name"}:
        return
    steering = random_vector(tiny).at(1)
    object.__setattr__(steering, name, object())
    assert f"{name!r}" in (supports(steering) or "")
