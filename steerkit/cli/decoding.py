"""The options that say how tokens are chosen: checked before anything is loaded, then made into a `Decoding`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from steerkit.engines.base import Decoding, RunModel


class DecodingChoice:
    """What the command line says of decoding. Options that are None were not given. Raises MisuseError for bad values.

    `source` is where the rest comes from: the model's own generation config, or else the defaults.
    """

    def __init__(self, source: Literal["model"] | None, max_new_tokens: int, **options: Any) -> None:
        from steerkit.engines.base import Decoding

        self._from_model = source is not None
        self._given = {name: value for name, value in options.items() if value is not None}
        self._given["max_new_tokens"] = max_new_tokens
        self.alone = Decoding(**self._given)  # with the defaults for the rest

    def of(self, model: RunModel) -> Decoding:
        """Return the decoding for a model. Raises MisuseError where its own config sets what is not supported."""
        from steerkit.engines.base import Decoding

        return Decoding.of_model(model, **self._given) if self._from_model else self.alone
