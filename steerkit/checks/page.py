"""The page that is made from a record: what holds of which family, for readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from steerkit.checks.check import COLUMNS
from steerkit.checks.table import PACKAGES, Entry
from steerkit.core.files import replacing

HEAD = """# Architectures

<!-- Made by `make architectures` from tests/checks/recorded.json; do not edit. -->

What steerkit does on a tiny random model of every class of transformers {transformers} that writes text, in fp32 on a
CPU. Tiny random models test wiring, not quality. Each is made from its configuration with the sizes shrunk: windows of
8 tokens and chunks of 16, so that prompts of 4 to 40 tokens cross them. `steerkit models --check --family NAME` repeats
a row, `steerkit models --check MODEL` does the same on your own model.

Each column holds one verb against a slow reference: raw hooks, one text a pass, no cache.

| column | what is claimed |
|---|---|
| load | the model loads, and block outputs are transformers' own hidden states |
| extract | the mean difference of six pairs, at every layer, is that of texts read one by one (1e-4 relative) |
| steer | `sk.steer` around `generate`, a left-padded batch, writes what hooks by hand write |
| cache | it writes the same with and without a cache |
| batch | it writes for a row of a left-padded batch what it writes for that row alone |
| packed | the engine writes for 30 shuffled requests what one at a time without a cache gives |
| score | log-probabilities of given continuations are those of texts scored one by one (1e-3 nats) |

The 30 requests are five prompts under six steerings of three scopes, in batches of six: rows retire and are refilled,
and memory runs out once.

*ok*: tokens identical, or the two candidates' logits within 1e-3 of each other. *refused*: in one line that says why.
*own*: by hand too the model does not keep what the claim rests on (its own cache, its own padding), so there is nothing
to be equal to. *wrong*, *crash*: what they say.

"""

_LEFT_EDGE = "it counts positions from the left edge of the row, padding included"
_GENERATE = "one plain pass over left-padded rows is exact, its own generate on them is not"
_STATE = "padding is read into its recurrent state: no mask keeps it out"
_STREAMS = "a position has several streams, or none that is handed from block to block"
# Why a decoder's cell is `own` or `refused`, as found by hand.
REVIEWED = {
    **dict.fromkeys(
        ("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "kosmos-2.5", "marian"), _LEFT_EDGE
    ),
    **dict.fromkeys(("mbart", "mvp", "pegasus", "plbart", "trocr", "whisper"), _LEFT_EDGE),
    **dict.fromkeys(("git", "unlimited_ocr"), _GENERATE),
    **dict.fromkeys(("recurrent_gemma", "rwkv", "xlstm"), _STATE),
    **dict.fromkeys(("deepseek_v4", "gemma3n_text", "glm5_next", "hrm_text", "hy_v4"), _STREAMS),
    **dict.fromkeys(
        ("mllama", "mllama.MllamaForConditionalGeneration"), "some blocks are skipped without an image"
    ),
    "dots3_note": "a padding token that stands in a text is taken for padding where the row is padded",
    "doge": "equal tokens have equal weight in its choice of keys, and the layout of the row decides among them",
    "llama4_text": "it counts its chunks from the left edge of the row, padding included",
    "moshi": "its first step behind a cached prompt is not what its plain pass says",
    "reformer": "its blocks hand on pairs of streams",
}


def write_page(path: Path, record: Mapping[str, Entry]) -> None:
    """Write the page of a record that the installed packages made, whole or not at all."""
    with replacing(path, "page", "name another --page") as part:
        part.write_text(page(record, {package: version(package) for package in PACKAGES}), encoding="utf-8")


def page(record: Mapping[str, Entry], packages: Mapping[str, str]) -> str:
    """Return the page as Markdown."""
    checked = {name: entry for name, entry in record.items() if entry.cells}
    decoders = {name: entry for name, entry in checked.items() if entry.kind == "decoder"}
    others = {name: entry for name, entry in checked.items() if entry.kind != "decoder"}
    skipped = {name: entry for name, entry in record.items() if not entry.cells}
    return "".join(
        (
            HEAD.format(**packages),
            _summary(decoders),
            "\n## Decoders\n\n",
            _table(
                ("family", *COLUMNS, "packing", "s"),
                (
                    [name, *_marks(entry), entry.packing or "–", f"{entry.seconds:.1f}"]
                    for name, entry in decoders.items()
                ),
            ),
            "\n### What is not *ok*, and why\n\n",
            _table(("family", "column", "", "in its words", "by hand"), _reasons(decoders)),
            "\n## Encoders and encoder–decoders\n\n",
            "A later token changes an earlier state, or another text is read first.\n\n",
            _table(
                ("family", "what it is", "load", "in its words"),
                ([n, e.kind, e.cells["load"], e.details.get("load", "")] for n, e in others.items()),
            ),
            "\n## Not checked\n\n",
            _table(("family", "", "reason"), ([n, e.kind, e.reason] for n, e in skipped.items())),
        )
    )


def _summary(decoders: Mapping[str, Entry]) -> str:
    total = len(decoders)
    loaded = [entry for entry in decoders.values() if entry.cells["load"] == "ok"]
    rows, tied = sum(e.rows for e in decoders.values()), sum(e.tied for e in decoders.values())
    lines = [f"{len(loaded)} of {total} decoders load ({len(loaded) / max(total, 1):.0%}). Of those:\n\n"]
    for column in COLUMNS[1:]:
        counts = Counter(entry.cells.get(column, "refused") for entry in loaded)
        others = ", ".join(f"{n} {mark}" for mark, n in sorted(counts.items()) if mark != "ok")
        lines.append(f"- {column}: {counts['ok']} ok{', ' if others else ''}{others}\n")
    packings = Counter(entry.packing for entry in loaded if entry.packing)
    lines.append("\nThe engine runs " + ", ".join(f"{n} {how}" for how, n in packings.most_common()) + ". ")
    lines.append(f"{tied} of {rows} rows hold a tied token.\n")
    return "".join(lines)


def _marks(entry: Entry) -> list[str]:
    return [entry.cells.get(column, "–") for column in COLUMNS]


def _reasons(entries: Mapping[str, Entry]) -> Iterable[Sequence[str]]:
    for name, entry in entries.items():
        for column, mark in entry.cells.items():
            if mark != "ok":
                yield name, column, mark, entry.details.get(column, ""), REVIEWED.get(name, "")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
