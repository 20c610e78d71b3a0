"""The forms of one model's weights that are compared, and what a form takes: memory and time."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType

import steerkit as sk
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine

FLOAT = "float32"
CPU_HOLDS = "250MB"  # where the rest of the weights stays on disk
PROMPTS, TOKENS = 12, 24  # all prompts stand in one batch, or each alone


def of_gguf(kind: GGMLQuantizationType) -> Callable[[str], sk.LanguageModel]:
    """A loader of the float weights with every matrix of the blocks rounded as a GGUF file of this type has it."""

    def load(model: str) -> sk.LanguageModel:
        lm = sk.load_model(model, dtype="float32")
        with torch.no_grad():
            for block in lm.blocks:
                for weight in block.parameters():
                    if weight.ndim == 2:
                        stored = gguf.quantize(weight.numpy(), kind)
                        weight.copy_(torch.from_numpy(gguf.dequantize(stored, kind)))
        return sk.load_model(lm.hf, lm.tokenizer)

    return load


def loaded(**options: Any) -> Callable[[str], sk.LanguageModel]:
    """A loader with these options."""
    return lambda model: sk.load_model(model, dtype="float32", **options)


# Loaders by name, the float weights first: all others are rounded from them.
FORMS: dict[str, Callable[[str], sk.LanguageModel]] = {
    FLOAT: loaded(),
    "8bit": loaded(quantization="8bit"),
    "4bit": loaded(quantization="4bit"),
    "gguf-q8_0": of_gguf(GGMLQuantizationType.Q8_0),
    "gguf-q4_0": of_gguf(GGMLQuantizationType.Q4_0),
}


TIMED = {name: FORMS[name] for name in (FLOAT, "8bit", "4bit")}
TIMED["offloaded"] = loaded(max_memory={"cpu": CPU_HOLDS})


def weight_bytes(lm: sk.LanguageModel) -> int:
    """What the parameters take of the memory; those on disk take none."""
    return sum(weight.untyped_storage().nbytes() for weight in lm.hf.parameters() if not weight.is_meta)


def cost(form: str, model: str, threads: int) -> dict[str, float]:
    """Return megabytes of weights and of the process at its peaks, tokens a second, and the share of equal completions.

    To be run in a process of its own. The peak of decoding is counted anew once the model is loaded. The speed is
    that of prompts alone and in one batch, by CPU time, which other programs do not change much; `same` is the share
    of prompts that are completed alike both ways.
    """
    torch.set_num_threads(threads)
    lm = TIMED[form](model)
    loading = peak()
    Path("/proc/self/clear_refs").write_text("5")
    prompts = [item.prompt for item in sk.load_suite("abstention").split("choose").items[:PROMPTS]]
    found = {"weights": weight_bytes(lm) / 1e6, "peak_loading": loading}
    requests = [Request(prompt, decoding=Decoding(TOKENS), key=key) for key, prompt in enumerate(prompts)]
    texts: list[dict[object, str]] = []
    for name, batch in (("alone", 1), ("batch", PROMPTS)):
        start = time.process_time()
        done = list(TransformersEngine(lm, batch).generate(requests))
        found[name] = sum(each.tokens for each in done) / (time.process_time() - start)
        texts.append({each.request.key: each.text for each in done})
    found["same"] = sum(texts[0][key] == texts[1][key] for key in texts[0]) / PROMPTS
    return found | {"peak": peak()}


def peak() -> float:
    """The most megabytes that this process has held since it began, or since clear_refs was last written."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


if __name__ == "__main__":
    print(json.dumps(cost(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
