"""Models as users hold and run them: steered exactly as by a hook put on by hand, or refused in one line."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AsyncTextIteratorStreamer,
    CLIPVisionConfig,
    CompileConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SiglipVisionConfig,
    TextGenerationPipeline,
    TextIteratorStreamer,
    TextStreamer,
)

from steerkit.core.errors import MisuseError, ModelInUseError, SteerkitError
from steerkit.core.prompts import EncodedText
from steerkit.engines.base import Decoding, Request
from steerkit.engines.context import steer
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.extraction.capture import capture
from steerkit.interventions.gate import ProbeGate
from steerkit.interventions.probe import Probe, ProbeMetadata
from steerkit.models import load_model
from tests.tiny import byte_tokenizer, random_vector, tiny_hf

LAYER = 1
STRENGTH = 1.5
PROMPTS = ["hi", "what is the capital of France?", "name three colours"]
TOKENS = 4
Call = Callable[[Any], Any]


@contextmanager
def by_hand(hf: Any, push: Tensor, prompt_length: int, layer: int = LAYER) -> Iterator[None]:
    """Add `push` behind block `layer` from the last prompt position on; the cache says where a pass begins."""
    start = 0
    decoder = hf.get_decoder()

    def note(_decoder: object, _args: object, kwargs: dict[str, Any]) -> None:
        nonlocal start
        past = kwargs.get("past_key_values")
        start = 0 if past is None else int(past.get_seq_length())

    def add(_block: object, _args: object, output: Any) -> Any:
        hidden = (output if isinstance(output, Tensor) else output[0]).clone()
        places = start + torch.arange(hidden.shape[1])
        hidden[:, places >= prompt_length - 1] += push
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    handles = [
        decoder.register_forward_pre_hook(note, with_kwargs=True),
        decoder.layers[layer].register_forward_hook(add),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def batch() -> dict[str, Tensor]:
    ids = [byte_tokenizer().encode(prompt) for prompt in PROMPTS]
    width = max(map(len, ids))
    return {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids]),
    }


BATCH = batch()
LENGTH = BATCH["input_ids"].shape[1]


def writing(**options: object) -> Call:
    """Greedy completions of the prompts under options of `generate`."""

    def call(hf: Any) -> Tensor:
        settings = {"do_sample": False, "max_new_tokens": TOKENS, "pad_token_id": 0, **options}
        return hf.generate(**BATCH, **settings)[:, LENGTH:]

    return call


def writing_one(**options: object) -> Call:
    """Greedy completion of the longest prompt alone, as assisted generation demands."""

    def call(hf: Any) -> Tensor:
        row = {name: column[1:2] for name, column in BATCH.items()}
        settings = {"do_sample": False, "max_new_tokens": 2 * TOKENS, "pad_token_id": 0, **options}
        return hf.generate(**row, **settings)[:, LENGTH:]

    return call


def pipeline_of(hf: Any) -> TextGenerationPipeline:
    return TextGenerationPipeline(model=hf, tokenizer=byte_tokenizer())


def with_pipeline(made: Call = pipeline_of, *, chat: bool = False) -> Call:
    """Greedy text from transformers' pipeline, for a prompt that is LENGTH tokens long."""

    def call(hf: Any) -> str:
        prompt: Any = [{"role": "user", "content": "x" * (LENGTH - 18)}] if chat else PROMPTS[1]
        options = {"do_sample": False, "max_new_tokens": TOKENS, "return_full_text": False}
        return made(hf)(prompt, **options)[0]["generated_text"]

    return call


def logits(hf: Any) -> Tensor:
    with torch.no_grad():
        return hf(**BATCH).logits


def same(a: Any, b: Any) -> bool:
    if isinstance(a, str):
        return a == b
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def compiled(function: Any) -> Any:
    return torch.compile(function, backend="eager")


def compile_forward(hf: Any) -> None:
    hf.forward = compiled(hf.forward)


def compile_in_place(hf: Any) -> None:
    hf.compile(backend="eager")


