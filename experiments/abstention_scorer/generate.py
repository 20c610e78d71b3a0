"""Make the completions that are labelled by hand.

    python -m experiments.abstention_scorer.generate OUT.jsonl

Items come from the splits `fit` and `choose` only, so that nothing reported elsewhere was looked at here. Each
condition takes the next items in line, in turn from every scenario, answerable and not. The numbers are bfloat16:
another machine may round another way and write other texts, so `completions.jsonl`, which the labels belong to,
is kept in the repository, and a second run should write elsewhere.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice, zip_longest
from pathlib import Path

import steerkit as sk
from steerkit.suites.items import SuiteItem
from steerkit.suites.splits import hash_position, split_of

SUITES = ("abstention", "brevity:1+2+3")
SPLITS = ("fit", "choose")
SYSTEM = "If you don't know the answer, say so."
SEED = 17


@dataclass(frozen=True)
class Condition:
    """How completions are made, and for how many items of each suite.

    `layer` is None for the unsteered model; `temperature` 0 is greedy.
    """

    name: str
    items: tuple[int, int]  # abstention, brevity
    layer: int | None = None
    strength: float = 0.0
    system: str | None = None
    temperature: float = 0.0
    max_new_tokens: int = 48


CONDITIONS = {
    "smollm2-135m-instruct": (
        Condition("unsteered", (36, 18)),
        Condition("unsteered, sampled", (30, 14), temperature=0.8),
        Condition("unsteered, short", (18, 8), max_new_tokens=24),
        Condition("system prompt", (36, 14), system=SYSTEM),
        Condition("system prompt, sampled", (18, 8), system=SYSTEM, temperature=0.8),
        Condition("layer 12, strength 0.5", (24, 10), 12, 0.5),
        Condition("layer 12, strength 0.75", (36, 14), 12, 0.75),
        Condition("layer 12, strength 0.75, sampled", (24, 10), 12, 0.75, temperature=0.8),
        Condition("layer 12, strength 1", (24, 10), 12, 1.0),
        Condition("layer 14, strength 0.75", (24, 10), 14, 0.75),
        Condition("layer 14, strength 1", (36, 14), 14, 1.0),
        Condition("layer 14, strength 1, sampled", (24, 10), 14, 1.0, temperature=0.8),
        Condition("layer 14, strength 1, short", (18, 8), 14, 1.0, max_new_tokens=24),
        Condition("layer 14, strength 1.25", (24, 10), 14, 1.25),
        Condition("layer 12, strength -1", (12, 6), 12, -1.0),
    ),
    "gemma3-270m": (
        Condition("unsteered", (14, 6)),
        Condition("layer 9, strength 1", (14, 6), 9, 1.0),
        Condition("layer 9, strength 1, sampled", (14, 6), 9, 1.0, temperature=0.8),
    ),
}


def main() -> None:
    """Write one line for every distinct prompt and completion."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    lines = {}
    queues = {suite: cycle(in_line(sk.load_suite(suite))) for suite in SUITES}
    for model, conditions in CONDITIONS.items():
        for line in completions(model, conditions, queues):
            lines.setdefault(line["id"], line)
    out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values()), "utf-8")


def in_line(items: Iterable[SuiteItem]) -> list[SuiteItem]:
    """The items that may be read, in a fixed order that takes every scenario and answerability in turn."""
    strata: defaultdict[tuple[str, bool], list[SuiteItem]] = defaultdict(list)
    for item in items:
        if split_of(item) in SPLITS:
            strata[str(item.scenario), bool(item.should_abstain)].append(item)
    for stratum in strata.values():
        stratum.sort(key=lambda item: hash_position("abstention scorer, order", item.id))
    rounds = zip_longest(*(strata[key] for key in sorted(strata)))
    return [item for item in chain.from_iterable(rounds) if item is not None]


def completions(
    model: str, conditions: Sequence[Condition], queues: dict[str, Iterator[SuiteItem]]
) -> Iterator[dict[str, object]]:
    """The lines of one model, condition by condition; items are taken off the queues."""
    lm = sk.load_model(model, dtype="bfloat16")
    vector = sk.extract(lm, sk.load_pairs("abstention"))
    engine = sk.TransformersEngine(lm)
    requests = []
    for condition in conditions:
        steerings = () if condition.layer is None else (vector.at(condition.layer, condition.strength),)
        top_p = 0.95 if condition.temperature else 1.0
        decoding = sk.Decoding(condition.max_new_tokens, condition.temperature, top_p, SEED)
        for suite, count in zip(SUITES, condition.items, strict=True):
            for item in islice(queues[suite], count):
                key = (len(requests), condition, suite, item)
                requests.append(sk.Request(item.prompt, steerings, decoding, condition.system, key=key))
    # Completions arrive as they finish; the file keeps the order of the requests.
    for done in sorted(engine.generate(requests), key=lambda completion: completion.request.key[0]):
        _, condition, suite, item = done.request.key
        yield {
            "id": hashlib.sha256(json.dumps([item.prompt, done.text]).encode()).hexdigest()[:12],
            "model": model,
            "condition": condition.name,
            "steering": "+".join(map(str, done.request.interventions)) or None,
            "system": condition.system,
            "temperature": condition.temperature,
            "max_new_tokens": condition.max_new_tokens,
            "suite": suite.partition(":")[0],
            "item": item.id,
            "group": item.group,
            "scenario": item.scenario,
            "should_abstain": item.should_abstain,
            "prompt": item.prompt,
            "completion": done.text,
            "finish": done.finish,
        }


if __name__ == "__main__":
    main()
