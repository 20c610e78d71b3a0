"""calibrate: the strength at which a vector's divergence meets a target, measured at several layers together.

1. The prompts are completed greedily by the unsteered model; the divergence is measured teacher-forced on these
   roll-outs (see `steerkit.engines.transformers.divergence`). An end-of-sequence token that closed a roll-out is one of
   its tokens: whether the model stops is something that steering changes.
2. Every layer is searched on its own (see `search`), but all of them in step: the strengths that the layers want
   next are rows of the same passes.
3. The formulas (see `closed_forms`) are evaluated on the same roll-outs, give the search its start, and have their
   strengths measured with the first passes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from steerkit.calibration.closed_forms import ClosedForms, Statistic, closed_forms
from steerkit.calibration.derivatives import States
from steerkit.calibration.meter import Meter, Place, Progress
from steerkit.calibration.result import FORMULAS, Calibration, LayerCalibration, MeasuredKL, is_monotone
from steerkit.calibration.search import Found, Search, search
from steerkit.calibration.tokens import pool
from steerkit.core.errors import MisuseError
from steerkit.core.prompts import EncodedText, Prompt
from steerkit.engines.base import Decoding, Request
from steerkit.engines.transformers.engine import TransformersEngine
from steerkit.interventions.spec import parse_range
from steerkit.interventions.steering import Scope, Steering
from steerkit.interventions.vector import SteeringVector
from steerkit.models import LanguageModel
from steerkit.suites.suite import load_suite

TOKENS = 64
PROMPTS = 16
LARGEST = {"add": 16.0, "ablate": 1.0, "clamp": 1.0, "rotate": 1.0}  # the last three are complete at 1


def calibrate(
    lm: LanguageModel,
    vector: SteeringVector,
    layers: str | Sequence[int],
    *,
    target_kl: float,
    statistic: Statistic = "mean",
    prompts: Sequence[Prompt] | None = None,
    system: str | None = None,
    operation: str = "add",
    scope: Scope = "completion",
    target: float | None = None,
    sign: int = 1,
    tokens: int = TOKENS,
    largest: float | None = None,
    tolerance: float = 0.05,
    batch_size: int | None = None,
    allow_mismatch: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Find at each layer the smallest strength whose KL(unsteered ‖ steered) is `target_kl` nats per token.

    The KL is the mean or the 95th percentile (`statistic`) over all tokens of the unsteered greedy roll-outs of
    `prompts`, at most `tokens` long, with the scope applied. It is met to the relative `tolerance`; strengths
    up to `largest` (16 for `add`, 1 for the others) times `sign` are tried. `prompts` defaults to 16 items of
    the abstention suite's `fit` split; never give prompts that also report. `layers` is a sequence or a range
    such as `"8:20:4"`. `batch_size` bounds the rows of a pass.

    Raises MisuseError for what cannot be meant, and ModelMismatchError for a vector of another model; with
    `allow_mismatch` one of the same architecture passes.
    """
    asked = tuple(parse_range(layers, int, what="layers") if isinstance(layers, str) else layers)
    limit = LARGEST.get(operation, 1.0) if largest is None else largest
    _check(asked, target_kl, statistic, sign, tolerance, limit)

    def steering(layer: int, strength: float) -> Steering:
        return vector.at(layer, sign * strength, scope=scope, operation=operation, target=target)

    for layer in asked:
        steering(layer, limit)
        if not vector.direction[layer].any():
            raise MisuseError(
                f"vector {vector.name!r} is zero at layer {layer}: no strength moves anything there"
            )
    engine = TransformersEngine(lm, batch_size, allow_mismatch=allow_mismatch)
    questions = default_prompts() if prompts is None else list(prompts)
    if not questions:
        raise MisuseError("calibration needs at least one prompt")
    decoding = Decoding(max_new_tokens=tokens)
    requests = [Request(prompt, (), decoding, system) for prompt in questions]
    engine.check(replace(requests[0], interventions=(steering(asked[0], limit),)))
    texts = _rollouts(engine, requests)

    forms, forms_reason = _formulas(lm, vector, asked, texts, target_kl, statistic, operation, scope)
    meter = Meter(lm, texts, steering, batch_size, progress)
    searches = {
        layer: search(target_kl, _start(forms.get(layer), limit), limit, tolerance) for layer in asked
    }
    beside = [(layer, at) for layer, form in forms.items() for at in _strengths(form, limit).values()]
    found = _search_together(searches, meter, statistic, beside)
    rollouts = _on_own_rollouts(engine, meter, found, requests)
    return Calibration(
        vector=vector,
        model=lm.name,
        target_kl=target_kl,
        statistic=statistic,
        operation=operation,
        scope=scope,
        target=target,
        tolerance=tolerance,
        largest=sign * limit,
        tokens=tokens,
        prompts=len(texts),
        completion_tokens=sum(text.completion_length for text in texts),
        prompts_digest=_digest(texts),
        layers=tuple(
            _layer(
                meter,
                layer,
                found[layer],
                rollouts.get(layer),
                forms.get(layer),
                forms_reason,
                limit,
                statistic,
            )
            for layer in asked
        ),
    )


