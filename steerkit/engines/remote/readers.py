"""What of readers travels to vLLM, and how; see `wire` for interventions."""

from __future__ import annotations

from collections.abc import Iterable

from steerkit.core.errors import MisuseError
from steerkit.interventions.readers import Reader


def refuse_readers(engine: str, readers: Iterable[Reader]) -> None:
    """Raise MisuseError for the first reader that vLLM cannot read, with the reason."""
    for reader in readers:
        raise MisuseError(
            f"the {engine} engine cannot read {str(reader)!r}: read with the transformers engine"
        )
