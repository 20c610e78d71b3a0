"""All scores of one completion, as the flat object that a record keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from steerkit.core.errors import MisuseError
from steerkit.models.markers import DEFAULT, ThinkingMarkers
from steerkit.scoring.metrics import Score, Scorer, scorers_of

if TYPE_CHECKING:
    from steerkit.engines.base import Completion
    from steerkit.suites.items import SuiteItem


def score_completion(
    item: SuiteItem, completion: Completion, scorers: Scorer | str | Iterable[Scorer | str] | None = None
) -> dict[str, Score]:
    """Return what these scorers, by default all, give the completion; who needs an engine or a run is left out."""
    scores: dict[str, Score] = {}
    for one in scorers_of(scorers):
        if one.needs in ("text", "tokens"):
            scores |= one(item, completion)
    return scores


def score(
    item: SuiteItem | Mapping[str, Any],
    text: str,
    scorers: Scorer | str | Iterable[Scorer | str] | None = None,
    *,
    markers: ThinkingMarkers = DEFAULT,
) -> dict[str, Score]:
    """Return what a text scores as a completion of the item, without a model.

    `item` is a suite item, or its fields (`id` may be missing); `scorers` are by default all that read nothing but
    the text: token counts are not among them. `markers` are those between which the model thinks, as
    `lm.markers` has them. Raises MisuseError for an item that contradicts itself or has unknown fields.

        >>> score({"prompt": "What is 5 + 7?", "answers": ("12",), "kind": "number"}, "5 + 7 = 12.")["correct"]
        True
    """
    from steerkit.engines.base import Completion, Request
    from steerkit.suites.items import SuiteItem

    if not isinstance(item, SuiteItem):
        try:
            item = SuiteItem(**{"id": "item", **item})
        except TypeError as error:
            raise MisuseError(f"that is no suite item: {error}") from None
    completion = Completion(Request(item.prompt), text, (), "stop", 0, markers=markers)
    return score_completion(item, completion, (one for one in scorers_of(scorers) if one.needs == "text"))
