"""The controls of a steering, alike on every tab that steers, and the interventions that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from steerkit.core.errors import MisuseError
from steerkit.core.registry import GATES, READERS
from steerkit.interventions.base import Intervention
from steerkit.interventions.gate import DetectorGate, Gate, ProbeGate
from steerkit.interventions.readers import NamedReader, ProbeReader, Reader, VectorReader
from steerkit.interventions.spec import parse_all
from steerkit.interventions.steering import SCOPES, Scope, Steering
from steerkit.interventions.store import Store, recommended_use
from steerkit.interventions.vector import SteeringVector
from steerkit.serving.workbench.context import Context
from steerkit.serving.workbench.told import OVER_AT_ONCE

NOTHING = "none"
OWN_PROBE = "the vector's probe"
ALONG = "along the vector"
STRONGEST = 4.0  # of the slider, unless a vector recommends more


@dataclass(frozen=True)
class Settings:
    """What the controls say. `more` are further interventions as spec strings."""

    vector: str = NOTHING
    layer: float = 0
    strength: float = 1.0
    scope: Scope = "completion"
    gate: str = NOTHING
    threshold: float | None = 0.5
    half_life: float | None = None
    more: str = ""

    def gate_of(self, vector: SteeringVector) -> Gate | None:
        """Return the gate. Raises MisuseError where the vector brings no probe."""
        if self.gate == NOTHING:
            return None
        threshold = 0.5 if self.threshold is None else float(self.threshold)
        if self.gate != OWN_PROBE:
            return DetectorGate(self.gate, threshold)
        if vector.probe is None:
            raise MisuseError(f"{vector.name} brings no probe: choose another gate, or none")
        return ProbeGate(vector.probe, threshold=threshold)

    def steering(self, vector: SteeringVector) -> Steering:
        """Return the vector applied as the controls say. Raises MisuseError for what cannot be."""
        half_life = self.half_life or None
        at = int(self.layer), float(self.strength)
        return vector.at(*at, scope=self.scope, half_life=half_life, gate=self.gate_of(vector))

    def interventions(self, context: Context) -> tuple[Intervention, ...]:
        """Return all that acts, the vector first. Raises MisuseError for what cannot be."""
        more = parse_all([self.more], self._served(context)) if self.more.strip() else ()
        if self.vector == NOTHING:
            return more
        return (self.steering(context.vector(self.vector)), *more)

    def _served(self, context: Context) -> Store:
        """The served vectors that `more` may mean: a browser names no other file, and nothing on a hub."""
        named = (context.vector(name).renamed(name) for name in context.vector_names() if name in self.more)
        return Store(list(named), files=False)


def recommended(vector: SteeringVector) -> Settings:
    """Return the settings of a vector's recommended use; the middle of the model, at strength 1, without one."""
    steerings = [each for each in recommended_use(vector) if isinstance(each, Steering)]
    if not steerings:
        return Settings(vector.name, vector.n_layers // 2)
    use = steerings[0]
    gate, threshold = NOTHING, 0.5
    if isinstance(use.gate, ProbeGate):
        gate, threshold = OWN_PROBE, round(use.gate.threshold, 4)
    elif isinstance(use.gate, DetectorGate):
        gate, threshold = use.gate.detector, use.gate.threshold
    return Settings(vector.name, use.layers[0], use.strength, use.scope, gate, threshold, use.half_life)


def reader_names() -> list[str]:
    """Return what tokens can be coloured by."""
    return [ALONG, OWN_PROBE, *READERS, NOTHING]


def readers_of(name: str, settings: Settings, context: Context) -> tuple[Reader, ...]:
    """Return the readers to colour by: that of the name first, and where it is one of states, the entropy behind it.

    Along a vector it is read at the steered layer; without a vector there is nothing to read along, so nothing is.
    Raises MisuseError for a vector without a probe.
    """
    if name in READERS:
        return (NamedReader(name),)
    if name == NOTHING or settings.vector == NOTHING:
        return ()
    vector = context.vector(settings.vector)
    if name == ALONG:
        return (VectorReader(vector, int(settings.layer)),)
    if vector.probe is None:
        raise MisuseError(f"{vector.name} brings no probe to colour by: choose another reading")
    return (ProbeReader(vector.probe),)


class SteeringControls:
    """The components, made where it is called; `inputs` are to be given to a handler, `settings` reads their values."""

    def __init__(self, context: Context, tab: str, *, one_place: bool = True) -> None:
        names = context.vector_names()
        first = recommended(context.vector(names[0])) if names else Settings()
        chosen = names[0] if names else NOTHING
        self._context = context
        self.vector = gr.Dropdown(
            [NOTHING, *names], value=chosen, label="vector", elem_id=f"{tab}-vector",
            info="with its recommended use, where it has one",
        )  # fmt: skip
        with gr.Column(visible=one_place):
            self.layer = gr.Slider(
                0, context.lm.n_layers - 1, value=first.layer, step=1, label="layer", elem_id=f"{tab}-layer"
            )
            self.strength = gr.Slider(
                *_reach(first.strength),
                value=first.strength,
                step=0.05,
                label="strength",
                elem_id=f"{tab}-strength",
            )
        with gr.Row():
            self.scope = gr.Dropdown(list(SCOPES), value=first.scope, label="scope", min_width=120)
            self.threshold = gr.Number(
                first.threshold, label="gate opens from", minimum=0, maximum=1, step=0.05, min_width=120
            )
        self.gate = gr.Dropdown([NOTHING, OWN_PROBE, *GATES], value=first.gate, label="gate")
        with gr.Accordion("more", open=False, elem_id=f"{tab}-more"):
            self.half_life = gr.Number(first.half_life, label="half-life in tokens (empty: none)", minimum=0)
            self.more = gr.Textbox(
                "", label="further interventions, as spec strings", lines=1, max_lines=4, elem_id=f"{tab}-specs",
                placeholder='prompt@system="Be brief." ; thinking-budget@tokens=128',
            )  # fmt: skip
        # The vector that the others were set for: what is asked before they are means its recommended use.
        self.set_for = gr.Textbox(chosen, visible=False)
        self.inputs: list[Any] = [
            self.vector, self.layer, self.strength, self.scope, self.gate, self.threshold, self.half_life, self.more,
            self.set_for,
        ]  # fmt: skip
        set_anew = [*self.inputs[1:-2], self.set_for]
        self.vector.input(self._recommend, self.vector, set_anew, **OVER_AT_ONCE)

    def settings(self, values: Sequence[Any]) -> Settings:
        """Return what the components say, in the order of `inputs`.

        Where a vector was chosen a moment ago and they are still those of another, its recommended use.
        """
        *given, set_for = values
        settings = Settings(*given)
        if settings.vector in (NOTHING, set_for):
            return settings
        return replace(recommended(self._context.vector(settings.vector)), more=settings.more)

    def names(self) -> dict[str, Any]:
        """Return the choices of vectors as they are now, as an update of the dropdown."""
        update: dict[str, Any] = gr.update(choices=[NOTHING, *self._context.vector_names()])
        return update

    def _recommend(self, name: str) -> list[Any]:
        """The controls set to a vector's recommended use."""
        if name == NOTHING:
            return [*[gr.skip()] * 6, name]
        use = recommended(self._context.vector(name))
        low, high = _reach(use.strength)
        strength = gr.update(value=use.strength, minimum=low, maximum=high)
        return [use.layer, strength, use.scope, use.gate, use.threshold, use.half_life, name]


def _reach(strength: float) -> tuple[float, float]:
    """Both ends of the slider."""
    most = max(STRONGEST, 2 * abs(strength))
    return -most, most
