"""`steerkit pairs lint|make`: contrast pairs, checked and made."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from typer import Argument, Exit, Option, Typer

from steerkit.cli import console, given, options
from steerkit.cli.engine import EngineChoice
from steerkit.core.errors import MisuseError

app = Typer(
    add_completion=False, help="Check contrast pairs, or make them with your own model.", no_args_is_help=True
)


@app.command()
def lint(
    pairs: Annotated[str, Argument(help="Built-in pairs, a .jsonl file, or - for standard input.")],
    contrast: Annotated[
        Literal["length", "content"], Option(help="What the two sides are meant to differ in.")
    ] = "content",
    suite: Annotated[
        str | None, Option("--suite", "-s", help="A suite whose prompts must not occur here.")
    ] = None,
    model: Annotated[
        str | None, Option("--model", "-m", help="Also check tokens and context with this model.")
    ] = None,
    template_option: options.TemplateOptions = None,
    as_json: options.Json = False,
) -> None:
    """Find what would spoil a vector: leaks, duplicates, empty or identical sides, undeclared length skew."""
    from steerkit.extraction.lint import lint as find
    from steerkit.extraction.pairs import load_examples
    from steerkit.suites.suite import load_suite

    switches = options.template_options(template_option)
    if switches and model is None:
        raise MisuseError("--template-option goes with --model, whose chat template reads it")
    loaded = load_examples(given.file(pairs))
    other = [item.prompt for item in load_suite(given.file(suite)).items] if suite else []
    lm = console.load(model, template_options=switches) if model else None
    findings = find(loaded, contrast, other=other, lm=lm)
    if as_json:
        console.print_json([asdict(f) for f in findings])
    else:
        style = {"error": "bold red", "warning": "yellow", "information": "dim"}
        for f in findings:
            console.show_labelled(f.severity, style[f.severity], f"{f.where}: {f.message} [{f.code}]")
    if any(f.severity == "error" for f in findings):
        raise Exit(1)


@app.command()
def make(
    behaviour: Annotated[Literal["abstention", "brevity"], Argument(help="The contrast to make.")],
    out: options.OutFile,
    suite: options.Suite = "",
    split: options.Split = "fit",
    limit: options.Limit = 50,
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    max_memory: options.MaxMemory = None,
    offload_folder: options.OffloadFolder = None,
    quantization: options.Quantization = None,
    dtype: options.Dtype = None,
    template_option: options.TemplateOptions = None,
    max_new_tokens: options.MaxNewTokens = 160,
    batch_size: options.BatchSize = None,
    engine: options.Engine = "transformers",
    server: options.Servers = None,
    served_name: options.ServedName = None,
    timeout: options.Timeout = None,
    vllm_option: options.VllmOptions = None,
    as_json: options.Json = False,
) -> None:
    """Let the model answer each prompt both ways, and keep the pairs in which the contrast came about."""
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    chosen = EngineChoice(
        engine, server or (), served_name, timeout, vllm_option or (), placement, template_option or ()
    )
    from steerkit.engines.base import Decoding
    from steerkit.extraction.make import abstention, brevity, make_pairs
    from steerkit.extraction.pairs import save_pairs
    from steerkit.scoring.abstention import abstains
    from steerkit.suites.suite import load_suite

    items = load_suite(given.file(suite or behaviour)).split(split)
    items = items if limit is None else items.limit(limit)
    runs_on = chosen.open(model, dtype, batch_size)
    with console.progress(f"making {behaviour} pairs") as progress:
        made = make_pairs(
            runs_on,
            [item.prompt for item in items.items],
            brevity() if behaviour == "brevity" else abstention(abstains),
            Decoding(max_new_tokens),
            progress=progress,
        )
    save_pairs(made.pairs, out)
    dropped = {items.items[place].id: why for place, why in made.dropped}
    if as_json:
        console.print_json({"out": str(out), "pairs": len(made.pairs), "dropped": dropped})
        return
    for item, why in dropped.items():
        console.say(f"dropped {item}: {why}")
    console.say(f"{len(made.pairs)} pairs in {out}, {len(made.dropped)} dropped")
    contrast = ["--contrast", "length"] if behaviour == "brevity" else []
    console.say(f"next: {console.command('steerkit', 'pairs', 'lint', out, *contrast)}")
