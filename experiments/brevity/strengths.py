"""Strengths that meet a KL, each measured once and kept in a file.

KL(unsteered ‖ steered) in nats per token, teacher-forced on unsteered roll-outs of problems of `fit`; beside it the
strength that Activation-Steered Compression's closed form (arXiv 2507.04742) gives for its own bound.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

import steerkit as sk
from experiments.closed_forms.derivatives import States
from experiments.closed_forms.forms import published_strength
from experiments.closed_forms.run import forms_at, unsteered
from steerkit.core.files import replacing
from steerkit.core.prompts import Prompt
from steerkit.interventions.readers import as_readers
from steerkit.interventions.steering import Scope
from steerkit.interventions.vector import CalibrationRecord

TOKENS = 64  # of each roll-out
PUBLISHED_KL = 1e-3  # the bound that the closed form is published with


class Strength(BaseModel):
    """A calibrated strength of a vector (by name and digest), negative where the vector is taken away.

    `published` is the closed form at `PUBLISHED_KL` and `fisher` the Fisher form at the record's target; None where
    there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vector: str
    digest: str
    record: CalibrationRecord
    published: float | None
    fisher: float | None


_file = TypeAdapter(list[Strength])


def read_strengths(path: Path) -> list[Strength]:
    """What a study's file holds."""
    return _file.validate_json(path.read_bytes())


def confidence_ramp(lm: sk.LanguageModel, path: Path, prompts: Sequence[Prompt]) -> sk.StrengthRamp:
    """From the whole strength taken away where a line begins unsure to all of it where it begins sure.

    In the manner of ReBalance (arXiv 2603.12372). Its ends are fitted once to the model's own chains, and kept.
    """
    if not path.is_file():
        ramp = sk.fit_ramp(lm, prompts, "log-probability", renewed="lines")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "the ramp") as scratch:
            scratch.write_text(json.dumps({"low": ramp.low, "high": ramp.high}) + "\n", encoding="utf-8")
    ends = json.loads(path.read_text(encoding="utf-8"))
    (reader,) = as_readers("log-probability")
    return sk.StrengthRamp(reader, ends["low"], ends["high"], least=-1.0, renewed="lines")


class Strengths:
    """The calibrated strengths of a study's vectors, in the file at `path`; what is not there is measured."""

    def __init__(self, lm: sk.LanguageModel, path: Path, prompts: Sequence[Prompt]) -> None:
        self._lm, self._path, self._prompts = lm, path, prompts
        self.known = read_strengths(path) if path.is_file() else []

    @functools.cached_property
    def _states(self) -> States:
        """Where the closed forms read the model: the roll-outs on which it is calibrated."""
        return States(self._lm, unsteered(self._lm, self._prompts, TOKENS))

    def at(
        self,
        vector: sk.SteeringVector,
        layer: int,
        target_kl: float,
        scope: Scope = "completion",
        sign: int = 1,
    ) -> Strength:
        """The strength at which the vector's KL is `target_kl`; `sign` -1: the one that takes the vector away.

        Raises MisuseError where no strength meets it.
        """
        for known in self.known:
            same = known.digest == vector.digest and known.record.target_kl == target_kl
            if (
                same
                and (known.record.layer, known.record.scope) == (layer, scope)
                and known.record.strength * sign > 0
            ):
                return known
        steering = vector.at(layer, sign, scope=scope)
        found = sk.calibrate(
            self._lm, steering, kl=target_kl, prompts=self._prompts, tokens=TOKENS, allow_mismatch=True
        )
        found.at(layer)  # says why, where there is no strength
        (record,) = found.records()
        published = fisher = None
        if scope != "prompt":  # which does not steer the position whose output is read
            forms = forms_at(self._states, vector, layer, target_kl)
            published = published_strength(forms.slope, forms.curvature, PUBLISHED_KL)
            fisher = forms.fisher
        new = Strength(
            vector=vector.name, digest=vector.digest, record=record, published=published, fisher=fisher
        )
        self.known.append(new)
        with replacing(self._path, "the strengths") as scratch:
            scratch.write_bytes(_file.dump_json(self.known, indent=1))
        return new