def compile_decoder(hf: Any) -> None:
    hf.model.forward = compiled(hf.model.forward)


def compile_blocks(hf: Any) -> None:
    for place, block in enumerate(hf.model.layers):
        hf.model.layers[place] = compiled(block)


def compile_blocks_in_place(hf: Any) -> None:
    for block in hf.model.layers:
        block.compile(backend="eager")


class Subclass(LlamaForCausalLM):
    """A user's model, which wraps both ways in."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return super().generate(*args, **kwargs)


def as_subclass(hf: Any) -> Any:
    other = Subclass(hf.config).eval()
    other.load_state_dict(hf.state_dict())
    return other


def with_adapter(hf: Any) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, lora_dropout=0.1
    )
    return peft.get_peft_model(hf, config, autocast_adapter_dtype=False).eval()


def merged(hf: Any) -> Any:
    return with_adapter(hf).merge_and_unload().eval()


def itself(hf: Any) -> Any:
    return hf


def nothing(_hf: Any) -> None:
    pass


@dataclass(frozen=True)
class Way:
    """A way to hold and run a model: made before it is loaded, changed after that, and run in the block."""

    run: Call = field(default_factory=writing)
    reference: Call | None = None  # of the same completions, where the hook by hand cannot follow `run`
    hold: Callable[[Any], Any] = itself
    after_loading: Callable[[Any], None] = nothing
    needs: str | None = None
    needs_cuda: bool = False


STATIC_COMPILED = CompileConfig(backend="eager", fullgraph=False)
STATIC_COMPILED._compile_all_devices = True  # what transformers does by itself on an accelerator

WAYS = {
    "as it is": Way(),
    "a bare pass": Way(logits),
    "compiled after loading": Way(after_loading=compile_forward),
    "compiled after loading, a bare pass": Way(logits, after_loading=compile_forward),
    "compiled in place before loading": Way(hold=lambda hf: compile_in_place(hf) or hf),
    "compiled in place": Way(after_loading=compile_in_place),
    "compiled in place, a bare pass": Way(logits, after_loading=compile_in_place),
    "decoder compiled": Way(after_loading=compile_decoder),
    "blocks compiled": Way(hold=lambda hf: compile_blocks(hf) or hf),
    "blocks compiled in place": Way(after_loading=compile_blocks_in_place),
    "a compiled wrapper": Way(hold=compiled),
    "a compiled wrapper, a bare pass": Way(logits, hold=compiled),
    "compiled inside the block": Way(lambda hf: logits(compiled(hf)), logits),
    "a compiled function around it": Way(compiled(logits), logits),
    "static cache": Way(writing(cache_implementation="static")),
    "static cache, compiled by transformers": Way(
        writing(cache_implementation="static", compile_config=STATIC_COMPILED), writing()
    ),
    "no cache": Way(writing(use_cache=False)),
    "read in chunks": Way(writing(prefill_chunk_size=4)),
    "beams": Way(writing(num_beams=3)),
    "beams returned": Way(writing(num_beams=4, num_return_sequences=2)),
    "cache in 8 bits": Way(writing(cache_implementation="quantized", cache_config={"backend": "fp8"})),
    "cache in 4 bits": Way(
        writing(cache_implementation="quantized", cache_config={"backend": "quanto", "q_group_size": 16}),
        needs="optimum.quanto",
    ),
    "cache in the host's memory": Way(writing(cache_implementation="offloaded"), needs_cuda=True),
    "assisted by itself": Way(lambda hf: writing_one(assistant_model=hf)(hf), writing_one()),
    "assisted by its first blocks": Way(writing_one(assistant_early_exit=2), writing_one()),
    "assisted by its first block": Way(writing_one(assistant_early_exit=1), writing_one()),
    "assisted by another model": Way(writing_one(assistant_model=tiny_hf(seed=6, layers=3)), writing_one()),
    "assisted by the prompt": Way(writing_one(prompt_lookup_num_tokens=3), writing_one()),
    "pipeline": Way(with_pipeline()),
    "pipeline, chat": Way(with_pipeline(chat=True)),
    "pipeline made before": Way(with_pipeline(made=functools.cache(pipeline_of))),
    "a subclass": Way(hold=as_subclass),
    "peft adapter": Way(hold=with_adapter),
    "peft adapter, a bare pass": Way(logits, hold=with_adapter),
    "peft adapter, compiled": Way(logits, hold=lambda hf: compiled(with_adapter(hf))),
    "peft adapter merged": Way(hold=merged),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_model_is_steered_as_by_hand_however_it_is_held_and_run(name: str) -> None:
    way = WAYS[name]
    if way.needs is not None:
        pytest.importorskip(way.needs)
    if way.needs_cuda and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    torch._dynamo.reset()
    held = way.hold(tiny_hf(seed=5, layers=3))
    lm = load_model(held, byte_tokenizer())
    vector = random_vector(lm, 3, size=0.5)
    reference = way.reference or way.run
    torch._dynamo.reset()  # no code from loading serves below
    with torch.compiler.set_stance("force_eager"), by_hand(lm.hf, STRENGTH * vector.direction[LAYER], LENGTH):
        expected = reference(held)
    way.after_loading(lm.hf)
    plain = way.run(held)
    assert not same(plain, expected)
    with steer(lm, vector.at(LAYER, STRENGTH)):
        found = way.run(held)
    assert same(found, expected)
    assert same(way.run(held), plain)
    assert not {"generate", "prepare_inputs_for_generation"} & vars(lm.hf).keys()


def test_compiled_code_runs_compiled_again_once_the_last_of_crossing_blocks_has_ended() -> None:
    traced: list[int] = []

    def backend(graph: Any, _inputs: object) -> Any:
        traced.append(len(graph.graph.nodes))
        return graph.forward

    lm = load_model(tiny_hf(seed=5, layers=3), byte_tokenizer())
    lm.hf.forward = torch.compile(lm.hf.forward, backend=backend)
    steering = random_vector(lm, 3).at(LAYER, STRENGTH)

    def open_block() -> Iterator[None]:
        with steer(lm, steering):
            yield

    first, second = open_block(), open_block()
    next(first)
    with torch.compiler.set_stance("default"):  # what a user sets inside is his own, and ends with his block
        next(second)
    steered = logits(lm.hf)
    first.close()  # type: ignore[attr-defined]
    assert not same(logits(lm.hf), steered)
    assert not traced
    second.close()  # type: ignore[attr-defined]
    assert not same(logits(lm.hf), steered)
    assert traced


def test_a_compiled_function_that_steers_is_refused() -> None:
    lm = load_model(tiny_hf(seed=5, layers=3), byte_tokenizer())
    steering = random_vector(lm, 3).at(LAYER, STRENGTH)

    def steered(hf: Any) -> Tensor:
        with steer(lm, steering):
            return logits(hf)

    with pytest.raises(MisuseError, match=r"torch\.compile"):
        compiled(steered)(lm.hf)
    assert same(compiled(logits)(lm.hf), logits(lm.hf))


def test_a_pass_that_goes_by_the_steered_blocks_is_an_error() -> None:
    lm = load_model(tiny_hf(seed=5, layers=3), byte_tokenizer())
    whole = lm.hf.forward
    captured = whole(**BATCH)

    def replayed(*_args: object, **_kwargs: object) -> Any:
        return captured

    def by_the_blocks(*args: Any, **kwargs: Any) -> Any:
        return type(lm.decoder).forward(lm.decoder, *args, **kwargs)

    def skipping(*args: Any, **kwargs: Any) -> Any:
        blocks, lm.decoder.layers = lm.decoder.layers, lm.decoder.layers[2:]
        try:
            return type(lm.decoder).forward(lm.decoder, *args, **kwargs)
        finally:
            lm.decoder.layers = blocks

    steering = random_vector(lm, 3).at(LAYER, STRENGTH)
    for owner, forward in ((lm.hf, replayed), (lm.decoder, skipping)):
        owner.forward = forward
        for run in (logits, writing()):
            with steer(lm, steering), pytest.raises(SteerkitError, match="without its hooked blocks"):
                run(lm.hf)
        with steer(lm):  # which steers nothing, so nothing is missing
            logits(lm.hf)
        del owner.forward
    lm.hf._compiled_call_impl = replayed
    with steer(lm, steering), pytest.raises(SteerkitError, match="without its hooked blocks"):
        writing()(lm.hf)
    lm.hf._compiled_call_impl = None
    lm.decoder.forward = by_the_blocks
    with steer(lm, steering):
        steered = logits(lm.hf)
    assert not same(steered, captured.logits)


def test_the_engine_and_its_readings_are_the_same_on_a_model_compiled_after_loading() -> None:
    lm = load_model(tiny_hf(seed=5, layers=3), byte_tokenizer())
    vector = random_vector(lm, 3, size=0.5)
    requests = [
        Request(prompt, (vector.at(LAYER, strength),), Decoding(max_new_tokens=TOKENS))
        for prompt in PROMPTS
        for strength in (0.0, STRENGTH)
    ]
    before = [each.token_ids for each in TransformersEngine(lm).generate(requests)]
    logits(lm.hf)
    compile_forward(lm.hf)
    compile_decoder(lm.hf)
    lm.hf(**BATCH)
    assert [each.token_ids for each in TransformersEngine(lm).generate(requests)] == before


@pytest.mark.parametrize("kind", [TextIteratorStreamer, AsyncTextIteratorStreamer, TextStreamer])
def test_who_reads_from_a_stream_hears_that_the_writing_thread_was_refused(kind: Any) -> None:
    lm = load_model(tiny_hf(seed=5, layers=3), byte_tokenizer())
    ended: list[bool] = []

    class Ending(TextStreamer):
        def end(self) -> None:
            ended.append(True)

    def write(streamer: Any) -> None:
        with contextlib.suppress(ModelInUseError):
            lm.hf.generate(**{k: v[:1] for k, v in BATCH.items()}, max_new_tokens=4, streamer=streamer)

    async def read_later() -> str:
        streamer = AsyncTextIteratorStreamer(byte_tokenizer(), timeout=30)
        threading.Thread(target=write, args=(streamer,)).start()
        return "".join([text async for text in streamer])

    def read() -> str:
        streamer = TextIteratorStreamer(byte_tokenizer(), timeout=30)
        threading.Thread(target=write, args=(streamer,)).start()
        return "".join(streamer)

    with steer(lm, random_vector(lm).at(LAYER)):
        if kind is TextStreamer:
            thread = threading.Thread(target=write, args=(Ending(byte_tokenizer()),))
            thread.start()
            thread.join()
            assert ended
            return
        with pytest.raises(ModelInUseError):
            read() if kind is TextIteratorStreamer else asyncio.run(read_later())
    assert read()


def test_text_streamed_by_a_thread_that_steers_is_the_steered_text() -> None:
    lm = load_model(tiny_hf(seed=5, layers=3), byte_tokenizer())
    steering = random_vector(lm, 3, size=0.5).at(LAYER, STRENGTH)
    with steer(lm, steering):
        expected = byte_tokenizer().decode(writing_one()(lm.hf)[0], skip_special_tokens=True)
    streamer = TextIteratorStreamer(byte_tokenizer(), skip_prompt=True, skip_special_tokens=True, timeout=30)

    def write() -> None:
        with steer(lm, steering):
            writing_one(streamer=streamer)(lm.hf)

    threading.Thread(target=write).start()
    assert "".join(streamer) == expected


def test_a_model_put_into_training_mode_later_is_refused() -> None:
    lm = load_model(tiny_hf(seed=5, layers=3), byte_tokenizer())
    steering = random_vector(lm).at(LAYER)
    request = Request("hi", (), Decoding(max_new_tokens=1))
    with steer(lm, steering), pytest.raises(MisuseError, match="training mode"):
        logits(lm.hf.train())
    with pytest.raises(MisuseError, match="training mode"), steer(lm, steering):
        pass
    with pytest.raises(MisuseError, match="training mode"):
        list(TransformersEngine(lm).generate([request]))
    with pytest.raises(MisuseError, match="training mode"):
        capture(lm, [EncodedText((5, 6, 7), 2)])
    lm.hf.eval()
    with steer(lm, steering):
        logits(lm.hf)


def learned_prompt(hf: Any) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return peft.get_peft_model(hf, config).eval()


def on_meta(hf: Any) -> Any:
    return hf.to("meta")


REFUSED = {
    "no head": (lambda hf: LlamaModel(hf.config).eval(), "no language-model head"),
    "a classifier": (lambda hf: LlamaForSequenceClassification(hf.config).eval(), "no language-model head"),
    "no weights": (on_meta, "meta device"),
    "in training mode": (lambda hf: hf.train(), "training mode"),
    "a learned prompt": (learned_prompt, "no text"),
    "no model": (lambda _hf: object(), "is a name, a path or a transformers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_steered_is_refused_in_one_line(name: str) -> None:
    hold, reason = REFUSED[name]
    with pytest.raises(MisuseError, match=reason) as caught:
        load_model(hold(tiny_hf(seed=5, layers=3)), byte_tokenizer())
    assert "\n" not in str(caught.value)


SCOPES = ("completion", "prompt", "all")


@contextmanager
def by_hand_in(scope: str, hf: Any, push: Tensor, prompt_length: int) -> Iterator[None]:
    """Add `push` as `by_hand` does, in a scope: what a scope `prompt` leaves out is what `completion` has."""
    with contextlib.ExitStack() as stack:
        if scope != "completion":
            stack.enter_context(by_hand(hf, push, 1))
        if scope != "all":
            stack.enter_context(by_hand(hf, push if scope == "completion" else -push, prompt_length))
        yield


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("ids_too", [False, True])
def test_embedded_prompts_are_steered_as_by_hand(scope: str, options: dict[str, Any], ids_too: bool) -> None:
    lm = load_model(tiny_hf(seed=5, layers=3), byte_tokenizer())
    vector = random_vector(lm, 3, size=0.5)
    embeds = lm.hf.get_input_embeddings()(BATCH["input_ids"]).detach() + 0.01
    given = {"inputs_embeds": embeds, "attention_mask": BATCH["attention_mask"]}
    if ids_too:
        given["input_ids"] = BATCH["input_ids"]

    def run() -> Tensor:
        settings = {"do_sample": False, "max_new_tokens": TOKENS, "pad_token_id": 0, **options}
        return lm.hf.generate(**given, **settings)

    plain = run()
    with by_hand_in(scope, lm.hf, STRENGTH * vector.direction[LAYER], LENGTH):
        expected = run()
    with steer(lm, vector.at(LAYER, STRENGTH, scope=scope)):
        found = run()
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


def test_thinking_that_opens_in_an_embedded_prompt_is_read_where_its_tokens_are_given_too() -> None:
    lm = load_model(tiny_hf(seed=5, layers=3), byte_tokenizer())
    ids = torch.tensor([byte_tokenizer().encode("[user]hm[assistant]<think> go\n\n")])
    embeds = lm.hf.get_input_embeddings()(ids).detach()
    thinking = random_vector(lm, 3, size=0.5).at(LAYER, STRENGTH, scope="thinking")
    at_steps = random_vector(lm, 3).at(LAYER, 4.0, positions="boundaries")

    def run(steering: Any, **given: Tensor) -> list[int]:
        with steer(lm, steering):
            out = lm.hf.generate(**given, do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)
        return out[0, -TOKENS:].tolist()

    unsteered = run(random_vector(lm).at(LAYER, 0.0), input_ids=ids)
    for steering in (thinking, at_steps):
        told = run(steering, input_ids=ids)
        assert told != unsteered
        assert run(steering, inputs_embeds=embeds, input_ids=ids) == told
        assert run(steering, inputs_embeds=embeds) == unsteered


IMAGE, IMAGE_TOKENS = 270, 4
TEXT = {
    "vocab_size": 280,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EYE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def llava() -> tuple[Any, dict[str, Tensor]]:
    vision = CLIPVisionConfig(**EYE, image_size=8, patch_size=4, initializer_range=0.2)
    config = LlavaConfig(
        vision_config=vision,
        text_config={"model_type": "llama", **TEXT},
        image_token_index=IMAGE,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config), {"pixel_values": torch.randn(2, 3, 8, 8)}


def gemma3() -> tuple[Any, dict[str, Tensor]]:
    config = Gemma3Config(
        text_config={"model_type": "gemma3_text", **TEXT, "head_dim": 8, "sliding_window": 6},
        vision_config=SiglipVisionConfig(**EYE, image_size=8, patch_size=4),
        mm_tokens_per_image=IMAGE_TOKENS,
        image_token_index=IMAGE,
    )
    return Gemma3ForConditionalGeneration(config), {"pixel_values": torch.randn(2, 3, 8, 8)}


def qwen() -> tuple[Any, dict[str, Tensor]]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": rope}, vision_config=vision, image_token_id=IMAGE
    )
    patches = {"pixel_values": torch.randn(32, 96), "image_grid_thw": torch.tensor([[1, 4, 4]] * 2)}
    return Qwen2_5_VLForConditionalGeneration(config), patches


@pytest.mark.parametrize("make", [llava, gemma3, qwen])
def test_images_are_prompt_and_what_is_written_about_them_is_steered_as_by_hand(make: Any) -> None:
    torch.manual_seed(0)
    hf, given = make()
    lm = load_model(hf.eval(), byte_tokenizer())
    seen = [IMAGE] * IMAGE_TOKENS
    ids = torch.tensor([[0, 0, 5, 6, *seen, 7, 8, 9], [5, 6, 7, 7, *seen, 9, 10, 11]])
    given |= {"input_ids": ids, "attention_mask": (ids != 0).long()}
    given["token_type_ids" if make is gemma3 else "mm_token_type_ids"] = (ids == IMAGE).long()
    if make is llava:
        del given["mm_token_type_ids"]
    vector = random_vector(lm, 3, size=0.5)

    def write() -> Tensor:
        return hf.generate(**given, do_sample=False, max_new_tokens=TOKENS)[:, ids.shape[1] :]

    def read() -> Tensor:
        with torch.no_grad():
            return hf(**given).logits[ids != 0]  # of what is no padding

    for run in (write, read):
        plain = run()
        for scope in SCOPES:
            with by_hand_in(scope, hf, STRENGTH * vector.direction[LAYER], ids.shape[1]):
                expected = run()
            with steer(lm, vector.at(LAYER, STRENGTH, scope=scope)):
                found = run()
            assert same(found, expected), (run, scope)
            assert not same(found, plain), (run, scope)
    with steer(lm, vector.at(LAYER, STRENGTH, scope="thinking")):  # the placeholders say where the text is
        assert same(read(), plain)


def test_a_probe_gate_is_refused_where_the_prompt_is_more_than_its_tokens() -> None:
    lm = load_model(tiny_hf(seed=5, layers=3), byte_tokenizer())
    metadata = ProbeMetadata(name="any", model=lm.name, fingerprint=lm.fingerprint, layer=LAYER)
    shape = lm.n_layers, lm.d_model
    gate = ProbeGate(Probe(torch.ones(shape), torch.zeros(shape[0]), metadata))
    steering = random_vector(lm).at(LAYER, STRENGTH, gate=gate)
    embeds = lm.hf.get_input_embeddings()(BATCH["input_ids"]).detach()
    for given in (
        {"inputs_embeds": embeds},
        {**BATCH, "inputs_embeds": embeds},
        {**BATCH, "pixel_values": embeds},
    ):
        with steer(lm, steering), pytest.raises(MisuseError, match="reads token ids alone") as caught:
            lm.hf.generate(**given, max_new_tokens=2)
        assert "\n" not in str(caught.value)
    with steer(lm, steering), pytest.raises(MisuseError, match="whole text as token ids"):
        lm.hf(inputs_embeds=embeds)
