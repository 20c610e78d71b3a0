"""When to decide and how to act: five ways to make a model abstain, at equal over-abstention.

    python -m experiments.while_it_writes.run [--data FOLDER] [--model NAME]… [--suite NAME]… [--choose N] [--report N]

A probe is fitted on each suite's own split `fit`, on the unsteered prompts' states, so that all ways have the same
detector. Each way is a few cells that differ in its threshold. On `choose` the rule picks one cell a way; that cell is
measured once on `report`, beside the unsteered model and a system prompt. Runs resume; results.md is written from what
is there. FOLDER holds `selfaware/` and `umwp/`; without it our suite alone is asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

import steerkit as sk
from steerkit.analysis.choosing import choose_cell, parse_rule
from steerkit.analysis.summary import Row
from steerkit.core.bootstrap import Estimate
from steerkit.interventions.presets import presets

HERE = Path(__file__).parent
MODELS = {"instruct": "smollm2-135m-instruct", "reasoner": "smollm2-135m-reasoner-2"}
SUITES = {
    "ours": "abstention",
    "selfaware": "selfaware:{data}/selfaware/SelfAware.json",
    "umwp": "umwp:{data}/umwp/StandardDataset.jsonl",
}
TOKENS = {"instruct": 96, "reasoner": 256}
RULE = "recall s.t. over_abstention_rise<=0.05, accuracy_drop<=0.02"
FITTED = 200  # questions of `fit` that the probe is fitted on
LAYER, STRENGTH, READ = 14, 2.0, 12
THRESHOLDS = (0.5, 0.7, 0.85, 0.95)
SMOOTHING = 4.0
METRICS = ("abstention_recall", "over_abstention", "accuracy", "tokens")


def ways(name: str, vector: sk.SteeringVector, probe: sk.Probe) -> dict[str, list[sk.Cell]]:
    """The cells of each way, in the order of its thresholds."""
    scope = "answer" if name == "reasoner" else "completion"
    reader = sk.ProbeReader(probe, READ)

    def trigger(threshold: float) -> sk.Trigger:
        return sk.Trigger(reader, threshold, threshold, SMOOTHING)

    def steered(**how: object) -> sk.Steering:
        return vector.at(LAYER, STRENGTH, scope=scope, **how)  # type: ignore[arg-type]

    found = {
        "system prompt": [sk.Cell((presets()["dont-know-system"],))],
        "prompt gate, steered": [sk.Cell((steered(gate=sk.ProbeGate(probe, READ, t)),)) for t in THRESHOLDS],
        "prompt gate, text forced": [
            sk.Cell((sk.PromptEdit(begin=forced(name), gate=sk.ProbeGate(probe, READ, t)),))
            for t in THRESHOLDS
        ],
        "steered while it writes": [
            sk.Cell((steered(follows=sk.StrengthSwitch(reader, t, t - 0.2)),)) for t in THRESHOLDS
        ],
        "stopped while it writes": [sk.Cell((sk.StopAndSay(when=trigger(t)),)) for t in THRESHOLDS],
    }
    if name == "reasoner":
        found["reply forced, steered"] = [
            sk.Cell((sk.ReplyNow(when=trigger(t)), steered(follows=sk.StrengthSwitch(reader, t, t - 0.2))))
            for t in THRESHOLDS
        ]
    return found


def forced(name: str) -> str:
    """How a forced reply begins: the reasoner's thinking is closed first."""
    return "</think>\nI don't know." if name == "reasoner" else "I don't know."


