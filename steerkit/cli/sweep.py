"""`steerkit sweep`: the grid, measured."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from steerkit.cli import console, options


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
    as_json: options.Json = False,
) -> None:
    """Measure every vector × layer × strength × scope on a suite, beside the unsteered model and random controls."""
    # Whatever can be wrong with the request is found before the model is loaded.
    from steerkit.spec import parse_range
    from steerkit.suites.suite import load_suite
    from steerkit.sweeps.run import sweep as run_grid
    from steerkit.vector import load_vector

    asked_layers = parse_range(layers, int, what="--layers")
    asked_strengths = parse_range(strengths, float, what="--strengths")
    load_suite(suite).split(split)
    vectors = [load_vector(name) for name in vector]
    lm = console.load(model, device, dtype)
    with console.plain_warnings(), console.progress(f"sweeping {suite}") as progress:
        run = run_grid(
            lm,
            vectors,
            layers=asked_layers,
            strengths=asked_strengths,
            out=out,
            suite=suite,
            split=split,
            limit=limit,
            scopes=scope.split(","),  # type: ignore[arg-type]  # each steering checks its scope
            operation=operation,  # type: ignore[arg-type]
            target=target,
            control_strengths=control_strengths,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            seed=seed,
            system=system,
            batch_size=batch_size,
            perplexity=perplexity,
            allow_mismatch=allow_mismatch,
            command=shlex.join(["steerkit", *sys.argv[1:]]),
            progress=progress,
        )
    from steerkit.cli.report import show

    show(run, as_json=as_json)