def default_prompts(suite: str = "abstention", limit: int = PROMPTS) -> list[Prompt]:
    """Prompts to calibrate on: at most `limit` items of a suite's `fit` split, a balanced mixture."""
    return [item.prompt for item in load_suite(suite).split("fit").limit(limit)]


def _check(
    layers: Sequence[int], target_kl: float, statistic: str, sign: int, tolerance: float, largest: float
) -> None:
    if not layers:
        raise MisuseError("calibration needs at least one layer")
    if not 0 < target_kl < math.inf:
        raise MisuseError(f"a KL target is a positive number of nats per token, got {target_kl}")
    if statistic not in ("mean", "p95"):
        raise MisuseError(f"the statistic is mean or p95, got {statistic!r}")
    if sign not in (1, -1):
        raise MisuseError(f"the sign is 1 or -1, got {sign}")
    if not 0 < tolerance < 1:
        raise MisuseError(f"the tolerance is a share of the target between 0 and 1, got {tolerance}")
    if not 0 < largest < math.inf:
        raise MisuseError(
            f"the largest strength is a positive number, got {largest}: a sign goes into sign=-1"
        )


def _rollouts(engine: TransformersEngine, requests: Sequence[Request]) -> list[EncodedText]:
    """The greedy completion of each request as a text whose last token is there to be predicted only."""
    numbered = [replace(request, key=i) for i, request in enumerate(requests)]
    texts: dict[int, EncodedText] = {}
    for completion in engine.generate(numbered):
        request = completion.request
        prompt = engine.lm.renderer.encode_prompt(request.prompt, request.system)
        stop = engine.lm.stop_ids[:1] if completion.finish == "stop" else ()
        texts[cast(int, request.key)] = EncodedText((*prompt, *completion.token_ids, *stop), len(prompt))
    return [texts[i] for i in range(len(requests))]


def _formulas(
    lm: LanguageModel,
    vector: SteeringVector,
    layers: Sequence[int],
    texts: Sequence[EncodedText],
    target_kl: float,
    statistic: Statistic,
    operation: str,
    scope: Scope,
) -> tuple[dict[int, ClosedForms], str | None]:
    if operation != "add":
        return {}, f"the formulas are about adding a vector, not about {operation}"
    if scope == "prompt":
        return (
            {},
            "the formulas are about the position whose output is read, which scope prompt does not steer",
        )
    states = States(lm, texts)
    forms = {}
    for layer in layers:
        try:
            at_layer = states.derivatives(layer, vector.direction[layer])
        except NotImplementedError as error:  # torch's word for an operation without a forward derivative
            return (
                {},
                f"{lm.name} has an operation without a forward derivative ({str(error).splitlines()[0]})",
            )
        forms[layer] = closed_forms(
            at_layer.slopes, at_layer.curvatures, at_layer.variances, target_kl, statistic
        )
    return forms, None


def _strengths(form: ClosedForms, largest: float) -> dict[str, float]:
    """The strengths that the formulas give, of those that can be tried."""
    return {name: value for name in FORMULAS if 0 < (value := getattr(form, name)) <= largest}


def _start(form: ClosedForms | None, largest: float) -> float:
    """Where to begin the search: the Fisher form, whose KL is of the target's order where it applies."""
    return largest / 2 if form is None else min(form.fisher, largest)


def _search_together(
    searches: Mapping[int, Search], meter: Meter, statistic: Statistic, beside: Sequence[Place]
) -> dict[int, Found]:
    """Advance all searches in step: what they want next is measured in the same passes, `beside` in the first."""
    found: dict[int, Found] = {}
    wanted = {layer: next(steps) for layer, steps in searches.items()}
    places = list(beside)
    while wanted:
        places += [(layer, strength) for layer, strengths in wanted.items() for strength in strengths]
        meter.measure(places)
        places = []
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
    texts = _rollouts(
        engine,
        [
            replace(request, interventions=(meter.steering(*place),))
            for place in places
            for request in requests
        ],
    )
    measured = {}
    for i, place in enumerate(places):
        own = texts[i * len(requests) : (i + 1) * len(requests)]
        measured[place[0]] = meter.point(place, pool([table[0] for table in meter.of(own, [place])]))
    return measured


def _layer(
    meter: Meter,
    layer: int,
    found: Found,
    rollout: MeasuredKL | None,
    form: ClosedForms | None,
    forms_reason: str | None,
    largest: float,
    statistic: Statistic,
) -> LayerCalibration:
    curve = tuple(meter.point(place) for place in sorted(meter.known) if place[0] == layer)
    at_strength = None if found.strength is None else meter.point((layer, found.strength))
    formulas = {} if form is None else _strengths(form, largest)
    return LayerCalibration(
        layer=layer,
        strength=None if at_strength is None else at_strength.strength,
        reason=found.reason,
        at_strength=at_strength,
        rollout=rollout,
        curve=curve,
        monotone=is_monotone(curve, statistic),
        forms=form,
        forms_reason=forms_reason,
        **{name: meter.point((layer, strength)) for name, strength in formulas.items()},
    )


def _digest(texts: Sequence[EncodedText]) -> str:
    """SHA-256 over the prompts as the model read them."""
    prompts = [text.ids[: text.prompt_length] for text in texts]
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
