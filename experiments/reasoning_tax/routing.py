"""Whether to think at all: a router that reads the prompt and answers at once, thinks, or abstains.

In the spirit of Thinkless (arXiv 2505.13379), on frozen weights. Each item of the brevity suite is completed twice by
the reasoning model: as it is, and with its thinking closed as soon as it is opened. Two probes of the prompt, fitted on
`fit`, then decide row by row:

    abstain   where P(no answer) reaches a threshold, chosen on `choose` for a share of the answerable items
    think     where P(thinking helps) does; it helps where the model is right with its chain and wrong without
    answer    otherwise

Rows are decoded greedily and apart, so what a router would have written is known from the two runs. Its two ends,
always and never thinking, stand beside it, and so do routers by chance that abstain alike and think equally often.
Thinking that is closed as soon as it is opened may go on behind the marker: tokens say what that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import steerkit as sk
from experiments.reasoning_tax.gates import readings
from experiments.reasoning_tax.results import compared, table
from experiments.reasoning_tax.setting import LEVELS, Setting, Write, by_item, records_of
from steerkit.engines.base import Completion, Decoding, Request
from steerkit.extraction.pairs import LabelledPrompt, LabelledPrompts
from steerkit.extraction.probe_fit import cut_within
from steerkit.runs.cells import Cell
from steerkit.runs.record import Record
from steerkit.scoring.score import score_completion
from steerkit.suites.items import SuiteItem
from steerkit.suites.splits import hash_position
from steerkit.suites.suite import Suite
from steerkit.sweeps.runner import make_record

ABSTENTION_BUDGET = 0.05
SHARES = (0.25, 0.5, 0.75)  # of the items of `choose` that the router has think
AT_ONCE = sk.PromptEdit(begin="</think>\n", name="at-once")
I_DONT_KNOW = "I don't know."
FEWEST = 10  # examples of either kind, for a probe to be fitted and judged

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """The items of a split, what each way of answering wrote, and what the probes read.

    `helps` is empty where thinking helps too rarely for a probe. `reply` are the tokens of the reply that an abstaining
    router gives in the model's place.
    """

    suite: Suite
    think: Mapping[str, Record]
    answer: Mapping[str, Record]
    no_answer: Mapping[str, float]
    helps: Mapping[str, float]
    reply: tuple[int, ...]


def routing(setting: Setting, write: Write) -> None:
    """Run what is not there yet, and the section of results.md."""
    lm = setting.model(setting.tuned)
    splits = {name: setting.items(LEVELS, name) for name in ("fit", "choose", "report")}
    written = {name: _written(setting, lm, name) for name in splits}
    labels = labels_of_help(splits["fit"], *written["fit"])
    helped = sum(prompt.label for prompt in labels)
    probes = {"no_answer": sk.fit_probe(lm, splits["fit"], name="no-answer")}
    if min(helped, len(labels) - helped) >= FEWEST:
        probes["helps"] = sk.fit_probe(lm, labels)
    reply = tuple(lm.renderer.encode(I_DONT_KNOW))
    read = {}
    for name in ("choose", "report"):
        found = {probe: readings(lm, fitted, splits[name]) for probe, fitted in probes.items()}
        read[name] = Items(splits[name], *written[name], found["no_answer"], found.get("helps", {}), reply)
    said = f"Thinking helps on {helped} of {len(labels)} answerable items of `fit`"
    write(section(read["choose"], read["report"], probes, said))


def _written(
    setting: Setting, lm: sk.LanguageModel, split: str
) -> tuple[dict[str, Record], dict[str, Record]]:
    """The records by item of thinking, and of answering at once; the first part's are not made again."""
    at_once = Cell((AT_ONCE,))
    run = setting.plain(lm, setting.tuned, LEVELS, split, [at_once])
    return by_item(records_of(run, Cell())), by_item(records_of(run, at_once))


def labels_of_help(
    suite: Suite, think: Mapping[str, Record], answer: Mapping[str, Record]
) -> LabelledPrompts:
    """The answerable items, labelled by whether thinking turned a wrong answer into a right one."""
    prompts = (
        LabelledPrompt(
            item.id,
            item.prompt,
            bool(think[item.id].scores["correct"]) and not answer[item.id].scores["correct"],
            item.group,
        )
        for item in suite
        if not item.should_abstain
    )
    return LabelledPrompts("thinking-helps", tuple(prompts))


