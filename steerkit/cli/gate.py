"""`steerkit gate fit|compare|check`: a gate for your own questions, which detector reads them, and drift."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer

from steerkit.cli import console, given, options
from steerkit.core.errors import MisuseError
from steerkit.core.sites import RESID_POST, SiteName

if TYPE_CHECKING:
    from pathlib import Path

    from steerkit.extraction.gate_compare import Comparison
    from steerkit.extraction.gate_fit import GateBound
    from steerkit.extraction.pairs import LabelledPrompts
    from steerkit.interventions.probe import Probe

app = Typer(
    add_completion=False,
    help="Fit a gate on your own labelled questions, compare detectors on them, or check for drift.",
    no_args_is_help=True,
)

QUESTIONS = "A .jsonl file of labelled prompts, suite:NAME or a file of suite items (splits fit and choose)"


@app.command()
def fit(
    questions: Annotated[str, Argument(help=f"{QUESTIONS}, or - for standard input.")],
    out: options.OutFile,
    budget: Annotated[
        float | None,
        Option(min=0, max=1, help="Share of the negative questions for which it may open; default 0.05."),
    ] = None,
    guarantee: Annotated[
        str | None,
        Option(
            metavar="BOUND@CONFIDENCE",
            help='Instead of a budget: a bound that holds, such as "over_abstention<=0.1@95%"; half of the questions '
            "set it.",
        ),
    ] = None,
    coin: Annotated[
        float | None,
        Option(
            min=0, max=1, help="Stay shut on kinds whose AUROC's lower end is not above this; default 0.55."
        ),
    ] = None,
    site: Annotated[SiteName, Option(help="Where in each block states are read.")] = RESID_POST,
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    name: Annotated[str | None, Option(help="The probe's name; default: the file's.")] = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Fit a gate on some 200 labelled questions: probe, threshold, kinds on which it stays shut, learning curve, card.

    The card goes into a Markdown file beside the probe. Everything that is said of the probe was measured on questions
    that did not fit it.
    """
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    switches = options.template_options(template_option)
    name = given.name(name, out)
    card = _card_of(out)
    if guarantee is not None and budget is not None:
        raise MisuseError("--guarantee and --budget both set the threshold: give one")
    from steerkit.core.files import replacing
    from steerkit.extraction.gate_card import gate_card
    from steerkit.extraction.gate_fit import BUDGET, check_gate, fit_gate
    from steerkit.extraction.gate_kinds import COIN

    data, bound = _questions(questions), None if guarantee is None else _bound(guarantee)
    asked: dict[str, Any] = {
        "budget": BUDGET if budget is None else budget,
        "bound": bound,
        "coin": COIN if coin is None else coin,
        "seed": seed,
    }
    check_gate(data, **asked)
    lm = console.load(model, placement, dtype, switches)
    with console.progress(f"fitting {data.name}") as progress:
        probe = fit_gate(lm, data, name=name, site=site, progress=progress, **asked)
    probe.save(out)
    with replacing(card, "the card") as scratch:
        scratch.write_text(gate_card(probe), encoding="utf-8")
    if as_json:
        console.print_json({"out": str(out), "card": str(card), "probe": probe.metadata.model_dump()})
        return
    _show_fit(probe)
    console.say(f"wrote {out}: {probe.name}, {len(data)} questions, {lm.name}; and its card {card}")
    from steerkit.interventions.spec import gate_at

    console.say(f"next: in a spec, gate={gate_at(out)}")


