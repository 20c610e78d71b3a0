"""States of the reasoner, for an autoencoder to be trained on: one file of training states, one held out.

    python -m experiments.features.collect --data FOLDER --out FOLDER [--threads 2]

FOLDER of `--data` holds `selfaware/` and `umwp/`. Two kinds of text, none of which an evaluation asks: chains that the
reasoner was trained on, and what it writes itself, at temperature 1, to questions of the split `fit` of four suites.
The first position, whose norm is 25 times the others', is left out. States are float16 `[token, width]`; the last
tenth of the texts, in an order drawn from a seed, is held out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from torch import Tensor

import steerkit as sk
from experiments.reasoning_tax.data import training_rows
from steerkit.core.files import replacing
from steerkit.core.prompts import Prompt
from steerkit.engines.base import Request
from steerkit.engines.forward import in_passes, right_padded, states

MODEL = "smollm2-135m-reasoner-2"
LAYER = 14
CHAINS = 1800
SUITES = {
    "selfaware:{data}/selfaware/SelfAware.json": 320,
    "abstention": 162,
    "brevity": 160,
    "umwp:{data}/umwp/StandardDataset.jsonl": 160,
}
DECODING = sk.Decoding(256, temperature=1.0)
HELD_OUT = 0.1
TOKENS_A_PASS = 2048


def main() -> None:
    """Write both files, and how many tokens they hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    lm = sk.load_model(MODEL, dtype="bfloat16")
    texts = [*chains(lm), *own_words(lm, asked.data)]
    Random(0).shuffle(texts)
    last = round(len(texts) * (1 - HELD_OUT))
    for name, some in (("held-out", texts[last:]), ("training", texts[:last])):
        found = torch.cat(list(read(lm, some)))
        with replacing(asked.out / f"{name}.safetensors", "the states") as scratch:
            save_file({"states": found}, scratch)
        print(f"{name}: {len(some)} texts, {len(found)} tokens", flush=True)


def chains(lm: sk.LanguageModel) -> Iterator[Sequence[int]]:
    """The tokens of prompts with the chains that the model was trained on."""
    for row in training_rows("closable-2", CHAINS):
        yield lm.renderer.encode_pair(row.prompt, row.given + row.completion).ids


def own_words(lm: sk.LanguageModel, data: Path) -> Iterator[Sequence[int]]:
    """The tokens of prompts with what the model writes."""
    prompts: list[Prompt] = []
    for reference, most in SUITES.items():
        fit = sk.load_suite(reference.format(data=data)).split("fit").limit(most)
        prompts += [item.prompt for item in fit]
    requests = [Request(prompt, decoding=DECODING) for prompt in prompts]
    for found in sk.TransformersEngine(lm).generate(requests):
        yield (*lm.renderer.encode_prompt(found.request.prompt), *found.token_ids)


def read(lm: sk.LanguageModel, texts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """The states of all positions but the first at the layer, pass by pass."""

    def one_pass(some: Sequence[Sequence[int]]) -> Tensor:
        rows = right_padded(some, lm)
        real = rows.mask[:, 1:].bool()
        found = states(lm, rows, [LAYER], lambda hidden: hidden[:, 1:][real].to(torch.float16).cpu())
        return found[LAYER]

    ordered = sorted(texts, key=len)
    for _, found in in_passes(ordered, len, TOKENS_A_PASS, one_pass):
        yield found


if __name__ == "__main__":
    main()
