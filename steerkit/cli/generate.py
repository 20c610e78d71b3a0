"""`steerkit generate`: complete prompts, steered."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, cast

from typer import Argument, Option

from steerkit.cli import console, given, options
from steerkit.cli.decoding import DecodingChoice
from steerkit.cli.engine import EngineChoice
from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from steerkit.engines.base import Completion


def generate(
    prompts: Annotated[list[str], Argument(help="One prompt or several; - reads one from standard input.")],
    steer: options.Steer = None,
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    system: options.System = None,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    stop: options.Stop = None,
    decoding: options.Settings = None,
    samples: options.Samples = 1,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    read: options.Read = None,
    read_prompt: Annotated[
        bool, Option("--read-prompt", help="Show what --read reads of the prompt too, as it is rendered.")
    ] = False,
    compare: Annotated[bool, Option("--compare", help="Show the unsteered completion too.")] = False,
    allow_mismatch: options.AllowMismatch = False,
    engine: options.Engine = "transformers",
    server: options.Servers = None,
    served_name: options.ServedName = None,
    timeout: options.Timeout = None,
    vllm_option: options.VllmOptions = None,
    as_json: options.Json = False,
) -> None:
    """Complete PROMPTS with every --steer applied in order, here or, with --engine, in vLLM or on servers.

    With --read the tokens of a completion are shown on the colours of their readings or, without colours, in a table.
    """
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    chosen = EngineChoice(
        engine, server or (), served_name, timeout, vllm_option or (), placement, template_option or ()
    )
    from steerkit.cli import readings
    from steerkit.core.prompts import check_prompt
    from steerkit.engines.base import Request, UnmetScopes
    from steerkit.interventions.spec import readers_of
    from steerkit.runs.references import read_interventions

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
    if read_prompt and not read:
        raise MisuseError("--read-prompt shows what --read reads: give --read too")
    interventions = read_interventions(steer or ())
    readers = readers_of(read)
    prompts = given.prompts(prompts)
    for prompt in prompts:
        check_prompt(prompt)
    if compare and not interventions:
        console.say("nothing to compare with: there is no --steer")
    runs_on = chosen.open(model, dtype, batch_size, allow_mismatch=allow_mismatch)
    sampled = how.of(runs_on.model)
    requests = [
        Request(prompt, variant, sampled, system, sample, readers=readers, reads_prompt=read_prompt)
        for prompt in prompts
        for sample in range(samples)
        for variant in ([(), interventions] if compare and interventions else [interventions])
    ]
    completed: dict[int, Completion] = {}
    scopes = UnmetScopes(runs_on.model.markers)
    with console.progress("generating") as progress:
        for completion in runs_on.generate(replace(r, key=place) for place, r in enumerate(requests)):
            completed[cast(int, completion.request.key)] = completion
            scopes.take(completion)
            progress(len(completed), len(requests))
    scopes.warn()
    completions = [completed[place] for place in range(len(requests))]
    texts = readings.texts_of(completions, runs_on) if readers else []
    if as_json:
        read_forms = [readings.to_json(text, prompt=read_prompt) for text in texts] or [{}] * len(completions)
        console.print_json(
            [
                {"prompt": c.request.prompt, "sample": c.request.sample, "steered": _acts(c)}
                | {"interventions": list(map(str, c.request.interventions))}
                | {"completion": c.text, "tokens": c.tokens, "finish": c.finish}
                | {"gates": list(map(asdict, c.gates))}
                | read_form
                for c, read_form in zip(completions, read_forms, strict=True)
            ]
        )
        return
    scales = readings.scales(texts, prompts=read_prompt) if texts else []
    for place, c in enumerate(completions):
        if len(requests) > 1:
            console.show(f"{c.request.prompt}  [{_label(c, samples)}]", "dim")
        if not (texts and console.has_colours()):
            console.show(c.text)
        if texts:
            readings.show(texts[place], scales, prompt=read_prompt)
        if c.finish == "length":
            console.say(f"(cut off at {c.tokens} tokens: raise --max-new-tokens)")


def _acts(completion: Completion) -> bool:
    """Whether it was made under anything that acts, which a steering of strength 0 does not; gates are not asked."""
    return any(each.acts for each in completion.request.interventions)


def _label(completion: Completion, samples: int) -> str:
    """What the completion was made under, and which of several samples it is."""
    acting = " ; ".join(str(each) for each in completion.request.interventions if each.acts)
    which = f", sample {completion.request.sample + 1} of {samples}" if samples > 1 else ""
    return (acting or "unsteered") + which