@app.command()
def compare(
    questions: Annotated[list[str], Argument(help=f"{QUESTIONS}; several sets are read within and across.")],
    gate: Annotated[
        list[str] | None,
        Option(metavar="NAME|FILE", help="A detector ({gates}) or a probe's file; repeat for several."),
    ] = None,
    site: Annotated[SiteName, Option(help="Where in each block the fitted probes read.")] = RESID_POST,
    limit: Annotated[
        int | None, Option(min=1, help="At most this many questions of each set, twins together.")
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Compare detectors on labelled questions, beside a probe fitted there and words alone.

    AUROC, recall at 5% and 10% false positives, calibration error, and what each costs in forward passes a prompt. What
    is fitted on a set is judged cross-fitted within it, and as it is on the other sets.
    """
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    switches = options.template_options(template_option)
    from steerkit.core.registry import GATES
    from steerkit.extraction.gate_compare import at_most, check_comparison, compare_gates
    from steerkit.interventions.probe import Probe
    from steerkit.interventions.store import Store

    sets = [at_most(_questions(each), limit) for each in questions]
    store = Store()
    detectors: list[str | Probe] = []
    for each in gate or ():
        part = each if each in GATES else store.gate(each)
        if not isinstance(part, str | Probe):
            raise MisuseError(
                f"{each!r} holds no probe, and no detector is called so: there are {', '.join(GATES)}"
            )
        detectors.append(part)
    check_comparison(sets, detectors)
    lm = console.load(model, placement, dtype, switches)
    with console.progress("comparing gates") as progress:
        found = compare_gates(lm, sets, detectors, site=site, seed=seed, progress=progress)
    if as_json:
        console.print_json([_as_json(each) for each in found])
        return
    _show_comparison(found)


@app.command()
def check(
    gate: Annotated[str, Argument(help="A gate's file that was fitted with --guarantee.")],
    questions: Annotated[str, Argument(help=f"New questions. {QUESTIONS}, or - for standard input.")],
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Say whether new questions are unlike those of a gate's bound, which then does not hold; exit code 1 if so."""
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    switches = options.template_options(template_option)
    from steerkit.core.two_sample import DRIFT_LEVEL
    from steerkit.extraction.gate_drift import check_drift, check_reference
    from steerkit.interventions.probe import load_probe

    probe, data = load_probe(gate), _questions(questions)
    check_reference(probe)
    lm = console.load(model, placement, dtype, switches)
    found = check_drift(lm, probe, data, seed=seed)
    if as_json:
        console.print_json({**asdict(found), "alarm": found.alarm, "level": DRIFT_LEVEL})
    else:
        unlike = (
            "unlike those of the bound, which does not hold for them"
            if found.alarm
            else "like those of the bound"
        )
        console.show(f"{found.questions} questions, one of each group: {unlike} (p = {found.p_value:.3f})")
    if found.alarm:
        raise Exit(1)


def _card_of(out: Path) -> Path:
    """Where the card of a probe's file goes. Raises MisuseError where something else stands there."""
    card = out.with_suffix(".md")
    if card == out:
        raise MisuseError(
            f"{out} is where the card goes: give the probe a file such as {out.stem}.safetensors"
        )
    if card.exists() and not (out.exists() and card.is_file()):
        raise MisuseError(f"{card} is there, and the probe's card would take its place: give another --out")
    return card


def _questions(reference: str) -> LabelledPrompts:
    """Labelled questions; of a suite those that do not report. Raises as `load_labelled` does."""
    from steerkit.extraction.pairs import labelled_prompts, load_labelled, suite_of
    from steerkit.suites.splits import split_of

    path = given.file(reference)
    suite = suite_of(path)
    if suite is None:
        return load_labelled(path)
    return labelled_prompts(replace(suite, items=tuple(i for i in suite if split_of(i) != "report")))


def _bound(text: str) -> GateBound:
    """The bound that a guarantee asks for. Raises MisuseError for one that no gate can keep."""
    from steerkit.analysis.guarantees import parse_guarantee
    from steerkit.extraction.gate_fit import METRIC, GateBound

    guarantee = parse_guarantee(text)
    if guarantee.metric != METRIC or guarantee.bound.relation != "<=":
        raise MisuseError(
            f"guarantee {text!r}: of a gate over-abstention alone is bounded, the share of questions that it should "
            'leave alone and opens for: write "over_abstention<=0.1@95%"'
        )
    return GateBound(guarantee.limit, guarantee.confidence)


def _show_fit(probe: Probe) -> None:
    from steerkit.extraction.gate_card import gain_said

    metadata, report = probe.metadata, probe.metadata.report
    assert report is not None
    chosen = metadata.thresholds[0]
    words = "" if report.words is None else f"; words alone (TF-IDF) {report.words}"
    console.show(f"AUROC {report.auroc} at layer {metadata.layer}, cross-fitted{words}")
    console.show(
        f"opens from probability {chosen.threshold:.3f} on: for {chosen.choose_true_positive_rate:.0%} of those it "
        f"should and {chosen.choose_false_positive_rate:.0%} of those it should not (allowed: {chosen.budget:.0%})"
    )
    if chosen.bound is not None:
        console.show(
            f"guaranteed: {chosen.bound}, {chosen.bound.losses} of {chosen.bound.groups} held-out groups"
        )
    if report.kinds:
        rows = [
            (
                each.kind,
                f"{each.positive}+{each.negative}",
                str(each.auroc or "–"),
                "shut" if each.shut else "open",
            )
            for each in report.kinds
        ]
        console.print_table(("kind", "questions", "AUROC", "gate"), rows)
    if report.curve:
        rows = [
            (how, str(each.questions), str(each.auroc), str(each.words or "–"))
            for how, points in (("measured", report.curve), ("expected", report.expected))
            for each in points
        ]
        console.print_table(("learning curve", "questions", "AUROC", "words alone"), rows)
        console.show(gain_said(report))


def _show_comparison(found: list[Comparison]) -> None:
    columns = ("detector", "fitted on", "tested on", "AUROC", "recall at 5%", "at 10%", "ECE", "passes")
    console.print_table(
        columns,
        (
            (
                each.detector,
                "these questions" if each.in_sample else each.fitted_on or "–",
                each.tested_on,
                str(each.auroc),
                str(each.recall_5),
                str(each.recall_10),
                f"{each.ece:.3f}",
                f"{each.passes:.3g}",
            )
            for each in found
        ),
    )
    console.show("[ ] 95% over groups of questions; what is fitted on a set is cross-fitted within it")
    if any(each.in_sample for each in found):
        console.show(
            "these questions: the probe that was given was fitted on them, and looks better than it is"
        )


def _as_json(found: Comparison) -> dict[str, object]:
    measured = {field: getattr(found, field).model_dump() for field in ("auroc", "recall_5", "recall_10")}
    return {**{key: value for key, value in asdict(found).items() if key not in measured}, **measured}
