"""Options that mean the same in every verb."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import BadParameter, Option

from steerkit.core.errors import MisuseError

if TYPE_CHECKING:
    from steerkit.core.prompts import TemplateOption
    from steerkit.models.placement import Placement

Model = Annotated[str, Option("--model", "-m", help="Bundled name, hub id, folder or .gguf file.")]
Device = Annotated[str | None, Option(help="cpu, cuda, cuda:1, mps; default: a GPU if there is one.")]
DeviceMap = Annotated[
    str | None,
    Option(
        metavar="auto|JSON",
        help="Spread the weights: auto, balanced or sequential, or which module goes where, as JSON.",
    ),
]
MaxMemory = Annotated[
    list[str] | None,
    Option(
        metavar="DEVICE=SIZE",
        help="What a device may hold, as 0=10GiB or cpu=500MB; repeat for several. The rest stays on disk.",
    ),
]
OffloadFolder = Annotated[
    Path | None, Option(help="Where such weights are kept; default: a temporary folder.")
]
Quantization = Annotated[
    Literal["8bit", "4bit"] | None, Option(help="Round the weights as they are loaded (bitsandbytes).")
]
Dtype = Annotated[str | None, Option(help="float32, bfloat16, float16 or auto; default on a CPU: float32.")]
Pairs = Annotated[
    str,
    Option(
        "--pairs",
        "-p",
        help="Built-in pairs (abstention, brevity), a .jsonl file, suite:NAME, or - for standard input.",
    ),
]
Suite = Annotated[
    str, Option("--suite", "-s", help="{suites}, NAME:PATH, a .jsonl file, or - for standard input.")
]
Split = Annotated[str, Option(help="fit, choose or report.")]
Limit = Annotated[int | None, Option(min=1, help="At most this many items, a balanced mixture.")]
Steer = Annotated[
    list[str] | None,
    Option(
        metavar="SPEC",
        help="VECTOR, for its recommended use, or VECTOR@layer=14,strength=1.5,…; a prompt edit (dont-know-system); "
        "a rule ({rules}) as thinking-budget@tokens=128; RUN#CELL of a sweep. Repeat to compose.",
    ),
]
Read = Annotated[
    list[str] | None,
    Option(
        metavar="SPEC",
        help="Read every token: {readers}; VECTOR@layer=14, a probe's file, a vector's probe as "
        "VECTOR@as=probe, or a feature's activation as VECTOR@as=feature. Repeat for several.",
    ),
]
MaxNewTokens = Annotated[int, Option(min=1, help="Cut completions off here.")]
Temperature = Annotated[float | None, Option(min=0.0, help="0, the default, is greedy.")]
TopP = Annotated[
    float | None, Option(min=0.0, max=1.0, help="Sample from the fewest tokens of this probability.")
]
TopK = Annotated[int | None, Option(min=0, help="Sample from so many likeliest tokens; 0 for all.")]
MinP = Annotated[
    float | None, Option(min=0.0, max=1.0, help="Sample from tokens so likely, as a part of the likeliest.")
]
RepetitionPenalty = Annotated[
    float | None, Option(min=0.0, help="Above 1, tokens of prompt and completion get less likely.")
]
Stop = Annotated[
    list[str] | None,
    Option(metavar="TEXT", help="End a completion before this text, as it stands; repeat for several."),
]
Settings = Annotated[
    Literal["model"] | None,
    Option("--decoding", help="model: the model's own generation config; other options stand before it."),
]
Samples = Annotated[int, Option(min=1, help="Completions per prompt and cell.")]
Seed = Annotated[int, Option(help="Seed of whatever is random.")]
System = Annotated[str | None, Option(help="A system message before every prompt.")]
BatchSize = Annotated[
    int | None, Option(min=1, help="Rows that decode together; with --engine, requests under way at once.")
]
Engine = Annotated[str, Option(metavar="NAME", help="What runs the model: {engines}.")]
Servers = Annotated[
    list[str] | None,
    Option(
        metavar="URL",
        help="Address of a vLLM server that has steerkit's plugin; repeat for replicas. A key goes into "
        "STEERKIT_SERVER_API_KEY.",
    ),
]
ServedName = Annotated[
    str | None, Option(help="The model's name on the servers; default: the first they list.")
]
Timeout = Annotated[
    float | None, Option(min=0.1, help="Seconds that a request to a server may take; default 300.")
]
VllmOptions = Annotated[
    list[str] | None,
    Option(
        metavar="KEY=VALUE",
        help="An argument of vllm.LLM, such as tensor_parallel_size=2; repeat for several.",
    ),
]
TemplateOptions = Annotated[
    list[str] | None,
    Option(
        "--template-option",
        metavar="KEY=VALUE",
        help="For the model's chat template, as enable_thinking=false; repeat for several.",
    ),
]
AllowMismatch = Annotated[
    bool, Option("--allow-mismatch", help="Accept a vector from other weights of the same architecture.")
]
Json = Annotated[bool, Option("--json", help="Print JSON for machines.")]


def a_place(path: Path | None) -> Path | None:
    """Return where to write; Typer's error for `-`, since nothing that is written fits a pipe."""
    if path is not None and str(path) == "-":
        raise BadParameter("standard output takes no file: name one")
    return path


