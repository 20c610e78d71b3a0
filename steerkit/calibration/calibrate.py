"""calibrate: the strength at which a steering's divergence meets a target, measured at several layers together.

1. The prompts are completed greedily by the unsteered model; the divergence is measured teacher-forced on these
   roll-outs (see `steerkit.engines.transformers.divergence`).
2. Every layer is searched on its own (see `search`), but all of them in step: the strengths that the layers want
   next are rows of the same passes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from steerkit.calibration.meter import Meter, Progress
from steerkit.calibration.result import Calibration, LayerCalibration, MeasuredKL, is_monotone
from steerkit.calibration.search import Found, Search, search
from steerkit.calibration.tokens import STATISTICS, Statistic, pool
from steerkit.core.errors import MisuseError
from steerkit.core.numbers import plain
from steerkit.core.progress import shows_progress
from steerkit.core.prompts import EncodedText, Prompt
from steerkit.engines.base import Decoding, Request
from steerkit.engines.catalogue import engine_for
from steerkit.engines.transformers.divergence import roll_outs
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.engines.transformers.gates import without_row_gate
from steerkit.interventions.base import refusal_of
from steerkit.interventions.steering import Steering
from steerkit.models import LanguageModel
from steerkit.suites.suite import Suite, load_suite

TOKENS = 64
PROMPTS = 16
TOLERANCE = 0.05  # relative to the target
LARGEST = 16.0  # of a strength that scales what is added; other operations are complete at 1


@shows_progress("calibrating")
def calibrate(
    lm: LanguageModel,
    steering: Steering,
    *,
    kl: float,
    statistic: Statistic = "mean",
    tolerance: float = TOLERANCE,
    largest: float | None = None,
    prompts: Sequence[Prompt] | None = None,
    system: str | None = None,
    tokens: int = TOKENS,
    batch_size: int | None = None,
    allow_mismatch: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Find at each layer of `steering` the smallest strength whose KL(unsteered ‖ steered) is `kl` nats per token.

        found = sk.calibrate(lm, vector.at([8, 12, 16]), kl=0.1)
        found.vector.at(12, kl=0.1)

    Each layer is calibrated by itself. Of the steering's own strength the sign alone counts; all else about it
    applies, but a gate that decides row by row is taken to be open.

    The KL is the mean or the 95th percentile (`statistic`) over all tokens of the unsteered greedy roll-outs of
    `prompts`, at most `tokens` long, with the scope applied. It is met to the relative `tolerance`; strengths
    up to `largest` (16 where the vector is added, else 1) times the sign are tried. `prompts` defaults to 16 items
    of the abstention suite's `fit` split; never give prompts that also report. `batch_size` bounds the rows of a
    pass.

    Raises MisuseError for what cannot be meant, and ModelMismatchError for a vector of another model; with
    `allow_mismatch` one of the same architecture passes.
    """
    check(steering, kl=kl, statistic=statistic, tolerance=tolerance, largest=largest)
    if isinstance(prompts, str):
        raise MisuseError("prompts are several texts: give a list of them")
    limit = largest_strength(steering) if largest is None else largest
    questions = default_prompts() if prompts is None else list(prompts)
    if not questions:
        raise MisuseError("calibration needs at least one prompt")
    if steering.follows is not None:
        raise MisuseError(
            "a strength that follows a reader is not calibrated: calibrate the strength without it"
        )
    engine = engine_for(lm, batch_size, allow_mismatch=allow_mismatch)
    requests = [Request(prompt, (), Decoding(max_new_tokens=tokens), system) for prompt in questions]
    engine.check(replace(requests[0], interventions=(without_row_gate(steering),)))
    texts = roll_outs(engine, requests)

    meter = Meter(lm, texts, steering, batch_size, progress)
    searches = {layer: search(kl, limit, tolerance) for layer in steering.layers}
    found = _search_together(searches, meter, statistic)
    own = _on_own_rollouts(engine, meter, found, requests)
    return Calibration(
        steering=steering,
        model=lm.name,
        target_kl=kl,
        statistic=statistic,
        tolerance=tolerance,
        largest=math.copysign(limit, steering.strength),
        tokens=tokens,
        prompts=len(texts),
        completion_tokens=sum(text.completion_length for text in texts),
        prompts_digest=_digest(texts),
        layers=tuple(
            _layer(meter, layer, found[layer], own.get(layer), statistic) for layer in steering.layers
        ),
    )


