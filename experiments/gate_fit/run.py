"""What 200 of one's own labelled questions give: `gate fit` against the published gate, and other detectors.

    python experiments/gate_fit/run.py gates --data DIR --cache DIR       # from states that are captured once
    python experiments/gate_fit/run.py detectors --data DIR --cache DIR   # lets the model answer

DIR of `--data` holds `selfaware/SelfAware.json` and `umwp/StandardDataset.jsonl`. Gates are fitted on questions of the
splits fit and choose, and measured on report. Each part writes a file of results anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sets import MODEL, SETS, Questions, read

import steerkit as sk
from steerkit.extraction.detection import Draws, measured
from steerkit.extraction.gate_compare import at_most, compare_gates
from steerkit.extraction.gate_fit import FittedGate, GateBound, fit_on_states
from steerkit.extraction.gate_kinds import kinds_of
from steerkit.extraction.held_out import fit_words
from steerkit.extraction.pairs import Example
from steerkit.extraction.probe_fit import FittedLayers, fit_layers
from steerkit.interventions.base import log_odds_of
from steerkit.interventions.probe_report import Measured

HERE = Path(__file__).parent
PUBLISHED = "abstain-smollm2-135m-instruct"
QUESTIONS = 200
SAMPLES = 3  # of 200 questions each, of the two large sets
BUDGET = 0.05
BOUND = GateBound(0.1, 0.95)
ANSWERED = 40  # questions of a set that the model answers for the detectors

Scores = NDArray[np.float64]


def main() -> None:
    """Run a part of the study and write its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("gates", "detectors"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    questions = {name: read(name, options.data, options.cache) for name in SETS}
    part: Callable[[dict[str, Questions]], Iterator[str]] = gates if options.part == "gates" else detectors
    name = "results.md" if options.part == "gates" else "detectors.md"
    with (HERE / name).open("w", encoding="utf-8") as file:
        for line in part(questions):
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()


def gates(questions: dict[str, Questions]) -> Iterator[str]:
    """The tables that need no model."""
    yield f"Model: {MODEL}, bfloat16. [ ]: 95%, bootstrap over groups of the questions of `report` (twins together).\n"
    samples = {
        (name, sample): _sample(questions[name], sample)
        for name in SETS
        for sample in range(1 if name == "ours" else SAMPLES)
    }
    fitted: dict[tuple[str, int], FittedGate] = {}
    yield "## Against the published gate, on `report`\n"
    yield "Opens: share of the questions to abstain from / of the others for which the gate opens at its threshold.\n"
    yield from header(
        "set", "sample", "questions", "layer", "AUROC cross-fitted", "AUROC", "published gate", "change",
        "words alone", "opens", "published opens",
    )  # fmt: skip
    for (name, sample), mine in samples.items():
        fitted[name, sample] = fit_on_states(
            mine.states, [_plain(e) for e in mine.data.examples], budget=BUDGET
        )
        yield _against(name, sample, mine, fitted[name, sample], _report(questions[name]))
    yield ""
    yield from across(questions, samples, fitted)
    yield from forecasts(questions, fitted)
    yield from kinds(questions, samples, fitted)
    yield from bounds(questions, samples)


def across(
    questions: dict[str, Questions],
    samples: dict[tuple[str, int], Questions],
    fitted: dict[tuple[str, int], FittedGate],
) -> Iterator[str]:
    """Fitted on one set, tested on `report` of each."""
    yield "## Within and across sets: AUROC of the probe (words alone), on `report`\n"
    yield from header("fitted on", *SETS)
    for name in SETS:
        words = fit_words(samples[name, 0].data.examples)
        cells = []
        for other in SETS:
            test = _report(questions[other])
            draws = Draws.of(test.data.examples)
            by_words = draws.measured(words(test.data.examples))
            cells.append(f"{draws.measured(log_odds(fitted[name, 0].layers, test))} ({by_words})")
        yield row(name, *cells)
    test_sets = [_report(questions[name]) for name in SETS]
    probe = _published()
    cells = [str(Draws.of(t.data.examples).measured(_published_scores(t))) for t in test_sets]
    yield row(f"published ({probe.metadata.data_count} of ours)", *cells)
    yield ""


def forecasts(questions: dict[str, Questions], fitted: dict[tuple[str, int], FittedGate]) -> Iterator[str]:
    """Does the learning curve of 200 questions say what 400 reach?"""
    yield "## The learning curve of 200 questions, read at 400, and what 400 reach on `report`\n"
    yield from header("set", "sample", "expected at 400", "expected gain", "at 200", "at 400", "gain")
    for (name, sample), gate in fitted.items():
        if name == "ours":
            continue
        test = _report(questions[name])
        twice = _sample(questions[name], sample, 2 * QUESTIONS)
        more = fit_layers(twice.states, twice.data.examples)
        draws = Draws.of(test.data.examples)
        before, after = (draws.auroc(log_odds(each, test)) for each in (gate.layers, more))
        gain = measured(after[0] - before[0], after[1] - before[1])
        assert gate.report.gain is not None
        yield row(
            name, sample, gate.report.expected[-1].auroc, signed(gate.report.gain), measured(*before),
            measured(*after), signed(gain),
        )  # fmt: skip
    yield ""


def kinds(
    questions: dict[str, Questions],
    samples: dict[tuple[str, int], Questions],
    fitted: dict[tuple[str, int], FittedGate],
) -> Iterator[str]:
    """How often a gate that knows kinds opens on those where it is a coin."""
    yield "## Shut where it is a coin: how often the gate opens on `report`, by kind\n"
    yield "Of the questions to abstain from / of the others; beside it the same probe without knowing kinds.\n"
    yield from header("set", "kind", "questions that fit", "AUROC that decided", "gate", "AUROC on report",
                      "opens", "without kinds")  # fmt: skip
    for name in ("ours", "UMWP"):
        mine, test = samples[name, 0], _report(questions[name])
        gate = fit_on_states(mine.states, mine.data.examples, budget=BUDGET)
        opened, without = opens(gate, test), opens(fitted[name, 0], test)
        of_kind, labels = kinds_of(test.data.examples), _labels(test)
        draws, scores = Draws.of(test.data.examples), log_odds(gate.layers, test)
        for each in gate.report.kinds:
            there = of_kind == each.kind
            yield row(
                name, each.kind, each.positive + each.negative, each.auroc or "–", "shut" if each.shut else "open",
                draws.measured(scores, np.where(there, 0, -1)),
                *(_two(draws, fired, there, labels) for fired in (opened, without)),
            )  # fmt: skip
        shut = np.isin(of_kind, [each.kind for each in gate.report.kinds if each.shut])
        for what, there in (("all shut kinds", shut), ("all open kinds", ~shut)):
            if there.any():
                yield row(name, what, "", "", "", "", *(
                    _two(draws, fired, there, labels) for fired in (opened, without)
                ))  # fmt: skip
    yield ""


def bounds(questions: dict[str, Questions], samples: dict[tuple[str, int], Questions]) -> Iterator[str]:
    """What the bound costs, and whether it is kept on `report`."""
    yield f"## The bound: over-abstention at most {BOUND.limit:.0%} with {BOUND.confidence:.0%} confidence\n"
    yield "Half of the questions fit, half set the threshold. Opens: as above, on `report`.\n"
    yield from header("set", "sample", "held-out groups that lost", "AUROC", "opens")
    for (name, sample), mine in samples.items():
        test = _report(questions[name])
        gate = fit_on_states(mine.states, [_plain(e) for e in mine.data.examples], bound=BOUND)
        assert gate.threshold.bound is not None
        lost = f"{gate.threshold.bound.losses} of {gate.threshold.bound.groups}"
        draws, everything = Draws.of(test.data.examples), np.ones(len(test.data), bool)
        yield row(
            name, sample, lost, draws.measured(log_odds(gate.layers, test)),
            _two(draws, opens(gate, test), everything, _labels(test)),
        )  # fmt: skip
    yield ""


def detectors(questions: dict[str, Questions]) -> Iterator[str]:
    """Detectors that let the model answer, on some questions of `report`, beside the published probe."""
    lm = sk.load_model(MODEL, dtype="bfloat16")
    sets = [at_most(_report(questions[name]).data, ANSWERED) for name in SETS]
    yield f"Model: {MODEL}, bfloat16; at most {ANSWERED} questions of each set's `report`.\n"
    yield from header("detector", "tested on", "AUROC", "recall at 5%", "at 10%", "ECE", "passes a prompt")
    probe = _published()
    names = ("entropy", "log-probability", "semantic-entropy", probe)
    for each in compare_gates(lm, sets, names):
        if each.fitted_on is None:
            yield row(
                each.detector, each.tested_on, each.auroc, each.recall_5, each.recall_10, f"{each.ece:.2f}",
                f"{each.passes:.0f}",
            )  # fmt: skip


def log_odds(layers: FittedLayers, test: Questions) -> Scores:
    """What a probe reads at its best layer, `[n]`."""
    at = layers.best_layer
    states = torch.from_numpy(test.states[:, at])
    found: Scores = (states @ layers.weight[at] + layers.bias[at]).double().numpy()
    return found


def opens(gate: FittedGate, test: Questions) -> NDArray[np.bool_]:
    """For which questions the gate opens, `[n]`."""
    fired = log_odds(gate.layers, test) >= log_odds_of(gate.threshold.threshold)
    if gate.shut is None:
        return fired
    states = torch.from_numpy(test.states[:, gate.layers.best_layer])
    found: NDArray[np.bool_] = fired & ~gate.shut.reading.of(states).numpy()
    return found


def _against(name: str, sample: int, mine: Questions, gate: FittedGate, test: Questions) -> str:
    draws, labels = Draws.of(test.data.examples), _labels(test)
    published = _published_scores(test)
    ours, theirs = draws.auroc(log_odds(gate.layers, test)), draws.auroc(published)
    words = draws.measured(fit_words(mine.data.examples)(test.data.examples))
    everything = np.ones(len(labels), bool)
    fired = published >= log_odds_of(_published_threshold())
    return row(
        name, sample, len(mine.data), gate.layers.best_layer, gate.report.auroc, measured(*ours), measured(*theirs),
        signed(measured(ours[0] - theirs[0], ours[1] - theirs[1])), words,
        _two(draws, opens(gate, test), everything, labels), _two(draws, fired, everything, labels),
    )  # fmt: skip


def _sample(questions: Questions, sample: int, n: int = QUESTIONS) -> Questions:
    """`n` random questions of fit and choose, whole groups; of our own suite all of them."""
    mine = questions.rows(questions.splits != "report")
    if mine.data.name == "ours":
        return mine
    groups = np.array([each.group for each in mine.data])
    order = np.random.default_rng(sample).permutation(np.unique(groups))
    sizes = np.cumsum([(groups == group).sum() for group in order])
    return mine.rows(np.isin(groups, order[sizes <= n]))


def _report(questions: Questions) -> Questions:
    return questions.rows(questions.splits == "report")


def _published() -> sk.Probe:
    probe = sk.load_vector(PUBLISHED).probe
    assert probe is not None
    return probe


def _published_threshold() -> float:
    """The one that the published vector recommends."""
    return float(sk.load_vector(PUBLISHED).metadata.recommended[0]["gate"]["threshold"])


def _published_scores(test: Questions) -> Scores:
    probe = _published()
    layer = probe.metadata.layer
    return probe.logit(layer, torch.from_numpy(test.states[:, layer])).double().numpy()


def _plain(example: Example) -> Example:
    """The example without its kind."""
    return replace(example, kind="")


def _labels(test: Questions) -> NDArray[np.bool_]:
    return np.array([example.positive for example in test.data.examples])


def _two(draws: Draws, fired: NDArray[np.bool_], there: NDArray[np.bool_], labels: NDArray[np.bool_]) -> str:
    return " / ".join(str(draws.share(fired, there & of)) for of in (labels, ~labels) if (there & of).any())


def signed(value: Measured) -> str:
    """A change with its interval."""
    return f"{value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def header(*columns: str) -> Iterator[str]:
    """The first two lines of a Markdown table."""
    yield row(*columns)
    yield "|---" * len(columns) + "|"


def row(*cells: object) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
