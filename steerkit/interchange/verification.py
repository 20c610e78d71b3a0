"""Does the consumer do what our engine does? Its own logits on the exported file, beside ours.

The quantities are those that tell: a merged checkpoint and lm-eval compute in our number format, so their numbers
must equal ours. Of llama.cpp the *shift* that the steering causes must agree with ours. A shift at the wrong layer
looks much like one at the right layer, so it is also compared with our shifts one layer below and above, which must
fit worse. In products with quantised matrices llama.cpp rounds the states to 8 bits, which alone moves the logits by
a fifth of what a small steering does; so what is judged is the same weights in float32, and what is left of the
agreement with the model as it is stored is reported beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerkit.core.errors import MisuseError
from steerkit.engines.base import ScoreRequest
from steerkit.engines.context import steer
from steerkit.engines.forward import logits, right_padded
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interchange.additive import constant_shifts, steered_layers
from steerkit.interchange.consumers import LLAMA_CPP, LM_EVAL
from steerkit.interchange.gguf_model import write_float32
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.models.pretrained import load_pretrained, quiet_transformers

QUESTIONS = (
    "Which city is the capital of France, and on which river does it lie?",
    "Who will win the world championship in the year 2090?",
    "A train leaves at noon and covers 60 miles an hour. When has it gone 150 miles?",
)
ANSWERS = ("Paris, on the Seine.", "I don't know: nobody can know that yet.", "At half past two.")
KEEP = 4  # last positions of each text whose logits are compared
EQUAL = 1e-4  # largest difference of float32 logits, or of a token's log-likelihood in nats
EQUAL_TO_SHIFT = 1e-5  # the same, relative to the largest shift in the logits
ALIKE = 0.98  # smallest cosine of two shifts in the logits


@dataclass(frozen=True, slots=True)
class Verification:
    """What a consumer made of an export: one row of numbers for each thing compared."""

    consumer: str
    criterion: str
    rows: tuple[dict[str, Any], ...]
    passed: bool

    def line(self) -> str:
        """The outcome as one line."""
        return (
            f"{self.consumer}: {'verified' if self.passed else 'NOT verified'}; criterion: {self.criterion}"
        )


def verify_merged(
    lm: LanguageModel,
    steerings: Sequence[Steering],
    folder: str | os.PathLike[str],
    *,
    allow_mismatch: bool = False,
) -> Verification:
    """Load `folder` in plain transformers, without hooks, and compare its logits with those of the steered `lm`.

    In float32 they must be equal to 1e-4, or to 1e-5 of the largest shift where that is more: later layers enlarge
    the rounding as they enlarge the shift. In a shorter format the two shifts must have a cosine of 0.98.
    """
    import transformers

    with quiet_transformers():
        merged, _ = load_pretrained(
            pretrained_model_name_or_path=os.fspath(folder), dtype=lm.dtype, local_files_only=True
        )
    merged = merged.to(lm.device).eval()
    texts = _texts(lm)
    got = _logits(LanguageModel(merged, lm.tokenizer, os.fspath(folder)), texts)
    plain, ours = _our_logits(lm, (), texts), _our_logits(lm, steerings, texts, allow_mismatch)
    row = {
        "largest_difference": float((got - ours).abs().max()),
        "shift_cosine": _cosine(got - plain, ours - plain),
        "largest_shift": float((ours - plain).abs().max()),
    }
    if lm.dtype == torch.float32:
        bound = max(EQUAL, EQUAL_TO_SHIFT * row["largest_shift"])
        criterion, passed = f"logits equal to {bound:.2g}", row["largest_difference"] <= bound
    else:
        criterion = f"cosine of the shift at least {ALIKE:g} (the weights are {lm.dtype})"
        passed = row["shift_cosine"] >= ALIKE
    return Verification(f"transformers {transformers.__version__}", criterion, (row,), passed)


def verify_gguf(
    lm: LanguageModel,
    steerings: Sequence[Steering],
    file: str | os.PathLike[str],
    gguf_model: str | os.PathLike[str],
    python: str | os.PathLike[str] | None = None,
    *,
    allow_mismatch: bool = False,
) -> Verification:
    """Run llama.cpp on `gguf_model`, the GGUF of `lm`, with and without `file`, and compare the shifts.

    One row for the whole file (`layer` is None) and one for each exported layer alone: the cosine of llama.cpp's
    shift in the logits with ours at that layer (`cosine`), with ours for the same vector one layer `below` and
    `above` (None at the last layer), and how large theirs is in ours (`size`, 1 where they agree), all from a
    copy of the model in float32, which needs four bytes a weight on the disk while it lasts; and the cosine
    where llama.cpp runs the model as it is `stored`, which is not judged.
    `python` is an interpreter that has llama-cpp-python.
    Raises SteerkitError where it has not, or where llama.cpp cannot use the file.
    """
    interpreter = LLAMA_CPP.check(python)
    shifts = constant_shifts(steerings, "a llama.cpp control vector")
    layers = steered_layers(shifts)
    texts = _texts(lm)
    unsteered = _our_logits(lm, (), texts)
    request = {"control_vector": os.fspath(file), "texts": texts, "keep": KEEP, "layers": layers}
    with tempfile.TemporaryDirectory() as folder:
        unrounded = Path(folder) / "float32.gguf"
        write_float32(Path(gguf_model), unrounded)
        theirs, version = _llama_shifts(
            interpreter, request | {"model": os.fspath(unrounded), "unrounded": True}
        )
    if theirs.shape[2] != unsteered.shape[1]:
        raise MisuseError(
            f"{gguf_model} has {theirs.shape[2]} tokens, {lm.name} {unsteered.shape[1]}: name its GGUF"
        )
    stored, _ = _llama_shifts(interpreter, request | {"model": os.fspath(gguf_model), "unrounded": False})

    def ours(moves: dict[int, Tensor]) -> Tensor:
        return _our_logits(lm, _moved(steerings, moves), texts, allow_mismatch) - unsteered

    whole = {"": ours({n: shifts[n] for n in layers})}
    rows: list[dict[str, Any]] = [
        {"layer": None} | _fit(theirs[0], whole) | {"stored": _cosine(stored[0], whole[""])}
    ]
    for layer, shift, as_stored in zip(layers, theirs[1:], stored[1:], strict=True):
        places = {"": layer, "below": layer - 1, "above": layer + 1}
        near = {k: ours({n: shifts[layer]}) for k, n in places.items() if n < lm.n_layers}
        rows.append({"layer": layer} | _fit(shift, near) | {"stored": _cosine(as_stored, near[""])})
    criterion = (
        f"at each layer the shift has a cosine of at least {ALIKE:g} with ours, higher than with ours one layer off, "
        "and its size to 10%, in float32"
    )
    return Verification(version, criterion, tuple(rows), all(map(_fits, rows)))


def _llama_shifts(interpreter: str, request: dict[str, Any]) -> tuple[Tensor, str]:
    """llama.cpp's shifts in the logits, `[whole file and layers, texts * KEEP, vocabulary]`, and its version."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.npy"
        answer = LLAMA_CPP.ask(interpreter, request | {"out": str(out)})
        logits = torch.from_numpy(np.load(out))
    return logits[1:] - logits[0], answer["version"]


