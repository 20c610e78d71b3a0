"""Logits of a GGUF model under control vectors, from llama.cpp itself. Runs in llama-cpp-python's environment.

    python llama_cpp_probe.py REQUEST.json

The request names `model`, `texts` (token ids), `keep` (how many last positions of each text), `unrounded`, and two
files of float32: `vectors`, `[condition, layers - 1, n_embd]`, row N - 1 holding direction.N, laid out as llama.cpp's
loader lays it out; and `out`, for the logits `[1 + conditions, texts * keep, vocabulary]`, the unsteered ones first.
`unrounded` keeps keys and values in float32, where llama.cpp's default is float16.

This file stands alone: it imports nothing of steerkit, which is not installed where it runs.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

import llama_cpp
import numpy as np


def apply(model: llama_cpp.Llama, vector: np.ndarray | None) -> None:
    """Set the control vector of the model's context, `[layers - 1, n_embd]`, or take it off."""
    if vector is None:
        failed = llama_cpp.llama_set_adapter_cvec(model.ctx, None, 0, model.n_embd(), -1, -1)
    else:
        data = np.ascontiguousarray(vector).ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        # The range ends where the buffer does.
        failed = llama_cpp.llama_set_adapter_cvec(
            model.ctx, data, vector.size, model.n_embd(), 1, len(vector)
        )
    if failed:
        raise SystemExit(f"llama_set_adapter_cvec failed ({failed})")


def logits(model: llama_cpp.Llama, texts: list[list[int]], keep: int) -> np.ndarray:
    """Logits of the last `keep` positions of each text, `[text * keep, vocabulary]`."""
    rows = []
    for ids in texts:
        model.reset()
        model.eval(ids)
        rows.append(np.array(model.scores[len(ids) - keep : len(ids)]))
    return np.concatenate(rows)


def main() -> None:
    """Read the request, measure, answer with the version on stdout."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    texts, keep = request["texts"], request["keep"]
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    model = llama_cpp.Llama(
        model_path=request["model"],
        n_ctx=max(map(len, texts)) + 1,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32 if request["unrounded"] else None,
        type_v=llama_cpp.GGML_TYPE_F32 if request["unrounded"] else None,
    )
    measured = []
    for vector in [None, *np.load(request["vectors"])]:
        apply(model, vector)
        measured.append(logits(model, texts, keep))
    np.save(request["out"], np.stack(measured).astype(np.float32))
    print(json.dumps({"version": f"llama-cpp-python {llama_cpp.__version__}"}))


if __name__ == "__main__":
    main()