def section(choose: Items, report: Items, probes: Mapping[str, sk.Probe], said: str) -> str:
    """The ends, the routers and the routers by chance, on `report`; thresholds from `choose`.

    `said` is how often thinking helps. The ends alone where that is too rare to be told from the prompt.
    """
    ids = [item.id for item in choose.suite]
    lacking = np.array([bool(item.should_abstain) for item in choose.suite])
    cut = cut_within(np.array([choose.no_answer[i] for i in ids]), lacking, ABSTENTION_BUDGET)
    ways: dict[str, Callable[[SuiteItem], str]] = {
        "always think": lambda _: "think",
        "never think": lambda _: "answer",
        "never think, or abstain": lambda item: _three_ways(report, item, cut, 2.0),
        "always think, or abstain": lambda item: _three_ways(report, item, cut, -1.0),
    }
    shares = {}
    for share in SHARES if choose.helps else ():
        least = float(np.quantile([choose.helps[i] for i in ids], 1 - share))
        ways[f"route, thinking for {share:.0%}"] = lambda item, least=least: _three_ways(
            report, item, cut, least
        )
        routed_share = _share_that_thinks(report, cut, least)
        ways[f"by chance, thinking for {share:.0%}"] = lambda item, share=routed_share: _three_ways(
            report, item, cut, -1.0 if hash_position("routing", item.id) < share else 2.0
        )
    routes = {name: {item.id: way(item) for item in report.suite} for name, way in ways.items()}
    for name, route in routes.items():
        chosen = list(route.values())
        shares[name] = " / ".join(
            f"{chosen.count(way) / len(chosen):.2f}" for way in ("answer", "think", "abstain")
        )
    rows = compared({name: routed(report, route) for name, route in routes.items()})
    accuracies = "; ".join(
        f"{probe.name}: AUROC {max(probe.metadata.auroc or (0.0,)):.3f} at layer {probe.metadata.layer}, words alone "
        f"{probe.metadata.baseline_auroc or float('nan'):.3f}"
        for probe in probes.values()
    )
    return "\n\n".join(
        [
            "## Whether to think",
            f"Brevity suite. {said}{'' if choose.helps else ': too few to route by'}. Probes, cross-fitted on `fit`: "
            f"{accuracies}. Abstention threshold {cut:.3f}, chosen on `choose` for at most {ABSTENTION_BUDGET:.0%} of "
            "the answerable items.",
            table({f"{name} ({shares[name]})": row for name, row in rows.items()}),
            "In parentheses the shares answered at once, thought about and abstained from; a router's name says of how "
            "many items of `choose` its threshold approves.",
        ]
    )


def _share_that_thinks(items: Items, abstain_from: float, think_from: float) -> float:
    """Of the items that the router does not abstain from, the share that it has think."""
    routes = [_three_ways(items, item, abstain_from, think_from) for item in items.suite]
    kept = [route for route in routes if route != "abstain"]
    return kept.count("think") / len(kept) if kept else 0.0


def _three_ways(items: Items, item: SuiteItem, abstain_from: float, think_from: float) -> str:
    if items.no_answer[item.id] >= abstain_from:
        return "abstain"
    return "think" if items.helps.get(item.id, 0.0) >= think_from else "answer"


def routed(items: Items, route: Mapping[str, str]) -> Iterator[Record]:
    """What a router would have recorded: of each item the record of the way that it chose."""
    for item in items.suite:
        match route[item.id]:
            case "think":
                yield items.think[item.id]
            case "answer":
                yield items.answer[item.id]
            case _:
                yield abstention(item, items.reply)


def abstention(item: SuiteItem, reply: tuple[int, ...]) -> Record:
    """The record of an item that the router keeps from the model: a fixed reply, its tokens counted."""
    completion = Completion(Request(item.prompt, decoding=Decoding()), I_DONT_KNOW, reply, "stop", 0)
    return make_record(Cell(), item, 0, completion, score_completion(item, completion))
