"""Logits of a GGUF model under a control vector, from llama.cpp itself. Runs in llama-cpp-python's environment.

    python llama_cpp_probe.py REQUEST.json

The request names `model`, `control_vector`, `texts` (token ids), `keep` (how many last positions of each text),
`layers`, `unrounded` and `out`. Conditions, in this order: unsteered; the whole file; each of `layers` alone. Their
logits go to `out`, `[condition, text * keep, vocabulary]` float32. `unrounded` keeps keys and values in float32,
where llama.cpp's default is float16.

The file is read by ggml's own GGUF reader, and laid out in memory as llama.cpp's loader does it: direction.N at
offset (N - 1) * n_embd.

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


def ggml_library() -> ctypes.CDLL:
    """The shared library of llama-cpp-python that has ggml's GGUF reader."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    for path in sorted(folder.glob("*ggml-base*")):
        return ctypes.CDLL(str(path))
    raise SystemExit(f"no ggml library in {folder}")


def read_control_vector(path: str) -> dict[int, np.ndarray]:
    """Directions by layer, read by ggml; what llama.cpp's loader would refuse is refused."""
    ggml = ggml_library()
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64

    class Parameters(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(pointer)))

    signatures = {
        "gguf_init_from_file": (pointer, [text, Parameters]),
        "gguf_get_n_tensors": (number, [pointer]),
        "gguf_get_tensor_name": (text, [pointer, number]),
        "gguf_get_tensor_type": (ctypes.c_int, [pointer, number]),
        "ggml_get_tensor": (pointer, [pointer, text]),
        "ggml_n_dims": (ctypes.c_int, [pointer]),
        "ggml_nelements": (number, [pointer]),
        "ggml_get_data": (pointer, [pointer]),
        "gguf_free": (None, [pointer]),
        "ggml_free": (None, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(ggml, name)
        function.restype, function.argtypes = result, arguments
    tensors = pointer()
    file = ggml.gguf_init_from_file(path.encode(), Parameters(False, ctypes.pointer(tensors)))
    if not file:
        raise SystemExit(f"ggml cannot read {path}")
    directions = {}
    for index in range(ggml.gguf_get_n_tensors(file)):
        name = ggml.gguf_get_tensor_name(file, index)
        kind, _, layer = name.decode().partition(".")
        tensor = ggml.ggml_get_tensor(tensors, name)
        if kind != "direction" or int(layer) < 1:
            raise SystemExit(f"{path}: llama.cpp refuses the tensor {name.decode()}")
        if ggml.gguf_get_tensor_type(file, index) != 0 or ggml.ggml_n_dims(tensor) != 1:
            raise SystemExit(f"{path}: llama.cpp refuses {name.decode()}: not one-dimensional float32")
        data = ctypes.cast(ggml.ggml_get_data(tensor), ctypes.POINTER(ctypes.c_float))
        directions[int(layer)] = np.ctypeslib.as_array(data, (ggml.ggml_nelements(tensor),)).copy()
    ggml.gguf_free(file)
    ggml.ggml_free(tensors)
    return directions


def apply(model: llama_cpp.Llama, directions: dict[int, np.ndarray]) -> None:
    """Set the control vector of the model's context to `directions`, or take it off where there are none."""
    width = model.n_embd()
    if not directions:
        failed = llama_cpp.llama_set_adapter_cvec(model.ctx, None, 0, width, -1, -1)
    else:
        buffer = np.zeros((max(directions), width), dtype=np.float32)
        for layer, direction in directions.items():
            buffer[layer - 1] = direction
        # Layers past the buffer keep what an earlier call wrote, so the range ends where the buffer does.
        data = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        failed = llama_cpp.llama_set_adapter_cvec(model.ctx, data, buffer.size, width, 1, max(directions))
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
    directions = read_control_vector(request["control_vector"])
    conditions = [{}, directions, *({layer: directions[layer]} for layer in request["layers"])]
    measured = []
    for condition in conditions:
        apply(model, condition)
        measured.append(logits(model, texts, keep))
    np.save(request["out"], np.stack(measured).astype(np.float32))
    print(json.dumps({"version": f"llama-cpp-python {llama_cpp.__version__}"}))


if __name__ == "__main__":
    main()
