"""`steerkit calibrate`: the strength at which a vector's divergence meets a target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from steerkit.cli import console, given, options

if TYPE_CHECKING:
    from steerkit.calibration.result import Calibration, LayerCalibration


def calibrate(
    vector: Annotated[str, Option(help="Vector file or published name.")],
    layers: Annotated[str, Option(help="4,8,12 or start:stop:step, the stop included.")],
    target_kl: Annotated[float, Option(help="KL(unsteered ‖ steered), nats per token.")],
    statistic: Annotated[str, Option(help="mean or p95 (95th percentile) over tokens.")] = "mean",
    suite: options.Suite = "abstention",
    limit: Annotated[int, Option(min=1, help="At most this many items of the suite's fit split.")] = 16,
    scope: Annotated[str, Option(help="completion, prompt, all, thinking, answer or tool.")] = "completion",
    operation: Annotated[str, Option(help="{operations}.")] = "add",
    target: Annotated[float | None, Option(help="Where clamp puts the component.")] = None,
    half_life: Annotated[float | None, Option(help="Tokens after which the strength is halved.")] = None,
    negative: Annotated[bool, Option("--negative", help="Calibrate strengths below 0.")] = False,
    largest: Annotated[
        float | None, Option(help="Largest strength to try; default: 16, 1 unless add.")
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
    max_new_tokens: Annotated[int, Option(min=1, help="Length of the roll-outs.")] = 64,
    batch_size: options.BatchSize = None,
    allow_mismatch: options.AllowMismatch = False,
    out: Annotated[
        Path | None,
        Option(
            "--out", "-o", help="Write the vector with these strengths on record.", callback=options.a_place
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Find at each layer the strength whose KL meets a target; --out keeps them in the vector."""
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    switches = options.template_options(template_option)
    # Whatever can be wrong with the request is found before the model is loaded.
    from steerkit.calibration.calibrate import calibrate as measure
    from steerkit.calibration.calibrate import check, default_prompts
    from steerkit.interventions.spec import parse_range
    from steerkit.interventions.vector import load_vector

    loaded = load_vector(vector)
    steering = loaded.at(
        parse_range(layers, int, what="--layers"),
        -1 if negative else 1,
        scope=scope,  # type: ignore[arg-type]  # the steering checks it
        operation=operation,
        target=target,
        half_life=half_life,
    )
    check(steering, kl=target_kl, statistic=statistic, largest=largest)
    prompts = default_prompts(given.file(suite), limit)
    lm = console.load(model, placement, dtype, switches)
    with console.progress(f"calibrating {loaded.name}") as progress:
        result = measure(
            lm,
            steering,
            kl=target_kl,
            statistic=statistic,  # type: ignore[arg-type]  # calibrate checks it
            largest=largest,
            prompts=prompts,
            system=system,
            tokens=max_new_tokens,
            batch_size=batch_size,
            allow_mismatch=allow_mismatch,
            progress=progress,
        )
    if out is not None:
        result.vector.save(out)
    if as_json:
        console.print_json(result.to_json())
        return
    _show(result)
    if out is not None:
        console.say(f"wrote {out}: {loaded.name} with {len(result.strengths)} calibrated strengths")


def _show(result: Calibration) -> None:
    columns = ("layer", "strength", "mean KL", "p95 KL", "own roll-out", "dose")
    rows = ([str(found.layer), *_measured(found, result)] for found in result)
    console.print_table(columns, rows)
    steering = result.steering
    console.show(
        f"target: {result.statistic} KL {result.target_kl:g} nats per token over {result.completion_tokens} tokens of "
        f"{result.prompts} unsteered roll-outs, {steering.operation}, scope {steering.scope}; [ ] 95% over prompts"
    )
    for line in result.notes():
        console.show(line)


def _measured(found: LayerCalibration, result: Calibration) -> list[str]:
    if found.at_strength is None or found.strength is None:
        return ["–"] * 5
    kl = found.at_strength.kl
    return [
        f"{found.strength:.4g}",
        f"{kl.mean:.3g}{_interval(kl.mean_interval)}",
        f"{kl.p95:.3g}{_interval(kl.p95_interval)}",
        f"{found.rollout.kl.value(result.statistic):.3g}" if found.rollout else "–",
        console.number(found.at_strength.relative_dose),
    ]


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.3g}, {interval[1]:.3g}]"
