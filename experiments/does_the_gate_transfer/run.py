"""Does the gate transfer? Probes for "should abstain" within and across data sets, beside words alone.

    python experiments/does_the_gate_transfer/run.py --data DIR --cache DIR [--threads 2] [--dtype bfloat16]

DIR of `--data` holds `selfaware/SelfAware.json` and `umwp/StandardDataset.jsonl`; `--cache` keeps captured
states. Everything is fitted on the split `fit`, the layer by cross-fitting there, thresholds on `choose`, and
measured on `report`. results.md is written anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from states import LAST, READINGS, Labelled, States, union

from steerkit.extraction.held_out import auroc, folds_by_group, words_alone
from steerkit.extraction.probe_fit import FittedLayers, cut_within, fit_layers
from steerkit.suites.brevity_templates import LEVELS

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
SETS = ("ours", "SelfAware", "UMWP", "twins")
UNIONS = (
    ("ours", "UMWP"),
    ("ours", "twins"),
    ("ours", "UMWP", "twins"),
    ("ours", "SelfAware", "UMWP", "twins"),
)
TWINS_IN_UNION = 1000  # so that generated problems do not drown the other sets
BUDGET = 0.05
RESAMPLES = 1000
CURVES = {"ours": (40, 80, 120), "UMWP": (120, 300, 600), "twins": (120, 500, 1000)}  # then all of them
POSITION_ITEMS = 400  # of UMWP's split fit, for the comparison of reading positions
THREE_LAYERS = (7, 15, 22)  # a quarter, a half and three quarters of the way up

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trained:
    """A probe and a bag-of-words classifier, fitted on the same items."""

    fitted: FittedLayers
    words: Callable[[Labelled], Floats]
    train: Labelled

    def scores(self, test: Labelled) -> Floats:
        """Log-odds `[n]` of the best layer."""
        return self.of_layers(test)[:, self.fitted.best_layer]

    def of_layers(self, test: Labelled) -> Floats:
        """Log-odds `[n, n_layers]`."""
        return ((test.states * self.fitted.weight).sum(dim=-1) + self.fitted.bias).double().numpy()


def main() -> None:
    """Run the study and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    states = States(options.data, options.cache, MODEL, options.dtype)
    with (HERE / "results.md").open("w", encoding="utf-8") as file:
        for part in parts(states, options.dtype):
            print(part, flush=True)
            file.write(part + "\n")
            file.flush()


def parts(states: States, dtype: str) -> Iterator[str]:
    """The report's paragraphs and tables, in order."""
    yield f"Model: {MODEL}, {dtype}. Layers count from 0. Intervals: 95%, bootstrap over groups (twins together).\n"
    trained = {(name,): train(states.read(name, "fit")) for name in SETS}
    for names in UNIONS:
        sets = [states.read(name, "fit") for name in names]
        trained[names] = train(
            union(*(s.first(TWINS_IN_UNION) if n == "twins" else s for n, s in zip(names, sets, strict=True)))
        )
    yield from within(trained)
    yield from chosen_on_ours(states, trained)
    yield from across(states, trained)
    yield from carried_over(states, trained)
    yield from learning_curves(states, trained)
    yield from mixtures(states, trained["UMWP",])
    yield from reading_positions(states)


def train(data: Labelled) -> Trained:
    """Fit both classifiers."""
    return Trained(fit_layers(data.states.numpy(), data.examples), bag_of_words(data), data)


def bag_of_words(data: Labelled) -> Callable[[Labelled], Floats]:
    """The classifier of `steerkit.extraction.held_out.words_alone`, kept for other texts."""
    classifier = make_pipeline(
        TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(max_iter=1000),
    ).fit([item.prompt for item in data.items], data.labels)
    return lambda test: classifier.decision_function([item.prompt for item in test.items])


