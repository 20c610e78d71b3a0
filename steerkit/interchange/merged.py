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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit import __version__
from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.interchange.base import Exported, Exporter, Verification, exporter
from steerkit.interchange.shifts import constant_shifts, steered_layers

if TYPE_CHECKING:
    from torch import nn

    from steerkit.interventions.base import Intervention
    from steerkit.interventions.steering import Steering
    from steerkit.models import LanguageModel

SWITCH = "mlp_bias"  # the config field of Llama and its relatives that gives the MLP's projections a bias
NOTE = "steerkit.json"
ARRIVED = 0.05  # relative error at which a nudge no longer counts as arrived; bfloat16 rounds by 0.004


@exporter("merged")
class Merged(Exporter):
    """A transformers checkpoint with the steering in its biases."""

    consumer = "a merged checkpoint"
    next = "load it like any model: steerkit chat --model {out}"
    needs_model = True

    def check(self, interventions: Sequence[Intervention], out: Path) -> None:
        """Refuse a folder that is there."""
        super().check(interventions, out)
        if out.exists():
            raise MisuseError(f"{out} exists: a checkpoint is written to a new folder; name another")

    def write(self, interventions: Sequence[Steering], out: Path, lm: LanguageModel | None = None) -> None:
        """Write `lm` with the steerings folded into its biases as a transformers folder, whole or not at all.

        The weights keep the number format that `lm` has; `steerkit.json` in the folder says what was folded in.
        Raises MisuseError where the architecture has no bias to hold it, SteerkitError where it cannot be written.
        """
        from torch import nn

        from steerkit.models.pretrained import quiet_transformers

        assert lm is not None
        shifts = constant_shifts(interventions, self.consumer)
        if lm.is_steered:
            raise MisuseError(f"{lm.name} is being steered: export outside the `with sk.steer(...)` block")
        lm.check_state()
        if getattr(lm.hf.config, "quantization_config", None) is not None:
            raise MisuseError(
                f"{lm.name} is quantised: load the model unquantised to merge a steering into it"
            )
        if any(weight.is_meta for weight in lm.hf.parameters()):
            raise MisuseError(f"{lm.name} is offloaded: load the model whole to merge a steering into it")
        layers = steered_layers(shifts)
        paths = {layer: _projection_path(lm, layer) for layer in layers}
        shared = {id(tensor): tensor for tensor in (*lm.hf.parameters(), *lm.hf.buffers())}
        twin = copy.deepcopy(lm.hf, shared)
        if _projection(lm, layers[0], paths[layers[0]]).bias is None:
            _switch_biases_on(lm, twin, paths[layers[0]])
        for layer in layers:
            projection = twin.get_submodule(f"{_block_path(lm, layer)}.{paths[layer]}")
            shift = shifts[layer].to(projection.bias.device, projection.bias.dtype)
            projection.bias = nn.Parameter(projection.bias.detach() + shift, requires_grad=False)
        with _new_folder(out) as scratch, quiet_transformers():
            twin.save_pretrained(scratch)
            lm.tokenizer.save_pretrained(scratch)
            note = json.dumps(_note(lm, interventions), indent=2)
            (scratch / NOTE).write_text(note + "\n", encoding="utf-8")

    def verify(self, exported: Exported) -> Verification:
        """Load the folder in plain transformers, without hooks, and compare its logits with those of the steered `lm`.

        In float32 they must be equal to 1e-4, or to 1e-5 of the largest shift where that is more: later layers enlarge
        the rounding as they enlarge the shift. In a shorter format the two shifts must have a cosine of 0.98.
        """
        import torch
        import transformers

        from steerkit.interchange.verification import compare
        from steerkit.models import LanguageModel
        from steerkit.models.pretrained import load_pretrained, quiet_transformers

        lm = exported.lm
        with quiet_transformers():
            merged, _ = load_pretrained(os.fspath(exported.path), dtype=lm.dtype, local_files_only=True)
        ours = compare.Ours(lm, exported.allow_mismatch)
        plainly = LanguageModel(merged.to(lm.device).eval(), lm.tokenizer, os.fspath(exported.path))
        got = compare.logits(plainly, ours.texts)
        plain, steered = ours.logits(()), ours.logits(exported.interventions)
        row = {
            "largest_difference": float((got - steered).abs().max()),
            "shift_cosine": compare.cosine(got - plain, steered - plain),
            "largest_shift": float((steered - plain).abs().max()),
        }
        if lm.dtype == torch.float32:
            bound = max(compare.EQUAL, compare.EQUAL_TO_SHIFT * row["largest_shift"])
            criterion, passed = f"logits equal to {bound:.2g}", row["largest_difference"] <= bound
        else:
            criterion = f"cosine of the shift at least {compare.ALIKE:g} (the weights are {lm.dtype})"
            passed = row["shift_cosine"] >= compare.ALIKE
        return Verification(f"transformers {transformers.__version__}", criterion, (row,), passed)


