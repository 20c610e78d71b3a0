"""What a fitted gate says of itself, in its probe's metadata: how well it reads, on which kinds, what more would help.

Nothing here decides what the gate does; `steerkit.interventions.probe.ShutReading` and the threshold do.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

STRICT = ConfigDict(frozen=True, extra="forbid")


class Measured(BaseModel):
    """A number with its 95% interval, by a bootstrap over groups of questions."""

    model_config = STRICT

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class ThresholdBound(BaseModel):
    """What holds of a threshold: the share of groups with a false alarm is at most `limit`, at `confidence`.

    `losses` of `groups` held-out groups of negative questions had one. `metric` is what the bound was asked for.
    """

    model_config = STRICT

    metric: str
    limit: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    losses: int = Field(ge=0)
    groups: int = Field(ge=1)

    def __str__(self) -> str:
        return f"{self.metric}<={self.limit:g}@{100 * self.confidence:.10g}%"


class KindReport(BaseModel):
    """How the probe reads one kind of question: cross-fitted AUROC within the kind, and whether the gate is kept shut.

    None where the kind has questions of one label alone. `opens` are the shares of positive and negative questions of
    the kind for which the gate opens, cross-fitted too; None where there are none.
    """

    model_config = STRICT

    kind: str
    positive: int = Field(ge=0)
    negative: int = Field(ge=0)
    auroc: Measured | None
    shut: bool
    opens: tuple[float | None, float | None]


class CurvePoint(BaseModel):
    """AUROC on held-out questions of a probe fitted on so many, and of words alone (TF-IDF) on the same."""

    model_config = STRICT

    questions: int = Field(ge=1)
    auroc: Measured
    words: Measured | None = None


class GateReport(BaseModel):
    """What `gate fit` measured, all of it on questions that took no part in what is measured of them.

    `auroc`, `words` (TF-IDF) and `recall` (share of the positive questions for which the gate opens at its threshold)
    are those of the recipe: layer, regularisation and calibration are chosen again within the questions that fit.
    `curve` holds the learning curve at the gate's layer, `expected` what it leads to at so many questions, and `gain`
    how much of that the last of `expected` adds to the questions at hand. `held_out` says that threshold and recall
    are of a held-out part, and not cross-fitted. `coin` is the AUROC that the lower end of a kind's interval must
    exceed for the gate to open there.
    """

    model_config = STRICT

    questions: int
    groups: int
    positive: int
    auroc: Measured
    words: Measured | None
    recall: Measured
    held_out: bool
    coin: float
    kinds: tuple[KindReport, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    expected: tuple[CurvePoint, ...] = ()
    gain: Measured | None = None