OutFile = Annotated[Path, Option("--out", "-o", help="File to write.", callback=a_place)]

DEFAULT_MODEL = "smollm2-135m-instruct"
TEMPLATE = "--template-option"


def placement(
    device: str | None,
    device_map: str | None,
    max_memory: Sequence[str] | None,
    offload_folder: Path | None,
    quantization: str | None,
) -> Placement:
    """Return where the options put the weights. Raises MisuseError for what they cannot mean."""
    from steerkit.models.placement import Placement

    spread: str | dict[str, int | str] | None = device_map
    if device_map is not None and device_map.lstrip().startswith("{"):
        try:
            spread = json.loads(device_map)
        except (ValueError, RecursionError) as error:
            raise MisuseError(
                f'--device-map {device_map!r} is not JSON such as {{"model.embed_tokens": 0, …}}: {error}'
            ) from error
    sizes: dict[int | str, int | str] = {}
    for text in max_memory or ():
        held_by, equals, size = text.partition("=")
        if not equals:
            raise MisuseError(f"--max-memory {text!r} is not DEVICE=SIZE, such as cpu=500MB")
        name = held_by.strip()
        sizes[int(name) if name.isdecimal() else name] = size
    return Placement(device, spread, sizes or None, offload_folder, quantization)


def key_values(texts: Sequence[str] | None, option: str) -> dict[str, object]:
    """Return what `KEY=VALUE`, repeated, says; values are JSON, or else texts. Raises MisuseError for anything else."""
    given: dict[str, object] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not equals or not name.isidentifier():
            raise MisuseError(f"{option} {text!r} is not KEY=VALUE, such as steps=40")
        try:
            given[name] = json.loads(value)
        except (ValueError, RecursionError):
            given[name] = value
    return given


def template_options(texts: Sequence[str] | None) -> dict[str, TemplateOption]:
    """Return what `--template-option`, repeated, says: booleans, numbers and texts by name.

    Raises MisuseError for anything else, and for an option that is given twice.
    """
    found: dict[str, TemplateOption] = {}
    for text in texts or ():
        written = text.partition("=")[2].strip()
        # What Python calls false is a text to JSON, and true to a template.
        word = written.lower() if written.lower() in ("true", "false") else written
        for name, value in key_values(
            [f"{text.partition('=')[0]}={word}" if "=" in text else text], TEMPLATE
        ).items():
            if name in found:
                raise MisuseError(f"{TEMPLATE} {name} is given twice: give it once")
            if not isinstance(value, bool | int | float | str):
                raise MisuseError(
                    f"{TEMPLATE} {text!r}: the value is a boolean, a number or a text, as low or false"
                )
            found[name] = value
    return found