def measured(name: str, suite: str, asked: argparse.Namespace) -> dict[str, Row]:
    """Each way's row on `report`, with what the rule picked; a way of which no cell meets it is left out."""
    lm = sk.load_model(MODELS[name], dtype=asked.dtype)
    data = sk.load_suite(SUITES[suite].format(data=asked.data))
    vector = sk.extract(lm, sk.load_pairs("abstention")).renamed("abstain")
    probe = sk.fit_probe(lm, data.split("fit").limit(FITTED), name=f"{suite}-prompts")
    cells = ways(name, vector, probe)
    out = asked.out / name / suite
    decoding = sk.Decoding(TOKENS[name])
    every = [sk.Cell(), *(cell for some in cells.values() for cell in some)]
    wide = sk.sweep(lm, every, sk.Measurement(data, "choose", asked.choose, decoding), out=out / "choose")
    rows = {row.cell: row for row in wide.summary()}
    chosen: dict[str, sk.Cell] = {}
    for way, some in cells.items():
        rule = parse_rule("recall" if way == "system prompt" else RULE)
        best = choose_cell([rows[cell.id] for cell in some], rule)
        if best is not None:
            chosen[way] = next(cell for cell in some if cell.id == best.cell)
    once = sk.Measurement(data, "report", asked.report, decoding)
    narrow = {
        row.cell: row
        for row in sk.sweep(lm, [sk.Cell(), *chosen.values()], once, out=out / "report").summary()
    }
    unsteered = next(row for row in narrow.values() if row.role == "unsteered")
    return {"unsteered": unsteered, **{way: narrow[cell.id] for way, cell in chosen.items()}}


def table(rows: Mapping[str, Row], expected: Sequence[str]) -> Iterator[str]:
    """A line for each way: levels, and behind them the paired change from the unsteered model."""
    yield f"| | items | {' | '.join(METRICS)} |"
    yield "|---" * (len(METRICS) + 2) + "|"
    for way in ("unsteered", *expected):
        if way not in rows:
            yield f"| {way} | no threshold meets the rule on `choose` |" + " |" * len(METRICS)
            continue
        row = rows[way]
        cells = [
            shown(row.levels.get(m), None if way == "unsteered" else row.changes.get(m)) for m in METRICS
        ]
        yield f"| {way} | {row.n_items} | {' | '.join(cells)} |"


def shown(level: Estimate | None, change: Estimate | None) -> str:
    """`0.73 (+0.30 [+0.21, +0.39])`, or the level with its interval where there is no change."""
    if level is None:
        return "–"
    digits = 1 if level.high > 1.5 else 2
    if change is None:
        return f"{level.value:.{digits}f} [{level.low:.{digits}f}, {level.high:.{digits}f}]"
    moved = f"{change.value:+.{digits}f} [{change.low:+.{digits}f}, {change.high:+.{digits}f}]"
    return f"{level.value:.{digits}f} ({moved})"


def main() -> None:
    """Measure what is not there yet and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with selfaware/ and umwp/")
    parser.add_argument(
        "--model", choices=MODELS, action="append", help="repeat for several; both if left out"
    )
    parser.add_argument(
        "--suite", choices=SUITES, action="append", help="repeat for several; all if left out"
    )
    parser.add_argument("--choose", type=int, default=100, help="items of `choose`")
    parser.add_argument("--report", type=int, default=200, help="items of `report`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=HERE / "runs")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    suites = [s for s in asked.suite or SUITES if asked.data is not None or "{data}" not in SUITES[s]]
    sections = [
        "# While it writes\n\nWritten by `run.py`. Rule on `choose`, one cell a way: "
        f"`{RULE}` (the system prompt has no threshold to choose). In brackets 95% intervals, paired with the "
        "unsteered model."
    ]
    for name in asked.model or MODELS:
        for suite in suites:
            rows = measured(name, suite, asked)
            expected = [way for way in WAYS if name == "reasoner" or way != "reply forced, steered"]
            sections.append(f"## {MODELS[name]}, {suite}\n\n" + "\n".join(table(rows, expected)))
            (HERE / "results.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    print("\n\n".join(sections))


WAYS = (
    "system prompt",
    "prompt gate, steered",
    "prompt gate, text forced",
    "steered while it writes",
    "stopped while it writes",
    "reply forced, steered",
)

if __name__ == "__main__":
    main()
