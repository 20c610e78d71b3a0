"""--engine and the options that belong to it: checked before anything is loaded, then made into an engine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from steerkit.cli import console
from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from steerkit.engines.remote.server import ServerEngine
    from steerkit.engines.remote.vllm import VllmEngine
    from steerkit.sweeps.carrier import SweepEngine

ENGINES = ("transformers", "vllm", "server")
# vLLM speaks on stdout unless told otherwise, where our results go.
VLLM_ENVIRONMENT = {"VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_LOGGING_LEVEL": "WARNING"}


@dataclass(frozen=True)
class EngineChoice:
    """What the command line says of the engine. Raises MisuseError for an option that another engine has."""

    engine: str = "transformers"
    servers: Sequence[str] = ()
    served_name: str | None = None
    timeout: float | None = None
    vllm_options: Sequence[str] = ()
    device: str | None = None
    options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise MisuseError(f"--engine is one of {', '.join(ENGINES)}, got {self.engine!r}")
        owners = {
            "--server": ("server", self.servers),
            "--served-name": ("server", self.served_name),
            "--timeout": ("server", self.timeout),
            "--vllm-option": ("vllm", self.vllm_options),
        }
        for option, (owner, value) in owners.items():
            if value and owner != self.engine:
                raise MisuseError(f"{option} belongs to --engine {owner}, not {self.engine}")
        if self.engine == "server" and not self.servers:
            raise MisuseError("--engine server needs --server URL, such as http://localhost:8000")
        object.__setattr__(self, "options", dict(map(_key_and_value, self.vllm_options)))

    def open(
        self, model: str, dtype: str | None, batch_size: int | None, *, allow_mismatch: bool
    ) -> SweepEngine:
        """The engine, ready. Loads the model, or what a client has to know of it."""
        if self.engine == "transformers":
            from steerkit.engines.transformers.engine import TransformersEngine

            lm = console.load(model, self.device, dtype)
            return TransformersEngine(lm, batch_size, allow_mismatch=allow_mismatch)
        if self.engine == "vllm":
            return self.open_vllm(model, dtype, batch_size, allow_mismatch=allow_mismatch)
        self._refuse_device()
        return self.open_server(self.servers, model, dtype, batch_size, allow_mismatch=allow_mismatch)

    def open_vllm(
        self,
        model: str,
        dtype: str | None,
        batch_size: int | None = None,
        *,
        allow_mismatch: bool = False,
        **defaults: Any,
    ) -> VllmEngine:
        """vLLM in this process, with `defaults` for what --vllm-option does not name."""
        self._refuse_device()
        for name, value in VLLM_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from steerkit.engines.remote.served_model import ServedModel
        from steerkit.engines.remote.vllm import WINDOW, VllmEngine

        return VllmEngine(
            ServedModel(model, console.say),
            window=batch_size or WINDOW,
            dtype=dtype,
            allow_mismatch=allow_mismatch,
            **defaults | self.options,
        )

    def open_server(
        self,
        servers: Sequence[str],
        model: str,
        dtype: str | None,
        batch_size: int | None = None,
        *,
        allow_mismatch: bool = False,
    ) -> ServerEngine:
        """A client of these servers."""
        from steerkit.engines.remote.served_model import ServedModel
        from steerkit.engines.remote.server import CONCURRENCY, TIMEOUT, ServerEngine

        return ServerEngine(
            servers,
            ServedModel(model, console.say),
            served_name=self.served_name,
            concurrency=batch_size or CONCURRENCY,
            timeout=self.timeout or TIMEOUT,
            dtype=dtype or "auto",
            allow_mismatch=allow_mismatch,
        )

    def _refuse_device(self) -> None:
        if self.device is not None:
            raise MisuseError(
                f"--device is the transformers engine's: with --engine {self.engine} vLLM has its own"
            )


def _key_and_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    name = key.strip().lstrip("-").replace("-", "_")
    if not equals or not name.isidentifier():
        raise MisuseError(f"--vllm-option {text!r} is not KEY=VALUE, such as tensor_parallel_size=2")
    if name in ("model", "dtype"):
        raise MisuseError(f"--vllm-option {text!r}: use --{name}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
