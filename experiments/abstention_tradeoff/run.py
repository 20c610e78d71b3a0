"""What abstention recall costs, actuator by actuator, with and without a gate: the configuration, and its page.

    python -m experiments.abstention_tradeoff.run [--data FOLDER] [--model NAME] [--limit N] [--out FOLDER]

`steerkit.compare` does the work: every cell on `choose`, a pick by each rule, the picks once on `report`. Resumable;
results.md is written from the run directories.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import Progress

import steerkit as sk
from steerkit.extraction.probe_fit import choose_thresholds
from steerkit.report import comparison as pages
from steerkit.runs.cells import Cell
from steerkit.sweeps.comparison import measure

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
PUBLISHED = f"abstain-{MODEL}"  # its response contrast, with the probe that gates it
LAYERS = {MODEL: (12, 14), "gemma3-270m": (8, 10)}  # two around the middle, where the vector is known to act
STRENGTHS = (
    0.5,
    0.75,
    1.0,
    1.25,
)  # of the response contrast; the others get the strengths of its relative doses
EDITS = ("dont-know-system", "dont-know-instruction", "refusal-bias@bias=2", "refusal-bias@bias=4")
BUDGETS = (0.05, 0.1, 0.2, 0.35, 0.5)  # false positive rates on `choose` that thresholds are chosen for
KL_BUDGET = 0.3  # nats a token, of the learned vector on ordinary prompts
RULES = {
    "strict": "recall s.t. over_abstention_rise<=0.05, accuracy_drop<=0.02",
    "bounded": "recall s.t. over_abstention_rise<=0.15",
}
SEEDS = {"response": 5}  # random directions beside its picks; the others' get one
DECODING = sk.Decoding(32)
PUBLIC = {"selfaware": "selfaware/SelfAware.json", "umwp": "umwp/StandardDataset.jsonl"}
PUBLIC_ITEMS, PUBLIC_RULE = 300, "bounded"
METRICS = ("abstention_recall", "over_abstention", "accuracy", "truncated", "degenerate")

Show = Callable[[int, int], None]


def main() -> None:
    """Run what is not there yet and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with selfaware/ and umwp/, else left out")
    parser.add_argument("--model", choices=LAYERS, default=MODEL)
    parser.add_argument("--limit", type=int, help="items of each split, balanced (default: all)")
    parser.add_argument("--refit", action="store_true", help="extract and fit what is published anew")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, help="where runs are kept (default: runs/MODEL)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lm = sk.load_model(asked.model, dtype=asked.dtype)
    out = asked.out or HERE / "runs" / asked.model
    vectors, probe = fitted(lm, LAYERS[asked.model], out, asked.refit)
    with Progress() as bar:
        task = bar.add_task("completions")

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        found = compared(lm, vectors, probe, LAYERS[asked.model], out, asked.limit, show)
        parts = [
            "# What abstention recall costs",
            f"Written by `run.py`. {asked.model}, {asked.dtype}, greedy, at most {DECODING.max_new_tokens} tokens. "
            "Changes are against the unsteered model; 95% intervals, paired bootstrap over twins. Random directions: "
            "the mean over their seeds (smallest to largest).",
            *page(found, probe),
        ]
        for name, file in PUBLIC.items() if asked.data else ():
            picks = [cell for cell in found.picks[PUBLIC_RULE].values() if cell is not None]
            there = measure(picks, lm, public(name, asked.data / file), out / name, show)
            parts += [
                f"## {name}, which took no part in fitting or choosing",
                pages.cells_table(there, picks, METRICS),
                pages.limits_table(there, "response"),
            ]
    suffix = "" if asked.model == MODEL else f"-{asked.model}"
    (HERE / f"results{suffix}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def compared(
    lm: sk.LanguageModel,
    vectors: Sequence[sk.SteeringVector],
    probe: sk.Probe,
    layers: Sequence[int],
    out: Path,
    limit: int | None = None,
    progress: Show | None = None,
) -> sk.Comparison:
    """Every actuator, with and without the gate, chosen on `choose` and measured on `report`."""
    cells = [*steered(vectors, layers), *(Cell((edit,)) for edit in sk.parse_all(EDITS))]
    return sk.compare(
        lm,
        cells,
        RULES,
        sk.Measurement("abstention", limit=limit, decoding=DECODING),
        out=out,
        gates=[sk.ProbeGate(probe, each.layer, each.threshold) for each in probe.metadata.thresholds],
        seeds=SEEDS,
        whole=["response"],
        progress=progress,
    )


def public(name: str, file: Path) -> sk.Measurement:
    """SelfAware or UMWP, from its file."""
    return sk.Measurement(f"{name}:{file}", "report", PUBLIC_ITEMS, DECODING)


def steered(vectors: Sequence[sk.SteeringVector], layers: Sequence[int]) -> Iterator[Cell]:
    """Each vector at each layer, at the relative doses that the first one has at STRENGTHS."""
    first, *others = vectors
    for layer in layers:
        for strength in STRENGTHS:
            yield Cell((first.at(layer, strength),))
            for vector in others:
                dose = first.relative_dose(layer, strength) or 0.0
                yield Cell((vector.at(layer, round(vector.strength_of(layer, dose), 2)),))


def fitted(
    lm: sk.LanguageModel, layers: Sequence[int], out: Path, refit: bool = False
) -> tuple[list[sk.SteeringVector], sk.Probe]:
    """The vectors, the response contrast first, and the probe, kept in `out`; those that are published, if they are."""
    out.mkdir(parents=True, exist_ok=True)
    pairs, questions = sk.load_pairs("abstention"), sk.load_labelled("suite:abstention")
    published = sk.load_vector(PUBLISHED) if lm.name == MODEL and not refit else None
    made: dict[str, Callable[[], sk.SteeringVector]] = {
        "response": lambda: published or sk.extract(lm, pairs),
        "question": lambda: sk.extract(lm, questions),
        "learned": lambda: sk.learn(lm, pairs, layers, kl_budget=KL_BUDGET),
    }
    for name, make in made.items():
        if not (out / f"{name}.safetensors").is_file():
            make().renamed(name).save(out / f"{name}.safetensors")
    if not (path := out / "probe.safetensors").is_file():
        probe = published.probe if published else None
        if probe is None:
            probe = sk.fit_probe(lm, questions, name="should-abstain")
            choose = sk.load_suite("abstention").split("choose")
            for threshold in reversed(choose_thresholds(probe, lm, choose, BUDGETS)):
                probe = probe.with_threshold(threshold)  # the last one added is the default
        probe.save(path)
    return [sk.load_vector(out / f"{name}.safetensors") for name in made], sk.load_probe(path)


def page(found: sk.Comparison, probe: sk.Probe) -> Iterator[str]:
    """The picks, what each actuator reaches, what limits it, and what the gate reads."""
    yield "## Chosen on `choose`, measured on `report`"
    yield "\n".join(f"- **{name}**: `{rule}`" for name, rule in found.rules.items())
    yield pages.chosen_table(found, METRICS)
    yield "## What an actuator reaches with all its cells"
    for name, measured in (("choose", found.choose), ("report", found.report)):
        yield f"On `{name}`: the area below the hull of recall over over-abstention (0.50 at random), and recall on it."
        yield pages.reach_table(measured)
    yield "## What limits it, on `report`"
    yield pages.price_sentence(found.report, "response")
    yield pages.limits_table(found.report, "response")
    yield "## What the gate reads, by kind of question, on `report`"
    yield pages.kinds_table(found.report, lambda item: re.split(r"-\d", item)[0], probe.metadata.threshold)


if __name__ == "__main__":
    main()