def default_prompts(suite: Suite | str = "abstention", limit: int = PROMPTS) -> list[Prompt]:
    """Return prompts to calibrate on: at most `limit` items of a suite's `fit` split, a balanced mixture."""
    return [item.prompt for item in load_suite(suite).split("fit").limit(limit)]


def largest_strength(steering: Steering) -> float:
    """Return the largest strength that is tried unless another is asked for."""
    return LARGEST if steering.acts_by.is_constant_shift else 1.0


def check(
    steering: Steering,
    *,
    kl: float,
    statistic: str = "mean",
    tolerance: float = TOLERANCE,
    largest: float | None = None,
) -> None:
    """Raise MisuseError for what `calibrate` refuses whatever the model."""
    if not isinstance(steering, Steering):
        raise MisuseError(refusal_of(steering))
    kl, tolerance, largest = plain(kl), plain(tolerance), plain(largest)
    for layer in steering.layers:
        if not steering.vector.direction[layer].any():
            raise MisuseError(
                f"vector {steering.vector.name!r} is zero at layer {layer}: no strength moves anything there"
            )
    if not steering.acts:
        raise MisuseError("the strength of the steering says which sign is calibrated: give 1 or -1")
    if not isinstance(kl, int | float) or not 0 < kl < math.inf:
        raise MisuseError(f"a KL target is a positive number of nats per token, got {kl}")
    if statistic not in STATISTICS:
        raise MisuseError(f"the statistic is {' or '.join(STATISTICS)}, got {statistic!r}")
    if not 0 < tolerance < 1:
        raise MisuseError(f"the tolerance is a share of the target between 0 and 1, got {tolerance}")
    if largest is not None and not 0 < largest < math.inf:
        raise MisuseError(
            f"the largest strength is a positive number, got {largest}: the sign is the steering's"
        )


def _search_together(searches: Mapping[int, Search], meter: Meter, statistic: Statistic) -> dict[int, Found]:
    """Advance all searches in step: what they want next is measured in the same passes."""
    found: dict[int, Found] = {}
    wanted = {layer: next(steps) for layer, steps in searches.items()}
    while wanted:
        meter.measure([(layer, strength) for layer, strengths in wanted.items() for strength in strengths])
        for layer, strengths in list(wanted.items()):
            values = [meter.known[layer, strength].value(statistic) for strength in strengths]
            try:
                wanted[layer] = searches[layer].send(values)
            except StopIteration as end:
                found[layer] = end.value
                del wanted[layer]
    return found


def _on_own_rollouts(
    engine: TransformersEngine, meter: Meter, found: Mapping[int, Found], requests: Sequence[Request]
) -> dict[int, MeasuredKL]:
    """The divergence at each layer's strength along the steered model's own greedy roll-outs."""
    places = [(layer, end.strength) for layer, end in found.items() if end.strength is not None]
    acting = [(meter.steering(place),) for place in places]
    texts = roll_outs(engine, [replace(asked, interventions=by) for by in acting for asked in requests])
    measured = {}
    for i, place in enumerate(places):
        own = texts[i * len(requests) : (i + 1) * len(requests)]
        measured[place[0]] = meter.point(place, pool([table[0] for table in meter.of(own, [place])]))
    return measured


def _layer(
    meter: Meter, layer: int, found: Found, own: MeasuredKL | None, statistic: Statistic
) -> LayerCalibration:
    curve = tuple(meter.point(place) for place in sorted(meter.known) if place[0] == layer)
    at_strength = None if found.strength is None else meter.point((layer, found.strength))
    return LayerCalibration(
        layer=layer,
        strength=None if at_strength is None else at_strength.strength,
        reason=found.reason,
        at_strength=at_strength,
        rollout=own,
        curve=curve,
        monotone=is_monotone(curve, statistic),
    )


def _digest(texts: Sequence[EncodedText]) -> str:
    """SHA-256 over the prompts as the model read them."""
    prompts = [text.ids[: text.prompt_length] for text in texts]
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
