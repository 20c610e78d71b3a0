"""What reading costs while decoding: the same rows, read by four readers each and by none, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import steerkit as sk
from benchmarks.decoding import long_prompts
from benchmarks.measure import ratios, take_turns
from benchmarks.rows import Row, at_most
from benchmarks.setting import Workbench

BEGINNINGS = ("", " Begin at night.")  # twice as many prompts


def run(bench: Workbench) -> Iterator[Row]:
    """The engine's loop with four readers a row: two of states at a layer, one at another, and one of logits."""
    lm, vector = bench.lm, bench.vector
    readers: tuple[sk.Reader, ...] = (
        sk.VectorReader(vector, lm.n_layers // 2),
        sk.VectorReader(vector.random_control(), lm.n_layers // 2),
        sk.VectorReader(vector, lm.n_layers - 1),
        sk.NamedReader("log-probability"),
    )
    rows = bench.sizes.read_rows
    decoding = sk.Decoding(bench.sizes.decoded_tokens)
    engine = sk.TransformersEngine(lm, rows)

    def written(
        prompts: Sequence[str], read: tuple[sk.Reader, ...] = (), reads_prompt: bool = True
    ) -> list[sk.Completion]:
        return list(
            engine.generate(
                sk.Request(prompt, (), decoding, readers=read, reads_prompt=reads_prompt)
                for prompt in prompts
            )
        )

    asked = [prompt + more for more in BEGINNINGS for prompt in long_prompts()]
    prompts = [c.request.prompt for c in written(asked) if c.tokens == decoding.max_new_tokens][:rows]

    variants = {
        "plain": partial(written, prompts),
        "prompts and completions": partial(written, prompts, readers),
        "completions": partial(written, prompts, readers, False),
    }
    seconds = take_turns(variants, bench.sizes.reading_repeats, bench.wait)
    for what in ("prompts and completions", "completions"):
        yield Row.of(
            f"reading, batch {len(prompts)}: 4 readers a row of {what} / none",
            ratios(seconds, what, "plain"),
            target=at_most(1.03),
            note=f"{bench.sizes.decoded_tokens} tokens a row; every token of {what} read",
            seconds=seconds,
        )
