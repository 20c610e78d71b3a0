"""Precision and recall of the phrase rules and of the detector on all labels and on the replies kept apart.

    python -m experiments.abstention_scorer.compare

Writes results-second-set.md. Where two readers disagree there is no label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.abstention_scorer.measure import labelled, with_interval
from experiments.abstention_scorer.replies import Row, agreed, second_set, written
from steerkit.scoring.abstention import abstains
from steerkit.scoring.agreement import Agreement, agreement
from steerkit.scoring.detector import Detector
from steerkit.scoring.reply import final_reply

OUT = Path(__file__).parent / "results-second-set.md"
HEAD = (
    "| | n | abstain | rules: precision | recall | detector: precision | recall |\n"
    "|---|--:|--:|--:|--:|--:|--:|"
)
Verdicts = Mapping[str, tuple[bool, bool]]  # of a reply: the rules' and the detector's


def main() -> None:
    """Measure and write the page."""
    rows = second_set()
    readers = {name: agreement(row[name] for row in rows) for name in ("abstains", "stuck")}
    kept = [_settled(row) for row in rows if row["kept_apart"] and agreed(row)]
    fitted = [_settled(row) for row in rows if not row["kept_apart"] and agreed(row)]
    fitted += [{**row, "origin": "written"} for row in written()]
    first = [{**row, "reply": final_reply(row["completion"])} for row in labelled()]
    replies = sorted({row["reply"] for row in (*kept, *fitted, *first)})
    detected = Detector.bundled().abstain(replies)
    verdicts = {reply: (abstains(reply), found) for reply, found in zip(replies, detected, strict=True)}
    languages = [name for name, _ in Counter(row["language"] for row in kept).most_common()]
    sections = [
        "# Rules and detector on the second set",
        f"Written by `compare.py`. {len(rows)} replies read by two readers, who agree on {readers['abstains'].raw:.1%} "
        f"(Cohen's kappa {readers['abstains'].kappa:.3f}); {len(kept)} of them, with a label, were kept apart. Wilson "
        "95% intervals.",
        "## Kept apart",
        _table(
            {
                "all": kept,
                "generated": [row for row in kept if row["origin"] == "generated"],
                "written": [row for row in kept if row["origin"] == "written"],
                **{
                    f"written, {name}": [
                        r for r in kept if r["language"] == name and r["origin"] == "written"
                    ]
                    for name in languages
                },
            },
            verdicts,
        ),
        "By what was written:",
        _table({kind: [row for row in kept if row.get("kind") == kind] for kind in _kinds(kept)}, verdicts),
        "## Fitted on",
        _table(
            {
                "generated": [row for row in fitted if row["origin"] == "generated"],
                "written": [row for row in fitted if row["origin"] == "written"],
                "first set, develop": [row for row in first if row["half"] == "develop"],
            },
            verdicts,
        ),
        "## The first set's other half",
        "It was measured on before, once by each edition of the rules; none was fitted on it, nor the detector.",
        _table({"first set, held-out": [row for row in first if row["half"] == "held-out"]}, verdicts),
    ]
    text = "\n\n".join(sections) + "\n"
    OUT.write_text(text, encoding="utf-8")
    print(text)


def _settled(row: Row) -> Row:
    return {**row, "abstains": row["abstains"][0]}


def _kinds(rows: Sequence[Row]) -> list[str]:
    return sorted({row["kind"] for row in rows if "kind" in row})


def _table(groups: Mapping[str, Sequence[Row]], verdicts: Verdicts) -> str:
    return "\n".join([HEAD, *(_line(name, rows, verdicts) for name, rows in groups.items())])


def _line(name: str, rows: Sequence[Row], verdicts: Verdicts) -> str:
    """One row: counts, then both judges' rates against the label."""
    cells = [name, str(len(rows)), str(sum(row["abstains"] for row in rows))]
    for which in (0, 1):
        seen: Agreement = agreement((verdicts[row["reply"]][which], row["abstains"]) for row in rows)
        cells += [with_interval(seen.both, seen.both + seen.first_only)]
        cells += [with_interval(seen.both, seen.both + seen.second_only)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
