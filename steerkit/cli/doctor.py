"""`steerkit doctor`: does steering reach this model, on this machine, as commanded?"""

from __future__ import annotations

import typer

from steerkit.cli import console, options


def doctor(
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Check the model's sites and the realised shift of a commanded one at every layer; print a report to paste."""
    from steerkit.diagnosis import diagnose

    lm = console.load(model, device, dtype)
    diagnosis = diagnose(lm)
    if as_json:
        console.print_json(diagnosis.facts | {"layers": diagnosis.errors, "healthy": diagnosis.healthy})
    else:
        for name, value in diagnosis.facts.items():
            console.out.print(f"{name:14} {value}", highlight=False)
        console.out.print(
            f"{'worst layer':14} {diagnosis.worst} (relative error {diagnosis.errors[diagnosis.worst]:.1e})"
        )
        console.out.print(
            "steering arrives as commanded at every layer"
            if diagnosis.healthy
            else "steering does NOT arrive"
        )
    if not diagnosis.healthy:
        raise typer.Exit(1)
