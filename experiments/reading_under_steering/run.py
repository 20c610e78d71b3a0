"""Does steering spoil a reading? The published probe, read while the published vector steers, and while nothing does.

    python experiments/reading_under_steering/run.py --out DIR [--threads 2] [--limit N]

DIR keeps two run directories, which a second call resumes: one reads the end of each prompt, one every token of replies
of 32 tokens. All is on the split `report` of the suite `abstention`, which no part of probe or vector was fitted or
chosen on. results.md is written anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

import steerkit as sk
from steerkit.analysis.reliability import ReadCell
from steerkit.core.bootstrap import Estimate

HERE = Path(__file__).parent
MODEL, PUBLISHED = "smollm2-135m-instruct", "abstain-smollm2-135m-instruct"
LAYER = 14  # where the published vector is used
STRENGTHS = (-1.25, 0.5, 1.0, 1.25)  # the last one is the published use, here without its gate
ABOVE = 22  # a layer above the probe's: what it does to a prompt's end, the probe cannot see
REPLY = 32


def cells(vector: sk.SteeringVector) -> list[sk.Cell]:
    """The unsteered model; the vector at its layer, on prompt and reply, with its gate, above the probe; a control."""
    strong = vector.at(LAYER, STRENGTHS[-1])
    assert vector.probe is not None
    acting = [vector.at(LAYER, strength) for strength in STRENGTHS]
    acting += [replace(strong, scope="all"), vector.at(ABOVE, STRENGTHS[-1])]
    acting += [replace(strong, gate=sk.ProbeGate(vector.probe))]
    control = replace(strong, vector=vector.random_control(0))
    return [sk.Cell(), *(sk.Cell((each,)) for each in acting), sk.Cell((control,), controls=vector.name)]


def main() -> None:
    """Run the study and write results.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="items whose replies are read; default: all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lm, vector = sk.load_model(MODEL), sk.load_vector(PUBLISHED)
    assert vector.probe is not None
    own = vector.probe.metadata.layer
    states: tuple[sk.Reader, ...] = (
        sk.ProbeReader(vector.probe),
        sk.ProbeReader(vector.probe, LAYER),
        sk.VectorReader(vector, own),
    )
    reply: tuple[sk.Reader, ...] = (*states, sk.NamedReader("log-probability"), sk.NamedReader("entropy"))
    measurement = sk.Measurement("abstention", "report")
    at_the_end = replace(
        measurement, decoding=sk.Decoding(max_new_tokens=1), readers=states, reading="prompt-end"
    )
    every_token = replace(
        measurement,
        limit=options.limit,
        decoding=sk.Decoding(max_new_tokens=REPLY),
        readers=reply,
        reading="per-token",
    )
    runs = {
        name: sk.sweep(lm, cells(vector), asked, out=options.out / name)
        for name, asked in (("prompt-end", at_the_end), ("reply", every_token))
    }
    found = {
        "At the last token of the prompt": (runs["prompt-end"].read_cells(), states),
        f"Mean over the reply's tokens, at most {REPLY}": (runs["reply"].read_cells("mean"), reply),
        "Largest of the reply's tokens": (runs["reply"].read_cells("max"), reply),
    }
    (HERE / "results.md").write_text("\n".join(lines(found, vector.probe, lm)) + "\n", encoding="utf-8")


def lines(
    found: dict[str, tuple[list[ReadCell], tuple[sk.Reader, ...]]], probe: sk.Probe, lm: sk.LanguageModel
) -> Iterator[str]:
    """The lines of results.md."""
    yield "# Reading under steering: results"
    yield ""
    yield (
        f"{MODEL} ({lm.dtype}), suite `abstention`, split `report`, greedy. AUROC: the chance that the "
        "reading is higher on a question that should be abstained from than on one that should be answered. "
        "Brackets: 95% intervals, paired bootstrap over groups of twins. Read before the steering of the same layer "
        f"acts. The probe was fitted at layer {probe.metadata.layer} on unsteered states at the end of prompts."
    )
    for title, (rows, readers) in found.items():
        yield ""
        yield f"## {title}: {max(row.mean.n for row in rows)} items"
        for place, reader in enumerate(readers):
            here = [row for row in rows if row.reader == place]
            yield from ("", f"### {reader.label}", "")
            yield from table(here, probability=isinstance(reader, sk.ProbeReader))


def table(rows: Sequence[ReadCell], *, probability: bool) -> Iterator[str]:
    """A table of one reader: a line a cell."""
    form = ".2f" if probability else ".3g"
    yield "| steered | AUROC | change | mean, to abstain from | mean, to answer | change of the mean |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        changes = (
            ("", "") if row.at.role == "unsteered" else (said(row.auroc_change), said(row.mean_change, form))
        )
        means = (number(row.positive, form), number(row.negative, form))
        yield f"| {named(row)} | {said(row.auroc)} | {changes[0]} | {' | '.join(means)} | {changes[1]} |"


def named(row: ReadCell) -> str:
    """What a cell is, for a reader of the table."""
    if row.at.role == "unsteered":
        return "unsteered"
    parts = [f"layer {row.at.layer}, strength {row.at.strength:g}"]
    parts += ["random direction"] * (row.at.role == "random")
    parts += ["prompt and reply"] * (row.at.scope == "all")
    parts += ["gated"] * bool(row.at.gates)
    return ", ".join(parts)


def said(estimate: Estimate | None, form: str = ".2f") -> str:
    """An estimate with its interval; a change has a sign."""
    if estimate is None:
        return "–"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def number(estimate: Estimate | None, form: str) -> str:
    """An estimate alone."""
    return "–" if estimate is None else format(estimate.value, form)


if __name__ == "__main__":
    main()
