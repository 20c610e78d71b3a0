"""What steering costs while decoding: the same loop, steered and not, over rows of equal length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import steerkit as sk
from benchmarks.measure import ratios, take_turns
from benchmarks.rows import Row, Target, at_most
from benchmarks.setting import Workbench
from steerkit.engines.base import Completion

# So little that every token is the unsteered one: the rows stay of equal length, and the work is the same.
STRENGTH = 1e-6
TARGETS = {"one layer": at_most(1.01), "all layers": at_most(1.02)}
SUBJECTS = """
    a lighthouse, a glacier, an old violin, a market square, a comet, a railway station, a beehive, a desert well,
    a village in the snow, a printing press, a coral reef, a chess master, a night train, a mountain pass, a canal,
    a paper boat, a clockmaker, a harbour in winter, an orchard, a lost map, a radio tower, a school choir, a volcano,
    a hot-air balloon, a library at night, a river delta, a tea house, a stone bridge, a weather station, a fox,
    a puppet theatre, a wheat field, a ferry crossing, a bell foundry, an abandoned mine, a kite festival, a bakery,
    a tide pool, a caravan, an observatory, a circus, a lake in autumn, a toy maker, a vineyard, a windmill,
    a botanical garden, a night market, a whale
"""


def long_prompts() -> list[str]:
    """Prompts that call for long answers, so that few rows stop early."""
    return [
        f"Write a long and detailed story about {' '.join(subject.split())}."
        for subject in SUBJECTS.split(",")
    ]


def run(bench: Workbench) -> Iterator[Row]:
    """The engine's loop, and transformers' own loop within `sk.steer`, for each batch size."""
    prompts = prompts_that_run_on(bench, max(bench.sizes.batches))
    for size in bench.sizes.batches:
        batch = prompts[:size]
        if len(batch) < size:
            yield Row(f"decoding, batch {size}", note=f"only {len(batch)} prompts run on to the last token")
            continue
        yield from _rows(bench, f"engine, batch {size}", _engine_variants(bench, batch), TARGETS)
        yield from _rows(
            bench, f"sk.steer around generate, batch {size}", _context_variants(bench, batch), {}
        )


def _rows(
    bench: Workbench, what: str, variants: dict[str, Callable[[], list[int]]], targets: dict[str, Target]
) -> Iterator[Row]:
    lengths = {name: work() for name, work in variants.items()}
    unequal = [name for name in variants if lengths[name] != lengths["unsteered"]]
    if unequal:
        yield Row(
            what, note=f"{', '.join(unequal)}: another number of tokens than unsteered, nothing to compare"
        )
        return
    seconds = take_turns(variants, bench.sizes.decoding_repeats, bench.wait)
    for name in variants:
        if name != "unsteered":
            yield Row.of(
                f"{what}: {name} / unsteered",
                ratios(seconds, name, "unsteered"),
                target=targets.get(name),
                note=f"{bench.sizes.decoded_tokens} tokens in every row of both",
                seconds={key: seconds[key] for key in (name, "unsteered")},
            )


def _steerings(bench: Workbench) -> dict[str, tuple[sk.Steering, ...]]:
    lm = bench.lm
    return {
        "unsteered": (),
        "one layer": (bench.vector.at(lm.n_layers // 2, STRENGTH),),
        "all layers": (bench.vector.at(range(lm.n_layers), STRENGTH),),
    }


def _engine_variants(bench: Workbench, prompts: Sequence[str]) -> dict[str, Callable[[], list[int]]]:
    engine = sk.TransformersEngine(bench.lm)

    def lengths(steerings: tuple[sk.Steering, ...]) -> list[int]:
        return sorted(completion.tokens for completion in _complete(engine, bench, prompts, steerings))

    return {name: partial(lengths, steerings) for name, steerings in _steerings(bench).items()}


def _context_variants(bench: Workbench, prompts: Sequence[str]) -> dict[str, Callable[[], list[int]]]:
    lm, tokens = bench.lm, bench.sizes.decoded_tokens
    rendered = [lm.renderer.render(prompt) for prompt in prompts]
    encoded = lm.tokenizer(
        rendered, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    ).to(lm.device)

    def lengths(steerings: tuple[sk.Steering, ...]) -> list[int]:
        with sk.steer(lm, *steerings) if steerings else nullcontext():
            output = lm.hf.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=lm.pad_id,
            )
        return [output.shape[1] - encoded["input_ids"].shape[1]] * len(rendered)

    return {name: partial(lengths, steerings) for name, steerings in _steerings(bench).items()}


def _complete(
    engine: sk.TransformersEngine,
    bench: Workbench,
    prompts: Sequence[str],
    steerings: tuple[sk.Steering, ...] = (),
) -> list[Completion]:
    decoding = sk.Decoding(bench.sizes.decoded_tokens)
    return list(engine.generate(sk.Request(prompt, steerings, decoding) for prompt in prompts))


def prompts_that_run_on(bench: Workbench, count: int) -> list[str]:
    """Up to `count` prompts whose unsteered completion goes on for as many tokens as are decoded."""
    completions = _complete(sk.TransformersEngine(bench.lm), bench, long_prompts())
    long = {c.request.prompt for c in completions if c.tokens == bench.sizes.decoded_tokens}
    return [prompt for prompt in long_prompts() if prompt in long][:count]
