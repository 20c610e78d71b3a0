"""Does a bound on over-abstention hold, what does it cost in recall, and does the alarm notice other questions?

    python -m experiments.guarantee.run --data DIR --cache DIR

DIR of `--data` holds `selfaware/SelfAware.json` and `umwp/StandardDataset.jsonl`; `--cache` keeps captured states. What
is done stands in config.toml; results.md is written anew.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import steerkit as sk
from experiments.guarantee.states import Questions, read
from steerkit.core.learn_then_test import certified_cut, most_losses, smallest_n
from steerkit.core.two_sample import DRIFT_LEVEL, Projection, drift_p_value, projection_of
from steerkit.extraction.held_out import auroc
from steerkit.extraction.probe_fit import cut_within, fit_layers
from steerkit.interventions.vector import published_vectors

HERE = Path(__file__).parent
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Detector:
    """A linear reading of one layer's state: log-odds that a question should be abstained from."""

    name: str
    layer: int
    weight: Floats
    bias: float

    def __call__(self, questions: Questions) -> Floats:
        """Log-odds `[n]`."""
        return questions.states[:, self.layer] @ self.weight + self.bias


@dataclass(frozen=True)
class Population:
    """Groups with an answerable question, by their highest answerable score, and the unanswerable ones' scores."""

    highest: Floats
    unanswerable: Floats


@dataclass(frozen=True)
class Sample:
    """Questions to draw from, a group at a time: `rows[group]` are the features of its questions."""

    names: NDArray[np.str_]
    rows: dict[str, Floats]

    @classmethod
    def of(cls, questions: Questions, features: Projection, layer: int) -> Sample:
        """The features of the questions' states at a layer."""
        values = features(questions.states[:, layer])
        groups = np.array([example.group for example in questions.examples])
        names = np.unique(groups)
        return cls(names, {str(name): values[groups == name] for name in names})

    def one_each(self, names: NDArray[np.str_], rng: np.random.Generator) -> Floats:
        """One question of each of these groups `[n, n_features]`: twins are no two draws."""
        return np.stack([rng.choice(self.rows[str(name)]) for name in names])


