"""The ways: what decides that a row is abstained from, what is done then, and the thresholds from which it is done.

All thresholds stand for one thing, the share of the answerable rows of `choose` on which a way ever acts. Until it acts
a row is the unsteered model's, so it is known beforehand on which rows it does (`Acting.fires`); only those are run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import steerkit as sk
from experiments.reasoning_tax import learned
from steerkit.extraction.probe_fit import cut_within
from steerkit.interventions.presets import presets
from steerkit.interventions.steering import Scope

LAYER = 14  # that is steered
SMOOTHING = 16.0  # readings in a policy's running mean
FALSE_ALARMS = (0.02, 0.05, 0.1, 0.2)  # shares of the answerable rows on which a way acts
GATE, PROMPTS, WRITTEN = "before it writes", "while, probe of prompts", "while, probe of what it writes"
DETECTORS = (GATE, PROMPTS, WRITTEN)
UNSTEERED, SYSTEM = ("unsteered", ""), ("system prompt", "")
TOLD = sk.Cell((presets()["dont-know-system"],))

Way = tuple[str, str]  # what is done, and what decides
Score = tuple[str, str]  # a detector, and its `single` readings or their running `mean`
Scores = Mapping[Score, float]  # the highest of each in one unsteered row


@dataclass(frozen=True)
class Subject:
    """A model that is asked: how long it may write, and what steers it at which strength and scope."""

    model: str
    tokens: int
    strength: float
    scope: Scope
    acts: tuple[str, ...]
    vector: Callable[[sk.LanguageModel], sk.SteeringVector]


def contrast(lm: sk.LanguageModel) -> sk.SteeringVector:
    """The contrast of the built-in pairs."""
    return sk.extract(lm, sk.load_pairs("abstention"))


def behind_chains(lm: sk.LanguageModel) -> sk.SteeringVector:
    """Learned where the reasoner's own answers begin: means of states do not move it (experiments/reasoning_tax)."""
    return learned.for_answers(lm, sk.load_pairs("abstention"), (LAYER,))


REASONING = ("steer", "stop", "reply", "reply, steer")
SUBJECTS = {
    "instruct": Subject("smollm2-135m-instruct", 96, 2.0, "completion", ("steer", "stop"), contrast),
    "reasoner": Subject("smollm2-135m-reasoner-2", 256, 1.0, "answer", REASONING, behind_chains),
}


@dataclass(frozen=True)
class Acting:
    """A cell, and the thresholds from any of which it does something to a row.

    `runs` is the cell that is run for it: behind a gate what is done is the same at every threshold, and done once.
    """

    cell: sk.Cell
    cuts: tuple[tuple[Score, float], ...]
    runs: sk.Cell

    def fires(self, scores: Scores) -> bool:
        """Whether it acts on the row with these scores."""
        return any(scores[score] >= cut for score, cut in self.cuts)


def scores_of(prompts: Sequence[float], written: Sequence[float]) -> Scores:
    """The scores of a row, from what the two probes read from the prompt's last token on."""
    return {
        (GATE, "single"): prompts[0],
        (PROMPTS, "single"): max(prompts),
        (PROMPTS, "mean"): highest_mean(prompts),
        (WRITTEN, "single"): max(written),
        (WRITTEN, "mean"): highest_mean(written),
    }


def highest_mean(readings: Sequence[float]) -> float:
    """The highest running mean that a policy's trigger sees (`steerkit.interventions.policies`)."""
    mean, highest = 0.0, 0.0
    for seen, reading in enumerate(readings, start=1):
        mean += (reading - mean) / min(seen, SMOOTHING)
        if seen >= SMOOTHING:
            highest = max(highest, mean)
    return highest


def cuts_of(rows: Sequence[Scores], labels: Sequence[bool]) -> dict[Score, tuple[float, ...]]:
    """The thresholds of each score that the shares FALSE_ALARMS of the answerable rows reach."""

    def at(score: Score) -> Iterator[float]:
        values = np.array([row[score] for row in rows])
        for share in FALSE_ALARMS:
            yield cut_within(values, np.array(labels), share)

    return {score: tuple(at(score)) for score in rows[0]}


def ways(
    subject: Subject,
    vector: sk.SteeringVector,
    readers: Mapping[str, sk.ProbeReader],
    cuts: Mapping[Score, Sequence[float]],
) -> dict[Way, list[Acting]]:
    """What each way does, in the order of FALSE_ALARMS."""
    at = [{score: each[place] for score, each in cuts.items()} for place in range(len(FALSE_ALARMS))]
    found = {}
    for act in subject.acts:
        for detector in DETECTORS:
            several = [acting(subject, vector, act, detector, readers[detector], each) for each in at]
            most = several[-1].cell if detector == GATE else None
            found[act, detector] = [replace(each, runs=most or each.cell) for each in several]
    return found


def acting(
    subject: Subject,
    vector: sk.SteeringVector,
    act: str,
    detector: str,
    reader: sk.ProbeReader,
    cuts: Mapping[Score, float],
) -> Acting:
    """What a way does at its thresholds: behind a gate at once, else from the token on where its detector fires."""
    single, mean = (detector, "single"), (detector, "single" if detector == GATE else "mean")
    gate = follows = None
    if detector == GATE:
        gate = sk.ProbeGate(reader.probe, reader.layer, min(cuts[single], 1 - 1e-9))
        when = sk.Trigger(reader, 0.0, 0.0)
    else:
        follows = sk.StrengthSwitch(reader, cuts[single], 0.0)  # no reading passes 0: once on it stays
        when = sk.Trigger(reader, cuts[mean], cuts[mean], SMOOTHING)
    steered = vector.at(LAYER, subject.strength, scope=subject.scope, gate=gate, follows=follows)
    stopped, replied = sk.StopAndSay(when=when, gate=gate), sk.ReplyNow(when=when, gate=gate)
    done: dict[str, tuple[tuple[sk.Intervention, ...], tuple[Score, ...]]] = {
        "steer": ((steered,), (single,)),
        "stop": ((stopped,), (mean,)),
        "reply": ((replied,), (mean,)),
        "reply, steer": ((replied, steered), (mean, single)),
    }
    interventions, fire = done[act]
    cell = sk.Cell(interventions)
    return Acting(cell, tuple((score, cuts[score]) for score in fire), cell)
