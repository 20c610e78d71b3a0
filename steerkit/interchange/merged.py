"""A checkpoint that steers itself: the shift stands in a bias that the architecture already knows.

The last projection of a decoder block adds its output to the residual stream, so a constant in that
projection's bias is a constant added to the block's output, at every position. Some architectures have the
bias; some have a switch for it in their config (Llama's `mlp_bias`); for the rest there is no such checkpoint,
and the export refuses. That the bias really arrives unchanged (no norm, no factor, no router after it) is
tested on the model at hand before anything is written.

The model that the caller holds is not touched: what is saved is a twin that shares its parameters.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.engines.forward import Rows, right_padded, states
from steerkit.interchange.additive import constant_shifts, steered_layers
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.models.pretrained import quiet_transformers
from steerkit.models.sites import on_blocks

SWITCH = "mlp_bias"  # the config field of Llama and its relatives that gives the MLP's projections a bias
NOTE = "steerkit.json"
ARRIVED = 0.05  # relative error at which a nudge no longer counts as arrived; bfloat16 rounds by 0.004


def export_merged(
    lm: LanguageModel,
    steerings: Sequence[Steering],
    out: str | os.PathLike[str],
    *,
    allow_mismatch: bool = False,
) -> Path:
    """Write `lm` with `steerings` folded into its biases as a transformers folder, whole or not at all.

    The weights keep the number format that `lm` has; `steerkit.json` in the folder says what was folded in.
    Raises MisuseError where a steering is not a constant added at every position, where the architecture has
    no bias to hold it, or where `out` exists; SteerkitError where it cannot be written.
    """
    shifts = constant_shifts(steerings, "a merged checkpoint")
    for steering in steerings:
        steering.vector.check(lm, exact=not allow_mismatch)
    if lm.is_steered:
        raise MisuseError(f"{lm.name} is being steered: export outside the `with sk.steer(...)` block")
    if getattr(lm.hf.config, "quantization_config", None) is not None:
        raise MisuseError(f"{lm.name} is quantised: load the model unquantised to merge a steering into it")
    layers = steered_layers(shifts)
    paths = {layer: _projection_path(lm, layer) for layer in layers}
    twin = copy.deepcopy(lm.hf, {id(tensor): tensor for tensor in (*lm.hf.parameters(), *lm.hf.buffers())})
    if _projection(lm, layers[0], paths[layers[0]]).bias is None:
        _switch_biases_on(lm, twin, paths[layers[0]])
    for layer in layers:
        projection = twin.get_submodule(f"{_block_path(lm, layer)}.{paths[layer]}")
        shift = shifts[layer].to(projection.bias.device, projection.bias.dtype)
        projection.bias = nn.Parameter(projection.bias.detach() + shift, requires_grad=False)
    with _new_folder(Path(out)) as scratch, quiet_transformers():
        twin.save_pretrained(scratch)
        lm.tokenizer.save_pretrained(scratch)
        (scratch / NOTE).write_text(json.dumps(_note(lm, steerings), indent=2) + "\n", encoding="utf-8")
    return Path(out)


def _block_path(lm: LanguageModel, layer: int) -> str:
    names: Iterator[str] = (name for name, module in lm.hf.named_modules() if module is lm.blocks[layer])
    return next(names)


def _projection(lm: LanguageModel, layer: int, path: str) -> Any:
    return lm.blocks[layer].get_submodule(path)


def _projection_path(lm: LanguageModel, layer: int) -> str:
    """The block's last projection onto the residual stream, if a constant in its bias reaches the block's output."""
    paths: list[str] = [
        name for name, module in lm.blocks[layer].named_modules() if _out_features(module) == lm.d_model
    ]
    if not paths or not _arrives(lm, layer, paths[-1]):
        raise MisuseError(
            f"{_kind(lm)} changes its blocks' output after the last projection, so no bias adds a constant to it: "
            "export with --to gguf or lm-eval"
        )
    if _projection(lm, layer, paths[-1]).bias is None and not hasattr(lm.config, SWITCH):
        raise MisuseError(
            f"{_kind(lm)} has no bias at {paths[-1]!r}, and its config has no {SWITCH} to give it one, so a plain "
            "checkpoint cannot hold the steering: export with --to gguf or lm-eval"
        )
    return paths[-1]


def _out_features(module: nn.Module) -> int | None:
    """Width of what a projection writes: `nn.Linear`, or GPT-2's Conv1D, which calls it `nf`."""
    width = getattr(module, "out_features", getattr(module, "nf", None))
    return width if hasattr(module, "bias") else None


def _arrives(lm: LanguageModel, layer: int, path: str) -> bool:
    """Whether a constant added to the projection's output is what the block's output gains, at every position."""
    rows = right_padded([[i % lm.config.vocab_size for i in range(4)]], lm)
    projection = _projection(lm, layer, path)
    plain = _block_output(lm, layer, rows, projection, None)
    generator = torch.Generator().manual_seed(0)
    nudge = torch.randn(lm.d_model, generator=generator).to(plain.device, plain.dtype)
    nudge = nudge / nudge.norm() * plain.norm(dim=-1).mean()
    gained = _block_output(lm, layer, rows, projection, nudge) - plain
    return bool(((gained - nudge).norm(dim=-1) <= ARRIVED * nudge.norm()).all())


def _block_output(
    lm: LanguageModel, layer: int, rows: Rows, projection: nn.Module, nudge: Tensor | None
) -> Tensor:
    """The block's output for `rows`, the projection's output moved by `nudge` `[d_model]`."""
    move = {} if nudge is None else {0: lambda output: output + nudge}
    with on_blocks([projection], move):
        return states(lm, rows, [layer], Tensor.float)[layer]


def _switch_biases_on(lm: LanguageModel, twin: Any, path: str) -> None:
    """Give every projection of every MLP of `twin` a bias of zeros, as its config's switch does.

    Raises MisuseError where a model built from that config has other parameters than the twin then has.
    """
    mlp = path.rpartition(".")[0]
    for layer in range(lm.n_layers):
        for module in twin.get_submodule(f"{_block_path(lm, layer)}.{mlp}").modules():
            if isinstance(module, nn.Linear) and module.bias is None:
                zeros = torch.zeros(
                    module.out_features, device=module.weight.device, dtype=module.weight.dtype
                )
                module.bias = nn.Parameter(zeros, requires_grad=False)
    setattr(twin.config.get_text_config(), SWITCH, True)
    with torch.device("meta"):
        rebuilt = type(twin)(twin.config)
    if rebuilt.state_dict().keys() != twin.state_dict().keys():
        raise MisuseError(
            f"{_kind(lm)} does not get its biases from {SWITCH} alone, so a plain checkpoint cannot hold the steering: "
            "export with --to gguf or lm-eval"
        )


def _kind(lm: LanguageModel) -> str:
    return type(lm.hf).__name__


def _note(lm: LanguageModel, steerings: Sequence[Steering]) -> dict[str, Any]:
    return {
        "merged_from": lm.name,
        "fingerprint": lm.fingerprint,
        "steering": [str(steering) for steering in steerings],
        "vectors": {steering.vector.name: steering.vector.digest for steering in steerings},
        "steerkit_version": version("steerkit"),
    }


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A scratch folder beside `path` that takes its name when the block ends well, else disappears."""
    if path.exists():
        raise MisuseError(f"{path} exists: a checkpoint is written to a new folder; name another --out")
    scratch: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        yield scratch
        scratch.chmod(0o755)  # mkdtemp keeps its folders to their owner
        scratch.rename(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SteerkitError(f"cannot write the checkpoint to {path}: {reason}; name another --out") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
