"""The file that lm-eval's `steered` model type reads, so that any of its benchmarks runs on a steered model.

    lm_eval --model steered --model_args pretrained=MODEL,steer_path=abstain.pt,dtype=float32 --tasks …

The file is a dict from the name of a decoder block to what is done to its output at every position. lm-eval
knows `add` (a vector times a coefficient) and `clamp` (the component along a direction set to a value), one of
them a block. What sets a component, such as our `ablate` and `clamp` at strength 1, is its clamp.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.core.errors import MisuseError
from steerkit.core.files import replacing
from steerkit.interchange.base import Consumer, Exported, Exporter, Verification, exporter
from steerkit.interchange.shifts import constant_shifts, refusal_of_condition
from steerkit.interventions.base import Intervention
from steerkit.interventions.steering import Steering

if TYPE_CHECKING:
    from steerkit.interventions.operations import Constants
    from steerkit.models import LanguageModel


@exporter("lm-eval")
class LmEval(Exporter):
    """A `.pt` file for lm-eval's `steered` model: a constant to add, or a component to set, a block."""

    consumer = "lm-eval's steered model"
    next = "use it: lm_eval --model steered --model_args pretrained={model},steer_path={out} --tasks TASK"
    needs_model = True

    def supports(self, intervention: Intervention) -> str | None:
        """A constant shift, or an operation that sets the component along the vector."""
        reason = refusal_of_condition(intervention, self.consumer)
        if reason or not isinstance(intervention, Steering) or intervention.acts_by.is_constant_shift:
            return reason
        for layer in intervention.layers:
            constants = _constants(intervention, layer)
            if intervention.acts_by.has_own_arithmetic:
                return f"operation={intervention.operation}: {self.consumer} knows add and clamp only"
            if not constants.unit.any():
                return f"layer={layer}: the vector is zero there and has no direction to clamp along"
            if constants.gain not in (-1, 0):
                return f"strength={intervention.strength:g}: {self.consumer} clamps fully; write strength=1"
        return None

    def check(self, interventions: Sequence[Intervention], out: Path) -> None:
        """Refuse two on one layer unless both add, and a file that lm-eval would not take."""
        super().check(interventions, out)
        if out.suffix not in (".pt", ".pth"):
            raise MisuseError(f"{out}: lm-eval takes a .pt file for a steering; name it NAME.pt")
        acting = [each for each in interventions if isinstance(each, Steering) and each.acts]
        for layer in {layer for steering in acting for layer in steering.layers}:
            here = [steering for steering in acting if layer in steering.layers]
            if len(here) > 1 and not all(steering.acts_by.is_constant_shift for steering in here):
                raise MisuseError(
                    f"layer={layer} is steered by {' and '.join(repr(str(each)) for each in here)}: {self.consumer} "
                    "does one thing a layer, unless all of them add"
                )

    def write(self, interventions: Sequence[Steering], out: Path, lm: LanguageModel | None = None) -> None:
        """Write what is done at each block, named as in the base of the model."""
        import torch

        assert lm is not None
        entries = {}
        for layer in sorted({layer for steering in interventions for layer in steering.layers}):
            here = [steering for steering in interventions if layer in steering.layers]
            entries[_hookpoint(lm, layer)] = self._entry(here, layer)
        with replacing(out, "the steering for lm-eval") as scratch:
            buffer = io.BytesIO()  # torch turns a full disk into an error of its own kind
            torch.save(entries, buffer)
            scratch.write_bytes(buffer.getvalue())

    def _entry(self, steerings: Sequence[Steering], layer: int) -> dict[str, Any]:
        """What is done at one layer."""
        if steerings[0].acts_by.is_constant_shift:
            action, vector, coefficient = "add", constant_shifts(steerings, self.consumer)[layer], 1.0
        else:
            constants = _constants(steerings[0], layer)
            action, vector = "clamp", steerings[0].vector.direction[layer]
            coefficient = float(constants.shift @ constants.unit)
        done = {"action": action, "steering_vector": vector.clone(), "steering_coefficient": coefficient}
        return done | {"bias": None, "head_index": None}

    def prepared(self, consumer: Consumer, model: str, progress: Callable[[str], None]) -> Consumer:
        """Find the Python that has lm-eval."""
        from steerkit.interchange.verification.consumers import LM_EVAL

        del model, progress
        return Consumer(LM_EVAL.check(consumer.python))

    def verify(self, exported: Exported) -> Verification:
        """Score texts with lm-eval's `steered` model, and with ours: one row each, log-likelihoods in nats."""
        import torch

        from steerkit.interchange.verification import compare
        from steerkit.interchange.verification.consumers import LM_EVAL

        lm = exported.lm
        pairs = zip(compare.QUESTIONS, compare.ANSWERS, strict=True)
        texts = [lm.renderer.encode_pair(question, answer) for question, answer in pairs]
        answer = LM_EVAL.ask(
            exported.consumer.python,
            {
                "pretrained": lm.hf.name_or_path,
                "steer_path": str(exported.path),
                "dtype": str(lm.dtype).removeprefix("torch."),
                "device": str(lm.device),
                "pairs": [[text.ids[: text.prompt_length], text.ids[text.prompt_length :]] for text in texts],
            },
        )
        ours = compare.Ours(lm, exported.allow_mismatch)
        steered, plain = (ours.log_likelihoods(by) for by in (exported.interventions, ()))
        rows = [
            {"theirs": theirs, "ours": mine, "unsteered": bare, "difference": abs(theirs - mine)}
            for theirs, mine, bare in zip(answer["log_likelihoods"], steered, plain, strict=True)
        ]
        # A sum over about ten tokens.
        bound = 10 * compare.EQUAL if lm.dtype == torch.float32 else 0.1
        passed = all(row["difference"] <= bound for row in rows)
        criterion = f"log-likelihoods equal to {bound:g} nats"
        return Verification(answer["version"], criterion, tuple(rows), passed)


def _constants(steering: Steering, layer: int) -> Constants:
    return steering.acts_by.constants(steering.vector.direction[layer], steering.strength, steering.target)


def _hookpoint(lm: LanguageModel, layer: int) -> str:
    """The block's name in the model's base, which is where lm-eval looks for it."""
    names = (name for name, module in lm.hf.base_model.named_modules() if module is lm.blocks[layer])
    return str(next(names))
