"""One version of steerkit, measured on request: reads the name of a part from each line, writes the seconds it took.

Run with another checkout first on PYTHONPATH it measures that one, so it uses only what every version has, and says
where two versions ask for the same in other words.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import steerkit as sk

MODEL = "smollm2-135m-instruct"
LAYERS, STRENGTHS = (8, 12, 16), (-1.0, 0.5, 1.0, 1.5)
ITEMS, NEW_TOKENS = 12, 24


def main() -> None:
    """Load the model, run every part once to warm up, then answer requests until standard input ends."""
    torch.set_num_threads(int(sys.argv[1]))
    lm = sk.load_model(MODEL)
    pairs = sk.load_pairs("abstention")
    vector = sk.extract(lm, pairs)
    items = sk.load_suite("abstention").split("choose").limit(32).items

    def extraction() -> None:
        sk.extract(lm, pairs)

    def decoding() -> None:
        engine = sk.TransformersEngine(lm, 32)
        steering = vector.at(12, 1.0)
        how = sk.Decoding(NEW_TOKENS)
        list(engine.generate([sk.Request(item.prompt, (steering,), how) for item in items]))

    def sweep() -> None:
        out = tempfile.mkdtemp()
        try:
            _sweep(lm, vector, Path(out) / "run")
        finally:
            shutil.rmtree(out)

    parts: dict[str, Callable[[], None]] = {"extraction": extraction, "decoding": decoding, "sweep": sweep}
    for part in parts.values():
        part()
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        parts[line.strip()]()
        print(time.perf_counter() - started, flush=True)


def _sweep(lm: sk.LanguageModel, vector: sk.SteeringVector, out: Path) -> None:
    if hasattr(sk, "Grid"):
        grid = sk.Grid(vector, layers=LAYERS, strengths=STRENGTHS)
        how = sk.Decoding(NEW_TOKENS)
        sk.sweep(lm, grid, sk.Measurement(suite="abstention", limit=ITEMS, decoding=how), out=out)
    else:  # older versions: one call with every setting
        asked = {"suite": "abstention", "limit": ITEMS, "max_new_tokens": NEW_TOKENS}
        sk.sweep(lm, [vector], layers=LAYERS, strengths=STRENGTHS, out=out, **asked)


if __name__ == "__main__":
    main()