def within(trained: dict[tuple[str, ...], Trained]) -> Iterator[str]:
    """Cross-fitted on the training items alone."""
    yield "## Within each training set: cross-fitted on `fit`\n"
    yield from header("trained on", "items", "C", "best layer", "AUROC", "words", "Brier", "ECE")
    for names, one in trained.items():
        fitted, best = one.fitted, one.fitted.best_layer
        examples = one.train.examples
        words = words_alone(examples, folds_by_group(examples, 5, 0))
        yield row(
            " + ".join(names), len(examples), f"{fitted.regularisation:g}", best, f"{fitted.auroc[best]:.3f}",
            f"{words.auroc if words else float('nan'):.3f}", f"{fitted.brier[best]:.3f}", f"{fitted.ece[best]:.3f}",
        )  # fmt: skip
    twins = trained["twins",].train
    unseen = [replace(example, group=template_of(example.id)) for example in twins.examples]
    fitted, words = (
        fit_layers(twins.states.numpy(), unseen),
        words_alone(unseen, folds_by_group(unseen, 5, 0)),
    )
    best = fitted.best_layer
    yield row(
        "twins, templates held out", len(unseen), f"{fitted.regularisation:g}", best, f"{fitted.auroc[best]:.3f}",
        f"{words.auroc if words else float('nan'):.3f}", f"{fitted.brier[best]:.3f}", f"{fitted.ece[best]:.3f}",
    )  # fmt: skip
    yield ""


def template_of(item_id: str) -> str:
    """The template of a generated problem: its level, and its place in the cycle through them."""
    level, place = item_id.split("brevity-")[1].rstrip("au").split("-")
    return f"{level}-{int(place) % len(LEVELS[int(level)])}"


def chosen_on_ours(states: States, trained: dict[tuple[str, ...], Trained]) -> Iterator[str]:
    """What helps on our own suite, asked of `choose` only."""
    yield "## Our suite, `choose`: what to fit on\n"
    yield from header(
        "fitted on", "items", "layer", "AUROC", f"recall at {BUDGET:.0%}", "words", "all layers"
    )
    test, ours = states.read("ours", "choose"), states.read("ours", "fit")
    fits = {f"ours, {n} items": train(ours.first(n)) for n in CURVES["ours"]}
    fits |= {" + ".join(names): one for names, one in trained.items()}
    for name, one in fits.items():
        scores = one.scores(test)
        yield row(
            name, len(one.train.items), one.fitted.best_layer, shown(scores, test), f"{recall(scores, test):.2f}",
            shown(one.words(test), test), f"{auroc(one.of_layers(test).mean(axis=1), test.labels):.3f}",
        )  # fmt: skip
    yield ""


def across(states: States, trained: dict[tuple[str, ...], Trained]) -> Iterator[str]:
    """Train set by test set, on `report`."""
    for title, measure in (
        ("AUROC of the probe", lambda one, test: shown(one.scores(test), test)),
        ("AUROC of words alone", lambda one, test: shown(one.words(test), test)),
        (
            f"Recall at {BUDGET:.0%} false positives, probe (words)",
            lambda one, test: f"{recall(one.scores(test), test):.2f} ({recall(one.words(test), test):.2f})",
        ),
    ):
        yield f"## {title}, on `report`\n"
        yield from header(
            "trained on", *(f"{name} ({len(states.read(name, 'report').items)})" for name in SETS)
        )
        for names, one in trained.items():
            yield row(" + ".join(names), *(measure(one, states.read(name, "report")) for name in SETS))
        yield ""


def carried_over(states: States, trained: dict[tuple[str, ...], Trained]) -> Iterator[str]:
    """The threshold that `choose` of one set gives, used on others."""
    yield f"## The threshold goes along: {BUDGET:.0%} chosen on `choose`, measured on `report`\n"
    yield "Share of answerable items for which the gate fires, and of unanswerable ones.\n"
    yield from header("trained on", "threshold from", *SETS)
    for names, one in trained.items():
        choose = states.read(names[0], "choose")
        cut = cut_within(one.scores(choose), choose.labels, BUDGET)
        cells = []
        for name in SETS:
            test = states.read(name, "report")
            fired = one.scores(test) >= cut
            cells.append(f"{fired[~test.labels].mean():.2f} / {fired[test.labels].mean():.2f}")
        yield row(" + ".join(names), names[0], *cells)
    yield ""


