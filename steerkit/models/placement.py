"""Where a model's weights are put, and whether they are quantised on the way: checked before anything is loaded."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steerkit.core.errors import MisuseError, SteerkitError

QUANTIZATIONS = ("8bit", "4bit")
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B", re.IGNORECASE)


@dataclass(frozen=True)
class Placement:
    """Where the weights go, and in what form.

    `device` holds all of them. Or `device_map` spreads them: one of STRATEGIES, or which module goes to which device
    (a name, a GPU's number, `cpu` or `disk`). `max_memory` is what each device may hold, as bytes or `500MB`, `10GiB`;
    what no device holds goes to disk, and it implies `device_map="auto"`. `offload_folder` is kept, and used for what
    cannot be read straight from the checkpoint; by default such a folder goes with the model. `quantization` is one of
    QUANTIZATIONS, by bitsandbytes. Raises MisuseError for what cannot be meant together.
    """

    device: str | None = None
    device_map: str | Mapping[str, int | str] | None = None
    max_memory: Mapping[int | str, int | str] | None = None
    offload_folder: str | os.PathLike[str] | None = None
    quantization: str | None = None

    def __post_init__(self) -> None:
        if self.device is not None and self.is_spread:
            raise MisuseError(
                "device puts the whole model in one place, device_map and max_memory spread it: give one"
            )
        if isinstance(self.device_map, str) and self.device_map not in STRATEGIES:
            raise MisuseError(
                f"device_map is one of {', '.join(STRATEGIES)}, or maps modules to devices, got {self.device_map!r}; "
                "for one device there is the option device"
            )
        if self.max_memory is not None and isinstance(self.device_map, Mapping):
            raise MisuseError("device_map already says where each module goes: leave max_memory out")
        if self.offload_folder is not None and not self.is_spread:
            raise MisuseError("nothing goes to an offload_folder without a device_map or max_memory")
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise MisuseError(f"quantization is one of {', '.join(QUANTIZATIONS)}, got {self.quantization!r}")
        for device, size in (self.max_memory or {}).items():
            bytes_of(device, size)
        if self.quantization is not None and find_spec("bitsandbytes") is None:
            raise MisuseError(
                f"quantization {self.quantization} needs bitsandbytes: pip install bitsandbytes"
            )

    @property
    def is_spread(self) -> bool:
        """Whether the weights may end up in several places."""
        return self.device_map is not None or self.max_memory is not None

    @property
    def is_plain(self) -> bool:
        """Whether the model is loaded as it is, whole and onto one device."""
        return not self.is_spread and self.quantization is None

    @property
    def given(self) -> dict[str, Any]:
        """What is not left to its default, as arguments of `load_model`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.given.items())

    @contextmanager
    def options(self, place: Any, dtype: Any) -> Iterator[dict[str, Any]]:
        """The arguments of `from_pretrained` that carry this out, for the block that loads with them.

        `place` is the device of what is not spread, `dtype` the number format that is asked for. An offload folder
        of our own is left behind for `kept_with`, and taken away again where loading fails.
        """
        given: dict[str, Any] = {}
        folder: Path | None = None
        if self.is_spread:
            given["device_map"] = self.device_map or "auto"
            if self.max_memory is not None:
                given["max_memory"] = {
                    device: bytes_of(device, size) for device, size in _present(self.max_memory).items()
                }
            folder = self._folder()
            given["offload_folder"] = str(folder)
        if self.quantization is not None:
            given |= {"quantization_config": _bitsandbytes(self.quantization, dtype)}
            given.setdefault("device_map", {"": str(place)})
        try:
            yield given
        except BaseException:
            if folder is not None and self.offload_folder is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def kept_with(self, hf: Any, options: Mapping[str, Any]) -> None:
        """Let an offload folder of our own go when the model goes."""
        if "offload_folder" in options and self.offload_folder is None:
            weakref.finalize(hf, shutil.rmtree, options["offload_folder"], ignore_errors=True)

    def _folder(self) -> Path:
        if self.offload_folder is None:
            return Path(tempfile.mkdtemp(prefix="steerkit-offload-"))
        folder = Path(self.offload_folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SteerkitError(
                f"cannot make the offload folder {folder}: {error.strerror}; name another"
            ) from error
        return folder


def bytes_of(device: int | str, size: int | str) -> int:
    """Return a size in bytes. Raises MisuseError for a device or a size that is none."""
    if not isinstance(device, int) and device not in ("cpu", "disk", "mps"):
        raise MisuseError(f"max_memory is for cpu or for a GPU by its number, got {device!r}")
    found = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    if found is None:
        raise MisuseError(f"max_memory of {device} is a size such as 500MB or 10GiB, got {size!r}")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** ("KMGT".index(prefix.upper()) + 1))


def _present(sizes: Mapping[int | str, int | str]) -> Mapping[int | str, int | str]:
    import torch

    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    for device in sizes:
        if isinstance(device, int) and not 0 <= device < count:
            raise MisuseError(f"max_memory names GPU {device}, and this machine has {count or 'none'}")
    return sizes


def _bitsandbytes(quantization: str, dtype: Any) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    # At every 8-bit product it would say that it rounds activations to float16 first.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