def _block_path(lm: LanguageModel, layer: int) -> str:
    return str(next(name for name, module in lm.hf.named_modules() if module is lm.blocks[layer]))


def _projection(lm: LanguageModel, layer: int, path: str) -> Any:
    return lm.blocks[layer].get_submodule(path)


def _projection_path(lm: LanguageModel, layer: int) -> str:
    """The block's last projection onto the residual stream, if a constant in its bias reaches the block's output."""
    modules = lm.blocks[layer].named_modules()
    paths = [name for name, module in modules if _out_features(module) == lm.d_model]
    if not paths or not _arrives(lm, layer, paths[-1]):
        raise MisuseError(
            f"{_kind(lm)} changes its blocks' output after the last projection, so no bias adds a constant to it: "
            "export it as gguf or lm-eval"
        )
    if _projection(lm, layer, paths[-1]).bias is None and not hasattr(lm.config, SWITCH):
        raise MisuseError(
            f"{_kind(lm)} has no bias at {paths[-1]!r}, and its config has no {SWITCH} to give it one, so a plain "
            "checkpoint cannot hold the steering: export it as gguf or lm-eval"
        )
    return str(paths[-1])


def _out_features(module: nn.Module) -> int | None:
    """Width of what a projection writes: `nn.Linear`, or GPT-2's Conv1D, which calls it `nf`."""
    width = getattr(module, "out_features", getattr(module, "nf", None))
    return width if hasattr(module, "bias") else None


def _arrives(lm: LanguageModel, layer: int, path: str) -> bool:
    """Whether a constant added to the projection's output is what the block's output gains, at every position."""
    import torch

    from steerkit.engines.forward import right_padded, states
    from steerkit.models.sites import on_blocks

    rows = right_padded([[i % lm.config.vocab_size for i in range(4)]], lm)
    plain = states(lm, rows, [layer], torch.Tensor.float)[layer]
    generator = torch.Generator().manual_seed(0)
    nudge = torch.randn(lm.d_model, generator=generator).to(plain.device, plain.dtype)
    nudge = nudge / nudge.norm() * plain.norm(dim=-1).mean()
    with on_blocks([_projection(lm, layer, path)], {0: lambda output: output + nudge}):
        gained = states(lm, rows, [layer], torch.Tensor.float)[layer] - plain
    return bool(((gained - nudge).norm(dim=-1) <= ARRIVED * nudge.norm()).all())


def _switch_biases_on(lm: LanguageModel, twin: Any, path: str) -> None:
    """Give every projection of every MLP of `twin` a bias of zeros, as its config's switch does.

    Raises MisuseError where a model built from that config has other parameters than the twin then has.
    """
    import torch
    from torch import nn

    mlp = path.rpartition(".")[0]
    for layer in range(lm.n_layers):
        for module in twin.get_submodule(f"{_block_path(lm, layer)}.{mlp}").modules():
            if isinstance(module, nn.Linear) and module.bias is None:
                zeros = module.weight.new_zeros(module.out_features)
                module.bias = nn.Parameter(zeros, requires_grad=False)
    setattr(twin.config.get_text_config(), SWITCH, True)
    with torch.device("meta"):
        rebuilt = type(twin)(twin.config)
    if rebuilt.state_dict().keys() != twin.state_dict().keys():
        raise MisuseError(
            f"{_kind(lm)} does not get its biases from {SWITCH} alone, so a plain checkpoint cannot hold the steering: "
            "export it as gguf or lm-eval"
        )


def _kind(lm: LanguageModel) -> str:
    return str(type(lm.hf).__name__)


def _note(lm: LanguageModel, steerings: Sequence[Steering]) -> dict[str, Any]:
    return {
        "merged_from": lm.name,
        "fingerprint": lm.fingerprint,
        "steering": [str(steering) for steering in steerings],
        "vectors": {steering.vector.name: steering.vector.digest for steering in steerings},
        "steerkit_version": __version__,
    }


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A scratch folder beside `path` that takes its name when the block ends well, else disappears."""
    from safetensors import SafetensorError

    scratch: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        yield scratch
        scratch.chmod(0o755)  # mkdtemp keeps its folders to their owner
        scratch.rename(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SteerkitError(
            f"cannot write the checkpoint to {path}: {reason}; name another folder"
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