def learning_curves(states: States, trained: dict[tuple[str, ...], Trained]) -> Iterator[str]:
    """Does more of the same, or of generated twins, read a missing premise better?"""
    yield "## Missing premises: how many items\n"
    tests = {name: states.read(name, "report") for name in ("UMWP", "twins")}
    columns = [f"{name}{by}" for name in tests for by in ("", ", words")]
    yield from header("trained on", "items", "layer", *columns)
    for name in ("UMWP", "twins"):
        for one in (*(train(states.read(name, "fit").first(n)) for n in CURVES[name]), trained[name,]):
            cells = [shown(score(test), test) for test in tests.values() for score in (one.scores, one.words)]
            yield row(name, len(one.train.items), one.fitted.best_layer, *cells)
    yield ""


def reading_positions(states: States) -> Iterator[str]:
    """Is there a better place to read?"""
    readings = states.positions("UMWP", "fit", POSITION_ITEMS)
    yield f"## Missing premises: where to read (UMWP, {len(readings[LAST].items)} items of `fit`, cross-fitted)\n"
    yield "The best layer is the best of 30 on the items shown, so it flatters every row a little.\n"
    yield from header("position", "best layer", "AUROC", "mean over layers")
    for reading in READINGS:
        data = readings[reading]
        fitted = fit_layers(data.states.numpy(), data.examples)
        best = fitted.best_layer
        yield row(reading, best, f"{fitted.auroc[best]:.3f}", f"{np.mean(fitted.auroc):.3f}")
    yield ""


def mixtures(states: States, one: Trained) -> Iterator[str]:
    """Do several layers together read more than one?"""
    test = states.read("UMWP", "report")
    yield "## Missing premises: several layers (UMWP, `fit` to `report`)\n"
    yield from header("layers", "AUROC")
    yield row(f"best alone ({one.fitted.best_layer})", shown(one.scores(test), test))
    yield row("mean of all layers' log-odds", shown(one.of_layers(test).mean(axis=1), test))
    picked = list(THREE_LAYERS)
    joined = [Labelled(x.items, x.states[:, picked].flatten(1).unsqueeze(1)) for x in (one.train, test)]
    fitted = fit_layers(joined[0].states.numpy(), joined[0].examples)
    scores = (joined[1].states[:, 0] @ fitted.weight[0] + fitted.bias[0]).double().numpy()
    yield row(f"layers {', '.join(map(str, picked))} concatenated", shown(scores, test))
    yield ""


def shown(scores: Floats, test: Labelled) -> str:
    """AUROC with its interval."""
    low, high = interval(scores, test)
    return f"{auroc(scores, test.labels):.3f} [{low:.2f}, {high:.2f}]"


def recall(scores: Floats, test: Labelled) -> float:
    """Share of unanswerable items above the cut that BUDGET of the answerable ones exceed."""
    return float(np.mean(scores[test.labels] >= cut_within(scores, test.labels, BUDGET)))


def interval(scores: Floats, test: Labelled) -> tuple[float, float]:
    """95% percentile bootstrap of the AUROC: groups are drawn, and each item weighs as often as its group came."""
    random = np.random.default_rng(0)
    _, group = np.unique(test.groups, return_inverse=True)
    _, rank = np.unique(scores, return_inverse=True)
    aurocs = []
    for _ in range(RESAMPLES):
        weight = np.bincount(
            random.integers(group.max() + 1, size=group.max() + 1), minlength=group.max() + 1
        )[group]
        positive = np.bincount(rank, weight * test.labels)
        negative = np.bincount(rank, weight * ~test.labels)
        below = np.cumsum(negative) - negative / 2  # ties count half
        aurocs.append(positive @ below / (positive.sum() * negative.sum()))
    low, high = np.percentile(aurocs, [2.5, 97.5])
    return float(low), float(high)


def header(*columns: str) -> Iterator[str]:
    """The first two lines of a Markdown table."""
    yield row(*columns)
    yield "|---" * len(columns) + "|"


def row(*cells: object) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
