"""--engine and the options that belong to it: checked before anything is loaded, then made into an engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from steerkit.cli import console
from steerkit.cli.options import key_values, template_options
from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from steerkit.engines.base import Engine
    from steerkit.engines.catalogue import EngineOptions
    from steerkit.models.placement import Placement

# vLLM speaks on stdout unless told otherwise, where our results go.
ENVIRONMENT = {"VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_LOGGING_LEVEL": "WARNING"}


@dataclass(frozen=True)
class EngineChoice:
    """What the command line says of the engine. Raises MisuseError for an option that another engine has."""

    engine: str = "transformers"
    servers: Sequence[str] = ()
    served_name: str | None = None
    timeout: float | None = None
    own: Sequence[str] = ()
    placement: Placement | None = None
    template: Sequence[str] = ()
    options: EngineOptions = field(init=False)

    def __post_init__(self) -> None:
        own = key_values(self.own, "--vllm-option")
        for name in {"model", "dtype"} & own.keys():
            raise MisuseError(f"--vllm-option {name}: use --{name}")
        from steerkit.core.registry import ENGINES
        from steerkit.engines.catalogue import EngineOptions

        options = EngineOptions(
            "",
            servers=self.servers,
            served_name=self.served_name,
            timeout=self.timeout,
            options=own,
            template_options=template_options(self.template),
            **({} if self.placement is None else self.placement.given),
        )
        object.__setattr__(self, "options", options)
        ENGINES[self.engine].check(options)

    def open(
        self,
        model: str,
        dtype: str | None,
        batch_size: int | None = None,
        *,
        allow_mismatch: bool = False,
        servers: Sequence[str] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> Engine:
        """Return the engine, ready. Loads the model, or what a client has to know of it.

        `servers` takes the place of those chosen, `defaults` are for the engine's own options that were left out.
        """
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        options = replace(
            self.options,
            model=model,
            dtype=dtype,
            batch_size=batch_size,
            allow_mismatch=allow_mismatch,
            servers=self.servers if servers is None else servers,
            options={**(defaults or {}), **self.options.options},
            progress=console.say,
        )
        with console.loading(model):
            from steerkit.engines.catalogue import open_engine

            return open_engine(self.engine, options)