def main() -> None:
    """Run the study and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    parser.add_argument("--out", type=Path, default=HERE / "results.md")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = tomllib.loads(options.config.read_text(encoding="utf-8"))
    names = (*config["sets"], *config["other_sets"])
    where = options.data, options.cache, config["model"], config["dtype"]
    sets = {name: read(name, *where, config["limits"].get(name)) for name in names}
    with options.out.open("w", encoding="utf-8") as file:
        for line in report(config, sets):
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()


def report(config: dict[str, Any], sets: dict[str, Questions]) -> Iterator[str]:
    """The lines of results.md."""
    yield f"Model: {config['model']}, {config['dtype']}. Written by run.py from config.toml.\n"
    yield from smallest(config["bound"])
    detectors = {name: (published(), fitted(sets[name])) for name in config["sets"]}
    yield from bounds(config, sets, detectors)
    yield from alarms(config, sets, detectors)


def published() -> Detector:
    """The probe that is published with the package, fitted on the split `fit` of our own suite."""
    probe = sk.load_probe(published_vectors()["abstain-smollm2-135m-instruct"])
    layer = probe.metadata.layer
    return Detector("published", layer, probe.weight[layer].double().numpy(), float(probe.bias[layer]))


def fitted(questions: Questions) -> Detector:
    """A probe of the set's own: the layer that cross-fits best on the set's split `fit`."""
    own = questions.where(questions.on_fit())
    layers = fit_layers(own.states, own.examples)
    best = layers.best_layer
    return Detector("fitted within", best, layers.weight[best].double().numpy(), float(layers.bias[best]))


def smallest(bound: dict[str, Any]) -> Iterator[str]:
    """How many groups a bound takes, whatever the detector."""
    n, confidence = bound["groups"], bound["confidence"]
    yield f"## What a bound takes, at {confidence:.0%} confidence\n"
    yield from header(
        "over-abstention at most", "least groups, none lost", f"losses allowed of {n}", "as a share"
    )
    for limit in bound["limits"]:
        most = most_losses(n, limit, confidence)
        yield row(f"{limit:.0%}", smallest_n(limit, confidence), most, f"{most / n:.1%}")
    yield ""


def bounds(
    config: dict[str, Any], sets: dict[str, Questions], detectors: dict[str, tuple[Detector, ...]]
) -> Iterator[str]:
    """Broken how often, and at which recall, beside the plain threshold of the same budget."""
    bound = config["bound"]
    n, draws, confidence = bound["groups"], bound["draws"], bound["confidence"]
    yield f"## The bound, {draws} draws of {n} groups\n"
    yield (
        "Broken: the share of draws whose threshold fires for more answerable groups than the limit. *Drawn*: groups "
        "with replacement, judged on all groups of the set, which they are drawn from: what the bound speaks of. "
        "*Split*: without replacement, judged on all groups. *Rest*: the same splits, judged on the groups that did "
        "not choose, whose own sampling noise counts against the bound. 95% Monte Carlo error of 5%: "
        f"±{error(0.05, draws):.1%}.\n"
    )
    yield from header(
        "set", "detector", "AUROC", "limit", "broken: drawn", "split", "rest", "plain: drawn",
        "over-abstention", "plain", "recall", "plain", "recall given up",
    )  # fmt: skip
    for name in config["sets"]:
        held_out = sets[name].where(~sets[name].on_fit())
        for detector in detectors[name]:
            scores = detector(held_out)
            whole = population(held_out, scores)
            area = auroc(scores, held_out.positive)
            for limit in bound["limits"]:
                rng = np.random.default_rng(config["seed"])
                found = simulate(whole, n, limit, confidence, draws, rng)
                yield row(
                    f"{name} ({len(whole.highest)} groups)",
                    detector.name,
                    f"{area:.2f}",
                    f"{limit:.0%}",
                    *found,
                )
    yield ""


def population(questions: Questions, scores: Floats) -> Population:
    """The groups and scores of a set; a group fires where any of its answerable questions does."""
    negative = ~questions.positive
    names, place = np.unique(questions.groups[negative], return_inverse=True)
    highest = np.full(len(names), -np.inf)
    np.maximum.at(highest, place, scores[negative])
    return Population(highest, scores[questions.positive])


def simulate(
    whole: Population, n: int, limit: float, confidence: float, draws: int, rng: np.random.Generator
) -> Iterator[str]:
    """The columns of one row of the table: a draw gives a certified and a plain threshold."""
    size, everything, ones = len(whole.highest), whole.highest, np.ones(n, bool)
    risks: dict[str, list[float]] = {"drawn": [], "split": [], "rest": [], "plain": []}
    recalls: dict[str, list[float]] = {"drawn": [], "plain": []}
    for _ in range(draws):
        drawn = everything[rng.integers(size, size=n)]
        cut = certified_cut(drawn, ones, np.arange(n), limit, confidence).value
        plain = cut_within(drawn, ~ones, limit)
        order = rng.permutation(size)
        split = certified_cut(everything[order[:n]], ones, np.arange(n), limit, confidence).value
        for which, value, judged in (
            ("drawn", cut, everything), ("plain", plain, everything),
            ("split", split, everything), ("rest", split, everything[order[n:]]),
        ):  # fmt: skip
            risks[which].append(float((judged >= value).mean()))
        for which, value in (("drawn", cut), ("plain", plain)):
            recalls[which].append(float((whole.unanswerable >= value).mean()))
    broken = {which: np.mean(np.array(found) > limit) for which, found in risks.items()}
    yield from (f"{broken[which]:.1%}" for which in ("drawn", "split", "rest", "plain"))
    yield from (f"{np.mean(risks[which]):.3f}" for which in ("drawn", "plain"))
    bound, plain = np.mean(recalls["drawn"]), np.mean(recalls["plain"])
    yield from (f"{bound:.3f}", f"{plain:.3f}", f"{plain - bound:.3f}")


def alarms(
    config: dict[str, Any], sets: dict[str, Questions], detectors: dict[str, tuple[Detector, ...]]
) -> Iterator[str]:
    """How often the drift alarm is raised by questions of the same kind and of others."""
    drift = config["drift"]
    yield f"## The drift alarm, {drift['draws']} draws, {drift['reference']} reference questions\n"
    yield (
        f"Share of draws with p ≤ {DRIFT_LEVEL:g}, by the number of new questions. The features are those of the probe "
        "fitted within the reference's set. 95% Monte Carlo error of "
        f"1%: ±{error(0.01, drift['draws']):.1%}.\n"
    )
    yield from header("reference", "new questions", "kind", *(f"{m} new" for m in drift["new"]))
    for name in config["sets"]:
        own, detector = sets[name], detectors[name][-1]
        layer = detector.layer
        features = projection_of(own.where(own.on_fit()).states[:, layer], detector.weight)
        held_out = own.where(~own.on_fit())
        asked = [(held_out, name, "same")]
        asked += [(questions, other, "other") for other, questions in sets.items() if other != name]
        asked += [(held_out.where(~held_out.positive), f"{name}, answerable alone", "same, one side")]
        asked += [(held_out.where(held_out.positive), f"{name}, unanswerable alone", "same, one side")]
        for new, title, kind in asked:
            rates = alarm_rates(config, Sample.of(held_out, features, layer), Sample.of(new, features, layer))
            yield row(name, title, kind, *(f"{rate:.1%}" for rate in rates))
    yield ""


def alarm_rates(config: dict[str, Any], known: Sample, asked: Sample) -> Iterator[float]:
    """The share of draws that raise the alarm, for each number of new questions; no group is in both samples."""
    drift = config["drift"]
    for size in drift["new"]:
        rng = np.random.default_rng(config["seed"])
        raised = 0
        for draw in range(drift["draws"]):
            reference = rng.permutation(known.names)[: drift["reference"]]
            new = rng.permutation(np.setdiff1d(asked.names, reference))[:size]
            p_value = drift_p_value(known.one_each(reference, rng), asked.one_each(new, rng), seed=draw)
            raised += p_value <= DRIFT_LEVEL
        yield raised / drift["draws"]


def error(share: float, draws: int) -> float:
    """Half the width of the 95% interval of a share that is counted in so many draws."""
    return float(1.96 * np.sqrt(share * (1 - share) / draws))


def header(*columns: str) -> Iterator[str]:
    """The first two lines of a Markdown table."""
    yield row(*columns)
    yield "|---" * len(columns) + "|"


def row(*cells: object) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
