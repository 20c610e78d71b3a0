"""sk.steer around the user's own generate and forward calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from steerkit.core.errors import MisuseError, ModelInUseError, ModelMismatchError, SteerkitError
from steerkit.engines.context import steer
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from tests.engines import reference
from tests.tiny import random_vector, tiny_model

LAYER = 1
PROMPTS = ["hi", "what is the capital of France?", "name three colours"]


def encoded(lm: LanguageModel, prompts: Sequence[str], side: str = "left") -> dict[str, Tensor]:
    texts = [lm.renderer.encode_prompt(p) for p in prompts]
    width = max(map(len, texts))
    fill = [[0] * (width - len(t)) for t in texts]
    real = [[1] * len(t) for t in texts]
    left = side == "left"
    return {
        "input_ids": torch.tensor([f + t if left else t + f for f, t in zip(fill, texts, strict=True)]),
        "attention_mask": torch.tensor([f + r if left else r + f for f, r in zip(fill, real, strict=True)]),
    }


def states_after(lm: LanguageModel, layer: int, batch: dict[str, Tensor]) -> Tensor:
    """Output of block `layer`, read by a hook registered after the steering's."""
    seen: list[Tensor] = []
    handle = lm.blocks[layer].register_forward_hook(lambda _m, _a, out: seen.append(out))
    try:
        with torch.inference_mode():
            lm.hf(**batch)
    finally:
        handle.remove()
    return seen[0]


def generated(lm: LanguageModel, batch: dict[str, Tensor], **options: object) -> list[list[int]]:
    out = lm.hf.generate(**batch, **{"do_sample": False, "max_new_tokens": 10, "pad_token_id": 0, **options})
    return out[:, batch["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("scope", ["completion", "prompt", "all"])
def test_a_bare_forward_pass_is_all_prompt_and_padding_is_untouched(
    tiny: LanguageModel, side: str, scope: str
) -> None:
    vector = random_vector(tiny)
    batch = encoded(tiny, PROMPTS, side)
    plain = states_after(tiny, LAYER, batch)
    with steer(tiny, vector.at(LAYER, 1.0, scope=scope)):
        moved = states_after(tiny, LAYER, batch) - plain
    for row, mask in enumerate(batch["attention_mask"]):
        real = mask.nonzero().flatten().tolist()
        wanted = {"completion": real[-1:], "prompt": real[:-1], "all": real}[scope]
        for position in range(len(mask)):
            push = vector.direction[LAYER] if position in wanted else torch.zeros(tiny.d_model)
            torch.testing.assert_close(moved[row, position], push, rtol=1e-4, atol=1e-4)


def test_strength_zero_is_bit_identical_to_no_steering(smollm: LanguageModel) -> None:
    batch = encoded(smollm, PROMPTS)
    with torch.inference_mode():
        plain = smollm.hf(**batch).logits
        for operation in ("add", "ablate", "rotate"):
            with steer(smollm, random_vector(smollm).at([3, 9], 0.0, operation=operation)):
                assert torch.equal(smollm.hf(**batch).logits, plain)


@pytest.mark.parametrize("scope", ["completion", "prompt", "all"])
def test_generate_equals_the_plain_loop_cached_or_not(tiny: LanguageModel, scope: str) -> None:
    vector = random_vector(tiny, 3, size=0.5)
    where = {
        "completion": reference.completion_positions,
        "prompt": reference.prompt_positions,
        "all": reference.all_positions,
    }[scope]
    push = 1.5 * vector.direction[LAYER]
    expected = []
    for prompt in PROMPTS:
        tokens = reference.greedy(
            tiny, tiny.renderer.encode_prompt(prompt), [(LAYER, lambda h: h + push, where)], 10
        )
        expected.append(tokens)
    batch = encoded(tiny, PROMPTS)
    for options in ({}, {"use_cache": False}, {"prefill_chunk_size": 4}):
        with steer(tiny, vector.at(LAYER, 1.5, scope=scope)):
            found = generated(tiny, batch, **options)
        trimmed = [row[: row.index(2)] if 2 in row else row for row in found]
        assert trimmed == expected, options


def test_each_row_takes_its_own_steering_with_it_through_beams_and_samples(tiny: LanguageModel) -> None:
    vector = random_vector(tiny, 3, size=0.5)
    rows: list[list[Steering]] = [[vector.at(LAYER, 1.5)], [], [vector.at(LAYER, -1.0, scope="all")]]
    for options in (
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"use_cache": False, "num_beams": 2},
    ):
        expected = []
        for prompt, row in zip(PROMPTS, rows, strict=True):
            with steer(tiny, *row):
                expected += generated(tiny, encoded(tiny, [prompt]), **options)
        with steer(tiny, rows=rows):
            found = generated(tiny, encoded(tiny, PROMPTS), **options)
        strip = [[t for t in row if t not in (0, 2)] for row in found]
        assert strip == [[t for t in row if t not in (0, 2)] for row in expected], options


def test_thinking_ends_where_the_marker_does_for_every_beam(tiny: LanguageModel) -> None:
    vector = random_vector(tiny, 3, size=0.5)
    begun = {"open": "<think>", "shut": "<think> shut </think>", "say <think> open": ""}
    texts = [tiny.renderer.encode(tiny.renderer.render(p) + beginning) for p, beginning in begun.items()]
    width = max(map(len, texts))
    given = {
        "input_ids": torch.tensor([[0] * (width - len(t)) + t for t in texts]),
        "attention_mask": torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in texts]),
    }
    plain = generated(tiny, given)
    with steer(tiny, vector.at(LAYER, 1.5, scope="thinking")):
        found = generated(tiny, given)
        uncached = generated(tiny, given, use_cache=False)
    assert found == uncached
    assert found[1:] == plain[1:]
    with steer(tiny, vector.at(LAYER, 1.5)):
        assert found[0] == generated(tiny, given)[0]


