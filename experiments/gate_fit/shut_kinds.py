"""What the steered model writes on kinds where the gate is a coin and stays shut: every answerable question of them.

    python experiments/gate_fit/shut_kinds.py --data DIR --cache DIR

The gates are those of `run.py gates`. Where a gate stays shut the row is the unsteered one, so only the questions at
which it opens are written again. Writes shut-kinds.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from run import BUDGET, PUBLISHED, _labels, _report, _sample, header, opens, row
from sets import MODEL, SETS, read

import steerkit as sk
from steerkit.extraction.gate_fit import fit_on_states
from steerkit.extraction.gate_kinds import kinds_of

HERE = Path(__file__).parent
DECODING = sk.Decoding(64)


def main() -> None:
    """Write what moved, set by set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    lm = sk.load_model(MODEL)
    steering = sk.load_vector(PUBLISHED).at(layer=14, strength=1.25)
    lines = [
        "# Shut where it is a coin: what the steered model writes there\n",
        "Answerable questions of the shut kinds on `report`; those at which the gate opens are written unsteered and "
        f"under `{steering}`, at most {DECODING.max_new_tokens} tokens.\n",
        *header(
            "set", "questions", "gate opens", "abstentions, unsteered", "steered", "over-abstention moves by"
        ),
    ]
    for name in SETS:
        if name not in ("ours", "UMWP"):
            continue
        questions = read(name, options.data, options.cache)
        mine, test = _sample(questions, 0), _report(questions)
        gate = fit_on_states(mine.states, mine.data.examples, budget=BUDGET)
        shut = [each.kind for each in gate.report.kinds if each.shut]
        there = np.isin(kinds_of(test.data.examples), shut) & ~_labels(test)
        prompts = [test.data.examples[i].prompt for i in np.flatnonzero(there & opens(gate, test))]
        abstained = [
            sum(
                sk.score(sk.SuiteItem(str(i), prompt, False), each.text)["abstained"]
                for i, (prompt, each) in enumerate(
                    zip(prompts, sk.generate(lm, prompts, acting, decoding=DECODING), strict=True)
                )
            )
            for acting in ((), (steering,))
        ]
        moved = (abstained[1] - abstained[0]) / there.sum()
        lines.append(row(name, there.sum(), len(prompts), *abstained, f"{moved:+.3f}"))
    text = "\n".join(lines) + "\n"
    print(text)
    (HERE / "shut-kinds.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
