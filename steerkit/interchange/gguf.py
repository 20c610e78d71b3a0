"""llama.cpp control vectors: a GGUF file that llama.cpp's `--control-vector` and repeng read and write.

llama.cpp adds tensor `direction.N` to the output of decoder block N, counted from 0, at every position: our
layer N. The first block cannot be steered, for the loader refuses `direction.0`. (llama.cpp's own generator
writes what it found after block 0 as `direction.1`, one layer off from where the runtime adds it; what counts
here is the runtime.) Strengths are written into the file, so it is applied with scale 1.

repeng looks up a direction for every layer that it controls, so layers that are not steered hold zeros.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit import __version__
from steerkit.core.characters import one_line
from steerkit.core.contents import FETCH, contents_of, refusal
from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.core.files import replacing
from steerkit.interchange.base import Consumer, Exported, Exporter, Verification, exporter, importer
from steerkit.interchange.shifts import constant_shifts, steered_layers

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.interventions.base import Intervention
    from steerkit.interventions.steering import Steering
    from steerkit.models import LanguageModel

ARCHITECTURE = "controlvector"
CONVENTION = "direction.N is added to the output of decoder block N, counted from 0, at every position"
SET_BY_WRITER = ("GGUF.", "general.alignment", "general.architecture")
UNTRUE_IN_FLOAT32 = ("general.file_type", "general.quantization_version")


@exporter("gguf")
class Gguf(Exporter):
    """A llama.cpp control vector: what is added at each layer but the first."""

    consumer = "a llama.cpp control vector"
    next = "use it: llama-cli -m MODEL.gguf --control-vector {out}"

    def supports(self, intervention: Intervention) -> str | None:
        """As any exporter of shifts, but without the first layer."""
        reason = super().supports(intervention)
        if reason is None and 0 in getattr(intervention, "layers", ()):
            return (
                "layer=0: llama.cpp cannot steer the first block (its files begin with direction.1); export other "
                "layers"
            )
        return reason

    def write(self, interventions: Sequence[Steering], out: Path, lm: LanguageModel | None = None) -> None:
        """Write one tensor a layer, with what steerkit knows of them beside."""
        import gguf

        del lm
        shifts = constant_shifts(interventions, self.consumer)
        metadata = interventions[0].vector.metadata
        with replacing(out, "the control vector") as scratch:
            writer = gguf.GGUFWriter(scratch, ARCHITECTURE)
            writer.add_string(f"{ARCHITECTURE}.model_hint", _model_type(metadata.fingerprint))
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(shifts) - 1)
            writer.add_string("steerkit.layer_convention", CONVENTION)
            writer.add_string("steerkit.version", __version__)
            writer.add_string("steerkit.model", metadata.model)
            writer.add_string("steerkit.fingerprint", metadata.fingerprint)
            writer.add_array("steerkit.steering", [str(steering) for steering in interventions])
            writer.add_array("steerkit.layers", steered_layers(shifts))
            for layer, shift in enumerate(shifts[1:].numpy(), start=1):
                writer.add_tensor(f"direction.{layer}", shift)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()

    def prepared(self, consumer: Consumer, model: str, progress: Callable[[str], None]) -> Consumer:
        """Find llama-cpp-python, and the GGUF to run: the one given, or `model` itself, or the one that is bundled."""
        from steerkit.interchange.verification.consumers import LLAMA_CPP
        from steerkit.models.bundled import bundled_gguf
        from steerkit.models.catalogue import BUNDLED

        python = LLAMA_CPP.check(consumer.python)
        path = Path(consumer.model or model)
        if path.suffix.lower() != ".gguf":
            if consumer.model is not None or model not in BUNDLED:
                raise MisuseError(
                    f"llama.cpp runs GGUF files, and {path} is none: give the model's own as the consumer's model"
                )
            path = bundled_gguf(BUNDLED[model], progress)
        if not path.is_file():
            raise MisuseError(f"no GGUF file {path}")
        return Consumer(python, path)

    def verify(self, exported: Exported) -> Verification:
        """Run llama.cpp on the consumer's model, with and without what stands in the file, and compare the shifts.

        One row for the whole file (`layer` is None) and one for each exported layer alone: the cosine of llama.cpp's
        shift with ours at that layer (`cosine`), with ours for the same vector one layer `below` and `above` (None at
        the last layer), and how large theirs is in ours (`size`, 1 where they agree), all from a copy of the model in
        float32, which needs four bytes a weight on the disk while it lasts; and the cosine where llama.cpp runs the
        model as it is `stored`, which is not judged: in a product with a quantised matrix llama.cpp rounds the states
        to 8 bits, which alone moves the logits by a fifth of what a small steering does.
        """
        import torch

        from steerkit.interchange.verification.compare import ALIKE, Ours, cosine

        lm, consumer, interventions = exported.lm, exported.consumer, exported.interventions
        assert consumer.model is not None
        ours = Ours(lm, exported.allow_mismatch)
        shifts = constant_shifts(interventions, self.consumer)
        layers = steered_layers(shifts)
        unsteered = ours.logits(())
        in_file = torch.zeros(1 + len(layers), *shifts.shape)
        for layer, direction in read(exported.path).items():
            in_file[0, layer] = direction
        for row, layer in enumerate(layers, start=1):
            in_file[row, layer] = in_file[0, layer]
        vectors = in_file[:, 1:]
        with tempfile.TemporaryDirectory() as folder:
            unrounded = Path(folder) / "float32.gguf"
            write_float32(consumer.model, unrounded)
            theirs, runtime = _llama_shifts(consumer, unrounded, vectors, ours.texts, exact=True)
        if theirs.shape[2] != unsteered.shape[1]:
            raise MisuseError(
                f"{consumer.model} has {theirs.shape[2]} tokens, {lm.name} {unsteered.shape[1]}: name its GGUF"
            )
        stored, _ = _llama_shifts(consumer, consumer.model, vectors, ours.texts, exact=False)

        def moved(moves: Mapping[int, Tensor]) -> Tensor:
            return ours.logits(_moved(interventions[0], moves)) - unsteered

        whole = moved({layer: shifts[layer] for layer in layers})
        rows = [{"layer": None} | _fit(theirs[0], {"": whole}) | {"stored": cosine(stored[0], whole)}]
        for layer, shift, as_stored in zip(layers, theirs[1:], stored[1:], strict=True):
            places = {"": layer, "below": layer - 1, "above": layer + 1}
            near = {name: moved({n: shifts[layer]}) for name, n in places.items() if n < lm.n_layers}
            rows.append({"layer": layer} | _fit(shift, near) | {"stored": cosine(as_stored, near[""])})
        criterion = (
            f"at each layer the shift has a cosine of at least {ALIKE:g} with ours, higher than with ours one layer "
            "off, and its size to 10%, in float32"
        )
        return Verification(runtime, criterion, tuple(rows), all(_fits(row, ALIKE) for row in rows))


@importer("gguf", ".gguf")
def read(path: Path, lm: LanguageModel | None = None, layer: int | None = None) -> Mapping[int, Tensor]:
    """Return the directions by layer, those that are zero left out. Raises InputError for any other GGUF file."""
    import gguf
    import torch

    del lm, layer
    try:
        tensors = {each.name: torch.from_numpy(each.data.copy()) for each in gguf.GGUFReader(path).tensors}
    except Exception as error:  # a foreign parser: damage shows as whatever it stumbles over
        found = contents_of(path)
        if found is not None and found.kind != "a GGUF file":
            raise refusal(InputError, path, "GGUF file", FETCH) from error
        raise InputError(
            f"{path} cannot be read as GGUF ({one_line(str(error))}): it is damaged, {FETCH} again"
        ) from error
    try:
        named = {name: tensor for name, tensor in tensors.items() if name.startswith("direction.")}
        directions = {int(name.removeprefix("direction.")): tensor for name, tensor in named.items()}
    except ValueError as error:
        raise InputError(f"{path}: {error} in the name of a direction") from error
    if not directions:
        raise InputError(f"{path} has no direction.N: it is no control vector (a model, perhaps)")
    return {number: tensor for number, tensor in directions.items() if tensor.any()}


def write_float32(model: Path, out: Path) -> None:
    """Write the GGUF `model` to `out` with every weight in float32, to the value that it is stored as.

    Raises InputError where `model` cannot be read or holds a number format that has no known meaning.
    """
    import gguf
    import numpy as np

    try:
        reader = gguf.GGUFReader(model)
        writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
        for name, field in reader.fields.items():
            if not name.startswith((*SET_BY_WRITER, *UNTRUE_IN_FLOAT32)):
                kind = field.types[0]
                inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(name, field.contents(), kind, sub_type=inner)
        for tensor in reader.tensors:
            shape = [int(size) for size in reversed(tensor.shape)]
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), 4 * math.prod(shape))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in reader.tensors:  # one at a time: together they may not fit the memory
            writer.write_tensor_data(gguf.dequantize(tensor.data, tensor.tensor_type))
        writer.close()
    except OSError as error:
        raise SteerkitError(f"cannot copy {model} to float32: {error.strerror or error}") from error
    except (ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"{model} cannot be read as the GGUF of a model ({error})") from error


def _model_type(fingerprint: str) -> str:
    """transformers' name of the model family (`llama`), as repeng writes it, from the fingerprint's class."""
    import transformers

    architecture = fingerprint.split("-")[0]
    config = getattr(getattr(transformers, architecture, None), "config_class", None)
    return str(getattr(config, "model_type", architecture))


def _llama_shifts(
    consumer: Consumer, model: Path, vectors: Tensor, texts: Sequence[Sequence[int]], *, exact: bool
) -> tuple[Tensor, str]:
    """llama.cpp's shifts in the logits, `[vector, texts * KEEP, vocabulary]`, and its version.

    `vectors` `[vector, n_layers - 1, d_model]` are control vectors, without the first layer.
    """
    import numpy as np
    import torch

    from steerkit.interchange.verification.compare import KEEP
    from steerkit.interchange.verification.consumers import LLAMA_CPP

    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "vectors.npy", Path(folder) / "logits.npy"
        np.save(given, vectors.numpy())
        request = {"model": str(model), "texts": texts, "keep": KEEP, "unrounded": exact}
        answer = LLAMA_CPP.ask(consumer.python, request | {"vectors": str(given), "out": str(out)})
        logits = torch.from_numpy(np.load(out))
    return logits[1:] - logits[0], answer["version"]


def _moved(like: Steering, moves: Mapping[int, Tensor]) -> tuple[Steering]:
    """A steering that adds `moves` (layer to shift `[d_model]`) and nothing else."""
    direction = like.vector.direction.new_zeros(like.vector.direction.shape)
    for layer, shift in moves.items():
        direction[layer] = shift
    return (replace(like.vector, direction=direction).at(tuple(moves), scope="all"),)


def _fit(theirs: Tensor, ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """How their shift agrees with ours at the same place (key empty), and with ours at others, by their names."""
    from steerkit.interchange.verification.compare import cosine

    here = ours[""]
    others = {name: cosine(theirs, ours[name]) if name in ours else None for name in ("below", "above")}
    size = float((theirs * here).sum() / (here * here).sum())
    return {"cosine": cosine(theirs, here), **others, "size": size}


def _fits(row: Mapping[str, Any], alike: float) -> bool:
    others = [row[side] for side in ("below", "above") if row[side] is not None]
    nearest = all(row["cosine"] > other for other in others)
    return nearest and row["cosine"] >= alike and abs(row["size"] - 1) <= 0.1