def _fit(theirs: Tensor, ours: dict[str, Tensor]) -> dict[str, Any]:
    """How their shift agrees with ours at the same place (key empty), and with ours at others, by their names."""
    here = ours[""]
    others = {name: _cosine(theirs, ours[name]) if name in ours else None for name in ("below", "above")}
    return {
        "cosine": _cosine(theirs, here),
        **others,
        "size": float((theirs * here).sum() / (here * here).sum()),
    }


def _fits(row: dict[str, Any]) -> bool:
    others = [row[side] for side in ("below", "above") if row[side] is not None]
    return (
        row["cosine"] >= ALIKE
        and all(row["cosine"] > other for other in others)
        and abs(row["size"] - 1) <= 0.1
    )


def verify_lm_eval(
    lm: LanguageModel,
    steerings: Sequence[Steering],
    file: str | os.PathLike[str],
    python: str | os.PathLike[str] | None = None,
    *,
    allow_mismatch: bool = False,
) -> Verification:
    """Score texts with lm-eval's `steered` model on `file`, and with ours: one row each, log-likelihoods in nats.

    `python` is an interpreter that has lm-eval. Raises SteerkitError where it has not, or where lm-eval cannot
    use the file.
    """
    interpreter = LM_EVAL.check(python)
    encoded = [lm.renderer.encode_pair(q, a) for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    answer = LM_EVAL.ask(
        interpreter,
        {
            "pretrained": lm.hf.name_or_path,
            "steer_path": os.fspath(file),
            "dtype": str(lm.dtype).removeprefix("torch."),
            "device": str(lm.device),
            "pairs": [[e.ids[: e.prompt_length], e.ids[e.prompt_length :]] for e in encoded],
        },
    )
    engine = TransformersEngine(lm, allow_mismatch=allow_mismatch)
    steered, unsteered = (
        engine.score([ScoreRequest(q, a, by) for q, a in zip(QUESTIONS, ANSWERS, strict=True)])
        for by in (tuple(steerings), ())
    )
    rows = [
        {
            "theirs": theirs,
            "ours": ours.total,
            "unsteered": plain.total,
            "difference": abs(theirs - ours.total),
        }
        for theirs, ours, plain in zip(answer["log_likelihoods"], steered, unsteered, strict=True)
    ]
    exact = lm.dtype == torch.float32
    bound = 10 * EQUAL if exact else 0.1  # a sum over about ten tokens
    passed = all(row["difference"] <= bound for row in rows)
    return Verification(answer["version"], f"log-likelihoods equal to {bound:g} nats", tuple(rows), passed)


def _texts(lm: LanguageModel) -> list[list[int]]:
    return [lm.renderer.encode_prompt(question) for question in QUESTIONS]


def _logits(lm: LanguageModel, texts: Iterable[Sequence[int]]) -> Tensor:
    """Logits of the last `KEEP` positions of each text, one text a pass, `[texts * KEEP, vocabulary]` on the host."""
    with torch.inference_mode():
        return torch.cat([logits(lm, right_padded([ids], lm), KEEP)[0] for ids in texts]).float().cpu()


def _our_logits(
    lm: LanguageModel,
    steerings: Sequence[Steering],
    texts: Iterable[Sequence[int]],
    allow_mismatch: bool = False,
) -> Tensor:
    with steer(lm, *steerings, allow_mismatch=allow_mismatch):
        return _logits(lm, texts)


def _moved(steerings: Sequence[Steering], moves: dict[int, Tensor]) -> list[Steering]:
    """Steerings that add `moves` (layer to shift `[d_model]`) and nothing else."""
    vector = steerings[0].vector
    direction = torch.zeros_like(vector.direction)
    for layer, shift in moves.items():
        direction[layer] = shift
    return [replace(vector, direction=direction).at(tuple(moves), 1.0, scope="all")]


def _cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two shifts, all positions and tokens as one vector."""
    return float(torch.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))