def test_contexts_nest_and_the_outer_one_edits_first(tiny: LanguageModel) -> None:
    a, b = random_vector(tiny, 1), random_vector(tiny, 2)
    add, ablate = a.at(LAYER, 1.0, scope="all"), b.at(LAYER, 1.0, scope="all", operation="ablate")
    batch = encoded(tiny, PROMPTS)
    with steer(tiny, add, ablate):
        together = states_after(tiny, LAYER, batch)
    with steer(tiny, add), steer(tiny, ablate):
        nested = states_after(tiny, LAYER, batch)
    torch.testing.assert_close(nested, together)
    with steer(tiny, ablate), steer(tiny, add):
        assert not torch.allclose(states_after(tiny, LAYER, batch), together, atol=1e-3)


def test_an_exception_inside_generate_leaves_nothing_behind(tiny: LanguageModel) -> None:
    batch = encoded(tiny, PROMPTS)
    before = generated(tiny, batch)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupted() -> None:
        with steer(tiny, random_vector(tiny).at(LAYER, 3.0)):
            tiny.hf.generate(**batch, max_new_tokens=5, logits_processor=[stop])

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.hf.modules())
    assert not {"generate", "prepare_inputs_for_generation"} & vars(tiny.hf).keys()
    assert not tiny.is_steered
    assert generated(tiny, batch) == before


def test_two_models_do_not_meet() -> None:
    one, two = tiny_model(seed=1), tiny_model(seed=2)
    batch = encoded(two, PROMPTS)
    before = generated(two, batch)
    with steer(one, random_vector(one).at(LAYER, 3.0)):
        assert generated(two, batch) == before
        with steer(two, random_vector(two, 5).at(LAYER, 3.0)):
            assert generated(two, batch) != before


def test_a_second_thread_is_told_and_the_first_goes_on(tiny: LanguageModel) -> None:
    vector = random_vector(tiny)
    batch = encoded(tiny, PROMPTS)
    told: list[type[Exception]] = []

    def attempt(action: object) -> None:
        try:
            action()  # type: ignore[operator]
        except SteerkitError as error:
            told.append(type(error))

    def steer_too() -> None:
        with steer(tiny, vector.at(LAYER)):
            pass

    with steer(tiny, vector.at(LAYER, 1.0)):
        alone = generated(tiny, batch)
        for action in (steer_too, lambda: tiny.hf(**batch)):
            thread = threading.Thread(target=attempt, args=(action,))
            thread.start()
            thread.join()
        assert generated(tiny, batch) == alone
    assert told == [ModelInUseError, ModelInUseError]


