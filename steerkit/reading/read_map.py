"""A map of a text: what a vector or a probe reads of every token at every layer, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerkit.core.errors import MisuseError
from steerkit.core.prompts import Prompt
from steerkit.interventions.base import Intervention
from steerkit.interventions.probe import Probe
from steerkit.interventions.readers import ProbeReader, Reader, VectorReader
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.reading import html
from steerkit.reading.read import read
from steerkit.reading.reduction import Value
from steerkit.reading.scale import Scale, scale_of


@dataclass(frozen=True)
class ReadMap:
    """What was read of each token at each layer: `values[i][j]` is that of layer `layers[i]` and token `tokens[j]`.

    `kind` is `vector` or `probe`, `label` its name; the first `prompt_tokens` tokens are the prompt's.
    """

    label: str
    kind: str
    tokens: tuple[str, ...]
    prompt_tokens: int
    layers: tuple[int, ...]
    values: tuple[tuple[Value, ...], ...]

    def scale(self, place: int) -> Scale:
        """Return the scale of a layer, by its place, without the first token: states grow with depth."""
        return scale_of(self.kind, self.values[place][1:] or self.values[place])

    def _repr_html_(self) -> str:
        return html.map_html(self)

    def __repr__(self) -> str:
        return f"ReadMap({self.label!r}, {len(self.layers)} layers × {len(self.tokens)} tokens)"


def read_map(
    lm: LanguageModel,
    text: Prompt | tuple[Prompt, str],
    part: SteeringVector | Probe,
    interventions: Intervention | Sequence[Intervention] = (),
    *,
    layers: Iterable[int] | None = None,
    system: str | None = None,
) -> ReadMap:
    """Return what a vector, or a probe, reads of each token of a text at each of its layers, in one forward pass.

    `text` and `interventions` are as in `sk.read`. Without `layers` all are read that have a direction. The map shows
    itself in a notebook; `sk.plot_map` draws it. Raises MisuseError for what is no vector or probe and for a layer that
    it does not have.
    """
    if not isinstance(part, SteeringVector | Probe):
        raise MisuseError(
            f"a map is of a vector or a probe, got {type(part).__name__}: sk.load_vector reads a file"
        )
    given = (
        [each for each in range(part.n_layers) if part.rows[each].any()] if layers is None else list(layers)
    )
    if not given:
        raise MisuseError(f"{part.name!r} has no direction at any layer to read along")
    readers: list[Reader] = [
        ProbeReader(part, layer) if isinstance(part, Probe) else VectorReader(part, layer) for layer in given
    ]
    (found,) = read(lm, [text], readers, interventions, system=system)
    values = tuple(found.values(place) for place in range(len(given)))
    kind = "probe" if isinstance(part, Probe) else "vector"
    return ReadMap(part.name, kind, found.tokens, found.prompt_tokens, tuple(given), values)
