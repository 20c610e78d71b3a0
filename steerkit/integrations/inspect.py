"""The entry point through which Inspect finds the model provider `steerkit/…`; see `inspect_model`.

Inspect imports the entry points of every installed package, so nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Any

from inspect_ai.model import modelapi


@modelapi(name="steerkit")
def steerkit() -> type[Any]:
    """Return the provider's class."""
    from steerkit.integrations.inspect_model import SteeredModelAPI

    return SteeredModelAPI
