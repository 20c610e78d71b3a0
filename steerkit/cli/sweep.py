"""`steerkit sweep`: the grid, measured."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Option

from steerkit.cli import console, given, options
from steerkit.cli.decoding import DecodingChoice
from steerkit.cli.engine import EngineChoice
from steerkit.core.errors import MisuseError


def sweep(
    out: Annotated[
        Path, Option("--out", "-o", help="The run directory; the same one resumes.", callback=options.a_place)
    ],
    vector: Annotated[
        list[str] | None, Option(help="Vector file or published name; repeat for several.")
    ] = None,
    layers: Annotated[
        str | None,
        Option(help="4,8,12 or start:stop:step, the stop included; default: the vector's recommended use."),
    ] = None,
    strengths: Annotated[
        str | None, Option(help="As --layers; write --strengths=-1:2:1 for negatives.")
    ] = None,
    axis: Annotated[
        list[str] | None,
        Option(
            metavar="FIELD=VALUES",
            help="Cross a further field: scope=completion,all  half_life=none,64  gate=none,probe.safetensors  "
            "edit=none,dont-know-system (interventions beside the vector); repeat for several.",
        ),
    ] = None,
    steer: Annotated[
        list[str] | None,
        Option(metavar="SPEC", help="A cell of its own beside the grid; repeat for several."),
    ] = None,
    control_strengths: Annotated[
        str | None, Option(help="Random controls only at these strengths; none for none.")
    ] = None,
    choose: Annotated[
        str | None,
        Option(
            metavar="RULE",
            help='Pick a cell, then measure it on report, such as "recall s.t. over_abstention<=0.05".',
        ),
    ] = None,
    guarantee: Annotated[
        str | None,
        Option(
            metavar="BOUND@CONFIDENCE",
            help='With --choose: pick among cells of which this holds, such as "over_abstention<=0.1@95%".',
        ),
    ] = None,
    suite: options.Suite = "abstention",
    split: options.Split = "choose",
    limit: options.Limit = None,
    scorer: Annotated[
        list[str] | None, Option(metavar="NAME", help="Score with this too: {scorers}; repeat for several.")
    ] = None,
    read: options.Read = None,
    reading: Annotated[
        str | None,
        Option(
            metavar="WHAT",
            help="What records keep of --read: per-token, or one number: mean (the default), max, last, first-answer, "
            "prompt-end.",
        ),
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
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    stop: options.Stop = None,
    decoding: options.Settings = None,
    max_new_tokens: options.MaxNewTokens = 64,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    allow_mismatch: options.AllowMismatch = False,
    engine: options.Engine = "transformers",
    server: options.Servers = None,
    served_name: options.ServedName = None,
    timeout: options.Timeout = None,
    vllm_option: options.VllmOptions = None,
    as_json: options.Json = False,
) -> None:
    """Measure every vector × layer × strength × further axis on a suite, beside the unsteered model and controls.

    With --engine the same requests run elsewhere, and the records are the same.

    With --choose, the grid runs on the split choose into OUT/choose; the cell that the rule picks is measured on
    report into OUT/report, beside its negative and its random control. With --guarantee only cells can be picked
    that pass an exact test of the bound, in an order that the grid fixes: of the picked cell it then holds at that
    confidence, for questions drawn as those of the suite were.
    """
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    # Whatever can be wrong with the request is found before the model is loaded.
    chosen = EngineChoice(
        engine, server or (), served_name, timeout, vllm_option or (), placement, template_option or ()
    )
    from steerkit.analysis.choosing import parse_rule
    from steerkit.analysis.guarantees import parse_guarantee
    from steerkit.cli.report import show, show_choice
    from steerkit.sweeps.axes import axis_of, parse_axis
    from steerkit.sweeps.confirmation import check_guarantee, check_measurable, choose_then_report
    from steerkit.sweeps.grid import Grid
    from steerkit.sweeps.measurement import Measurement
    from steerkit.sweeps.sweep import sweep as measure

    axes: dict[str, tuple[object, ...]] = {}
    for text in axis or ():
        name, equals, values = text.partition("=")
        if not equals:
            raise MisuseError(f"--axis {text!r} is not FIELD=VALUES, such as half_life=none,64")
        field = axis_of(name.strip())
        axes[field] = axes.get(field, ()) + parse_axis(field, values)
    rule = None if choose is None else parse_rule(choose)
    if rule is not None and split != "choose":
        raise MisuseError("--choose uses the splits choose and report: leave --split out")
    promise = None if guarantee is None else parse_guarantee(guarantee)
    if promise is not None and rule is None:
        raise MisuseError(
            "--guarantee bounds the cell that is chosen: give --choose RULE too, such as recall"
        )
    how = DecodingChoice(
        decoding,
        max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        seed=seed,
    )
    if reading is not None and not read:
        raise MisuseError("--reading says what is kept of --read: give --read too")
    measurement = Measurement(
        given.file(suite),
        split,
        limit,
        how.alone,
        samples,
        system,
        scorer or (),
        read or (),
        reading or "mean",
    )
    measurement.check()
    if rule is not None:
        check_measurable(rule, measurement)
    controls = () if control_strengths == "none" else control_strengths
    grid = Grid(vector or (), layers, strengths, axes, steer or (), controls, seed)
    if promise is not None:
        check_guarantee(promise, grid, measurement)
    runs_on = chosen.open(model, dtype, batch_size, allow_mismatch=allow_mismatch)
    measurement = replace(measurement, suite=measurement.whole, decoding=how.of(runs_on.model))
    command = shlex.join(["steerkit", *sys.argv[1:]])
    with console.progress(f"sweeping {suite}") as progress:
        if rule is None:
            run = measure(runs_on, grid, measurement, out=out, command=command, progress=progress)
        else:
            found = choose_then_report(
                runs_on,
                grid,
                rule,
                measurement,
                guarantee=promise,
                out=out,
                command=command,
                progress=progress,
            )
    if rule is None:
        show(run, as_json=as_json)
    else:
        show_choice(found, as_json=as_json)
