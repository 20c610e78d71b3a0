"""`steerkit doctor`: does steering reach this model, where it runs, as commanded?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from typer import Exit, Option

from steerkit.cli import console, options
from steerkit.cli.engine import EngineChoice
from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from steerkit.engines.doctor import Diagnosis, ServerDiagnosis

ARRIVES, LOST = "steering arrives as commanded", "steering does NOT arrive"


def doctor(
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    engine: options.Engine = "transformers",
    server: options.Servers = None,
    steer: Annotated[
        str | None,
        Option(metavar="SPEC", help="With an engine whose stream cannot be read: the steering to ask for."),
    ] = None,
    served_name: options.ServedName = None,
    timeout: options.Timeout = None,
    vllm_option: options.VllmOptions = None,
    as_json: options.Json = False,
) -> None:
    """Check the model's sites and the realised shift of a commanded one at every layer; print a report to paste.

    With --engine vllm the same inside vLLM. Other engines show only log-probabilities: those of a probe text under
    --steer are held against the same steering in transformers, server by server.
    """
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    chosen = EngineChoice(
        engine, server or (), served_name, timeout, vllm_option or (), placement, template_option or ()
    )
    by_scores = engine not in ("transformers", "vllm")
    if (steer is not None) != by_scores:
        raise MisuseError("--engine server and --steer SPEC go together: name a steering whose vector it has")
    if by_scores:
        found = [_server_report(d) for d in _by_scores(chosen, model, dtype, str(steer))]
    elif engine == "vllm":
        found = [_report(_vllm(chosen, model, dtype))]
    else:
        from steerkit.engines.doctor import diagnose

        found = [_report(diagnose(console.load(model, placement, dtype, chosen.options.template_options)))]
    healthy = all(facts["healthy"] for facts, _ in found)
    if as_json:
        facts = [facts for facts, _ in found]
        console.print_json({"servers": facts, "healthy": healthy} if by_scores else facts[0])
    else:
        for _, lines in found:
            for line in lines:
                console.show(line)
    if not healthy:
        raise Exit(1)


def _vllm(chosen: EngineChoice, model: str, dtype: str | None) -> Diagnosis:
    # Only in this process, and without CUDA graphs, can the residual stream be read back.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from steerkit.engines.doctor import diagnose_vllm
    from steerkit.engines.remote.vllm import VllmEngine

    engine = chosen.open(model, dtype, defaults={"enforce_eager": True})
    assert isinstance(engine, VllmEngine)
    return diagnose_vllm(engine)


def _by_scores(chosen: EngineChoice, model: str, dtype: str | None, spec: str) -> list[ServerDiagnosis]:
    from steerkit.engines.doctor import diagnose_scores
    from steerkit.interventions.steering import Steering
    from steerkit.runs.references import read_interventions

    steering, *others = read_interventions([spec])
    if others or not isinstance(steering, Steering):
        raise MisuseError(f"--steer {spec!r} is not one steering of the residual stream, which is looked for")
    engines = {url: chosen.open(model, dtype, servers=[url]) for url in chosen.servers}
    engines = engines or {chosen.engine: chosen.open(model, dtype)}
    lm = console.load(model, chosen.placement, template_options=chosen.options.template_options)
    return [diagnose_scores(engine, lm, steering, where) for where, engine in engines.items()]


def _report(diagnosis: Diagnosis) -> tuple[dict[str, Any], list[str]]:
    worst = f"{diagnosis.worst} (relative error {diagnosis.errors[diagnosis.worst]:.1e})"
    lines = _lines(diagnosis.facts | {"worst layer": worst})
    lines.append(f"{ARRIVES} at every layer" if diagnosis.healthy else LOST)
    return diagnosis.facts | {"layers": diagnosis.errors, "healthy": diagnosis.healthy}, lines


def _server_report(diagnosis: ServerDiagnosis) -> tuple[dict[str, Any], list[str]]:
    error = f"{diagnosis.error:.1e} nats, where the steering moves a token by up to {diagnosis.moved:.1e}"
    lines = _lines(diagnosis.facts | {"largest error": error})
    if not diagnosis.telling:
        lines.append("this steering moves too little to tell: give --steer a larger strength")
    else:
        lines.append(ARRIVES if diagnosis.healthy else LOST)
    return diagnosis.facts | {"tokens": diagnosis.shifts, "healthy": diagnosis.healthy}, lines


def _lines(facts: dict[str, Any]) -> list[str]:
    return [f"{name:14} {value}" for name, value in facts.items()]
