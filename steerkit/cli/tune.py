"""`steerkit tune`: from pairs or a vector to a recommended use."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from steerkit.cli import console, given, options
from steerkit.cli.decoding import DecodingChoice
from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from steerkit.sweeps.tune import Tuning


def tune(
    out: Annotated[
        Path,
        Option("--out", "-o", help="Where everything goes; the same one resumes.", callback=options.a_place),
    ],
    rule: Annotated[
        str, Option(metavar="RULE", help='What is best, such as "recall s.t. over_abstention_rise<=0.15".')
    ],
    vector: Annotated[str | None, Option(help="Vector file or published name.")] = None,
    pairs: Annotated[
        str | None,
        Option(
            "--pairs", "-p", help="Instead of a vector: pairs to extract one from, as extract takes them."
        ),
    ] = None,
    layers: Annotated[
        str | None, Option(help="4,8,12 or start:stop:step; default: five around the middle.")
    ] = None,
    strengths: Annotated[
        str | None,
        Option(help="As --layers; default: multiples of the strength at a KL of 0.1, layer by layer."),
    ] = None,
    axis: Annotated[
        list[str] | None,
        Option(
            metavar="FIELD=VALUES",
            help="Another axis, or other values than the defaults scope=completion,all  half_life=none,32  "
            "gate=none and the vector's own; repeat for several.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        Option(
            metavar="N[ tokens]",
            help="Records, or tokens, that choosing may take; default: a quarter of the grid.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        Option(metavar="SPEC", help="A prompt edit or rule to compete; repeat for several; none for none."),
    ] = None,
    price: Annotated[bool, Option(help="Measure what the pick costs elsewhere, too.")] = True,
    price_limit: Annotated[
        int, Option(min=2, help="At most this many items of each suite of the price.")
    ] = 64,
    suite: options.Suite = "abstention",
    limit: options.Limit = None,
    scorer: Annotated[
        list[str] | None, Option(metavar="NAME", help="Score with this too: {scorers}; repeat for several.")
    ] = None,
    name: Annotated[
        str | None, Option(help="The vector's name; default: its own, or that of the pairs.")
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    system: options.System = None,
    samples: options.Samples = 1,
    temperature: options.Temperature = None,
    decoding: options.Settings = None,
    max_new_tokens: options.MaxNewTokens = 64,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    allow_mismatch: options.AllowMismatch = False,
    as_json: options.Json = False,
) -> None:
    """Find layer, strength, scope, half-life and gate by a rule; confirm the pick once; say what it costs.

    Candidates race on the split choose: the worst are dropped after few items. The pick is measured once on report,
    beside the unsteered model, the best prompt and a random direction, and its price on other suites. The vector is
    written with the pick as its recommended use where that is clearly better; where nothing is, it says so.
    """
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    # Whatever can be wrong with the request is found before the model is loaded.
    if (vector is None) == (pairs is None):
        raise MisuseError(
            "tune takes a vector or the pairs to extract one from: give --vector or --pairs, one of them"
        )
    from steerkit.analysis.choosing import parse_rule
    from steerkit.extraction.pairs import load_examples
    from steerkit.interventions.vector import load_vector
    from steerkit.sweeps.axes import axis_of, axis_values, parse_axis
    from steerkit.sweeps.confirmation import check_measurable
    from steerkit.sweeps.measurement import Measurement
    from steerkit.sweeps.tune import Budget, edits_of
    from steerkit.sweeps.tune import tune as find
    from steerkit.sweeps.tune_price import Price

    axes: dict[str, tuple[object, ...]] = {}
    for text in axis or ():
        field, equals, values = text.partition("=")
        if not equals:
            raise MisuseError(f"--axis {text!r} is not FIELD=VALUES, such as half_life=none,64")
        found = axis_of(field.strip())
        axes[found] = axes.get(found, ()) + parse_axis(found, values)
    for found, parsed in {"layer": layers, "strength": strengths, **axes}.items():
        if parsed is not None:
            axis_values(found, parsed)
    wanted = parse_rule(rule)
    edits_of(wanted, prompts := _prompts(prompt))
    spend = None if budget is None else Budget.parse(budget)
    how = DecodingChoice(decoding, max_new_tokens, temperature=temperature, seed=seed)
    measurement = Measurement(given.file(suite), "choose", limit, how.alone, samples, system, scorer or ())
    measurement.check()
    check_measurable(wanted, measurement)
    source: Any = load_vector(vector) if vector is not None else load_examples(given.file(pairs or ""))
    lm = console.load(model, placement, dtype, options.template_options(template_option))
    measurement = replace(measurement, suite=measurement.whole, decoding=how.of(lm))
    with console.progress(f"tuning on {suite}") as progress:
        tuned = find(
            lm,
            source,
            wanted,
            measurement,
            out=out,
            layers=layers,
            strengths=strengths,
            axes=axes,
            budget=spend,
            prompts=prompts,
            price=Price(price_limit) if price else None,
            name=name,
            seed=seed,
            batch_size=batch_size,
            allow_mismatch=allow_mismatch,
            command=shlex.join(["steerkit", *sys.argv[1:]]),
            progress=progress,
        )
    _show(tuned, model, as_json=as_json)


def _prompts(given_specs: list[str] | None) -> list[str] | None:
    """The specs that compete; none where the one word says so, None for the default."""
    return [] if given_specs == ["none"] else given_specs


def _show(found: Tuning, model: str, *, as_json: bool) -> None:
    from steerkit.sweeps.tune import CARD_FILE
    from steerkit.sweeps.tune_card import headline, number, shown, use

    runs = [run for run in (found.choose, found.report) if run is not None]
    pages = [str(run.report()) for run in runs]
    if as_json:
        console.print_json({**found.to_json(), "card": str(found.out / CARD_FILE), "reports": pages})
        return
    for heat in found.raced.heats:
        console.say(f"after {heat.items} items {len(heat.kept)} of {len(heat.cells)} candidates go on")
    if found.report is not None:
        from steerkit.cli.report import print_rows

        print_rows(found.report, found.report.summary())
    if found.price:
        console.show(
            "what it costs: the pick minus unsteered, positive where better, 95% intervals", "italic"
        )
        console.print_table(
            ("", "unsteered", "pick", "difference", "margin", "verdict"),
            (
                [
                    line.name,
                    number(line.unsteered),
                    number(line.picked),
                    shown(line.change, signed=True),
                    f"{line.margin:.3g}",
                    line.verdict,
                ]
                for line in found.price
            ),
        )
    console.say(headline(found).replace("`", ""))
    for page in pages:
        console.say(f"wrote {page} (open it in a browser)")
    console.say(f"wrote {found.file}, {found.out / CARD_FILE} and tune.json beside it")
    if found.pick is not None:
        more = [] if model == options.DEFAULT_MODEL else ["--model", model]
        said = "next, use it" if found.is_better else "to look at the pick all the same"
        console.say(
            f"{said}: {console.command('steerkit', 'generate', 'your question', '--steer', use(found), *more)}"
        )
