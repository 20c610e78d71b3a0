"""`steerkit sweep`: the grid, measured."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from steerkit.cli import console, options
from steerkit.cli.engine import EngineChoice
from steerkit.core.errors import MisuseError


def sweep(
    vector: Annotated[
        list[str], typer.Option("--vector", help="Vector file or published name; repeat for several.")
    ],
    layers: Annotated[str, typer.Option("--layers", help="4,8,12 or start:stop:step, the stop included.")],
    strengths: Annotated[
        str, typer.Option("--strengths", help="As --layers; write --strengths=-1:2:1 for negatives.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run directory; the same one resumes.")],
    suite: options.Suite = "abstention",
    split: options.Split = "choose",
    limit: options.Limit = None,
    scope: options.Scope = "completion",
    operation: options.Operation = "add",
    target: options.Target = None,
    control_strengths: Annotated[
        str | None, typer.Option("--control-strengths", help="Random controls only at these strengths.")
    ] = None,
    gate: options.Gate = None,
    decorate: options.Decorate = None,
    choose: Annotated[
        str | None,
        typer.Option(
            "--choose",
            metavar="RULE",
            help='Pick a cell, then measure it on report, such as "recall s.t. over_abstention<=0.05".',
        ),
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    dtype: options.Dtype = None,
    system: options.System = None,
    samples: options.Samples = 1,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    max_new_tokens: options.MaxNewTokens = 64,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    perplexity: Annotated[
        bool, typer.Option("--perplexity", help="Also score perplexity under the unsteered model.")
    ] = False,
    allow_mismatch: options.AllowMismatch = False,
    engine: options.Engine = "transformers",
    server: options.Servers = None,
    served_name: options.ServedName = None,
    timeout: options.Timeout = None,
    vllm_option: options.VllmOptions = None,
    as_json: options.Json = False,
) -> None:
    """Measure every vector × layer × strength × scope on a suite, beside the unsteered model and random controls.

    With --engine vllm or server the same requests run elsewhere, and the records are the same.

    With --choose, the grid runs on the split choose into OUT/choose; the cell that the rule picks is measured on
    report into OUT/report, beside its negative and its random control.
    """
    # Whatever can be wrong with the request is found before the model is loaded.
    chosen = EngineChoice(engine, server or (), served_name, timeout, vllm_option or (), device)
    from steerkit.analysis.choosing import parse_rule
    from steerkit.interventions.spec import parse_decoration, parse_gates, parse_range
    from steerkit.interventions.vector import load_vector
    from steerkit.suites.suite import load_suite
    from steerkit.sweeps.confirmation import choose_then_report
    from steerkit.sweeps.sweep import sweep as run_grid

    asked_layers = parse_range(layers, int, what="--layers")
    asked_strengths = parse_range(strengths, float, what="--strengths")
    rule = None if choose is None else parse_rule(choose)
    if rule is not None and split != "choose":
        raise MisuseError("--choose uses the splits choose and report: leave --split out")
    for needed in (split,) if rule is None else ("choose", "report"):
        load_suite(suite).split(needed)
    vectors = [load_vector(name) for name in vector]
    gates = parse_gates(gate or ())
    decorations = [parse_decoration(spec) for spec in decorate or ()]
    runs_on = chosen.open(model, dtype, batch_size, allow_mismatch=allow_mismatch)
    with console.plain_warnings(), console.progress(f"sweeping {suite}") as progress:
        asked: dict[str, Any] = {
            "layers": asked_layers,
            "strengths": asked_strengths,
            "out": out,
            "suite": suite,
            "limit": limit,
            "scopes": scope.split(","),
            "operation": operation,
            "target": target,
            "gates": gates,
            "decorations": decorations,
            "samples": samples,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "system": system,
            "perplexity": perplexity,
            "command": shlex.join(["steerkit", *sys.argv[1:]]),
            "progress": progress,
        }
        if rule is None:
            run = run_grid(runs_on, vectors, split=split, control_strengths=control_strengths, **asked)
        else:
            controls = () if control_strengths is None else control_strengths
            found = choose_then_report(runs_on, vectors, rule, control_strengths=controls, **asked)
    from steerkit.cli.report import show, show_choice

    if rule is None:
        show(run, as_json=as_json)
    else:
        show_choice(found, as_json=as_json)