def test_a_vector_of_another_model_and_two_kinds_of_rows_are_refused(tiny: LanguageModel) -> None:
    with pytest.raises(ModelMismatchError), steer(tiny, random_vector(tiny_model(seed=9)).at(LAYER)):
        pass
    steering = random_vector(tiny).at(LAYER)
    with pytest.raises(MisuseError, match="not both"), steer(tiny, steering, rows=[[steering]]):
        pass
    with pytest.raises(MisuseError, match=r"vector\.at"), steer(tiny, random_vector(tiny)):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("other_thread", [True, False])
def test_a_generate_inside_another_leaves_the_first_on_course(
    tiny: LanguageModel, other_thread: bool
) -> None:
    batch, told = encoded(tiny, ["<think> open"]), []

    def intrude() -> None:
        try:
            generated(tiny, encoded(tiny, ["hello"]), max_new_tokens=2)
        except ModelInUseError:
            told.append(True)

    def between_steps(_ids: Tensor, scores: Tensor) -> Tensor:
        thread = threading.Thread(target=intrude)
        (thread.start if other_thread else intrude)()
        if other_thread:
            thread.join()
        return scores

    for scope in ("completion", "prompt", "thinking"):
        with steer(tiny, random_vector(tiny, 3, size=0.5).at(LAYER, 1.5, scope=scope)):
            alone = generated(tiny, batch, use_cache=False)
            assert generated(tiny, batch, use_cache=False, logits_processor=[between_steps]) == alone
    assert bool(told) == other_thread


def test_contexts_that_close_out_of_order_or_in_another_thread_leave_nothing_behind(
    tiny: LanguageModel,
) -> None:
    vector, methods = random_vector(tiny), {"generate", "prepare_inputs_for_generation"}

    def held() -> Iterator[None]:
        with steer(tiny, vector.at(LAYER)):
            yield

    first, second = held(), held()
    next(first)
    next(second)
    first.close()  # type: ignore[attr-defined]
    assert tiny.is_steered
    assert methods <= vars(tiny.hf).keys()
    thread = threading.Thread(target=second.close)  # type: ignore[attr-defined]
    thread.start()
    thread.join()
    assert not tiny.is_steered
    assert not methods & vars(tiny.hf).keys()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.hf.modules())
    told: list[Exception] = []

    def steer_elsewhere() -> None:
        try:
            next(held())
        except SteerkitError as error:
            told.append(error)

    thread = threading.Thread(target=steer_elsewhere)
    thread.start()
    thread.join()
    assert not told


def test_a_generate_taken_before_the_block_is_refused(tiny: LanguageModel) -> None:
    generate, batch = tiny.hf.generate, encoded(tiny, PROMPTS)
    with steer(tiny, random_vector(tiny).at(LAYER)), pytest.raises(MisuseError, match="inside the steering"):
        generate(**batch, max_new_tokens=2, pad_token_id=0)


def test_a_mask_that_hides_the_padding_is_refused(tiny: LanguageModel) -> None:
    ids = encoded(tiny, ["hello"])["input_ids"]
    mask = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    with (
        steer(tiny, random_vector(tiny).at(LAYER)),
        pytest.raises(MisuseError, match="hides which positions"),
    ):
        tiny.hf(input_ids=ids, attention_mask=mask)


def test_another_number_of_rows_than_of_lists_is_refused(tiny: LanguageModel) -> None:
    steering, batch = random_vector(tiny).at(LAYER), encoded(tiny, [*PROMPTS, "a fourth"])
    with steer(tiny, rows=[[steering], []]):
        with pytest.raises(MisuseError, match="given for 2 rows, but the batch has 4"):
            generated(tiny, batch)
        with pytest.raises(MisuseError, match="given for 2 rows, but the batch has 4"):
            tiny.hf(**batch)
    with pytest.raises(MisuseError, match="empty"), steer(tiny, rows=[]):
        pass
