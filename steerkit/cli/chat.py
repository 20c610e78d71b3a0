"""`steerkit chat`: talk to the steered model, and turn its strength while talking."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from steerkit.cli import console, options
from steerkit.cli.decoding import DecodingChoice
from steerkit.cli.engine import EngineChoice
from steerkit.core.errors import MisuseError, SteerkitError

if TYPE_CHECKING:
    from steerkit.core.prompts import Message
    from steerkit.engines.base import Decoding, Engine
    from steerkit.interventions.base import Intervention

HELP = """/strength 1.5   set the strength of every steering
/layer 12       move every steering to this layer (4+8 for several)
/scope all      change where it acts
/off  /on       take the steering out, put it back
/clear          forget the conversation
//text          say /text, a line that begins with a slash
/quit           leave"""


@dataclass
class Conversation:
    """What was said, and what acts on the next reply."""

    interventions: tuple[Intervention, ...]
    on: bool = True
    messages: tuple[Message, ...] = ()

    def command(self, line: str) -> str:
        """Carry out a `/command` and say what holds now; MisuseError for one that makes no sense."""
        from steerkit.interventions.spec import parse_range

        name, _, value = line[1:].strip().partition(" ")
        match name:
            case "strength":
                strength, *others = parse_range(value, float, what="/strength")
                if others:
                    raise MisuseError(f"/strength takes one number, got {value!r}")
                self._change(strength=strength)
            case "layer":
                layers = parse_range(value, int, separator="+", what="/layer")
                self._change(layers=layers)
            case "scope":
                self._change(scope=value.strip())
            case "off" | "on":
                self.on = name == "on"
            case "clear":
                self.messages = ()
            case _:
                raise MisuseError(
                    f"unknown command /{name}; /help lists them, and // begins a line that the model is to read"
                )
        specs = " ; ".join(map(str, self.interventions)) or "nothing"
        return specs if self.on else f"off ({specs})"

    def _change(self, **fields: object) -> None:
        from steerkit.interventions.steering import Steering

        self.interventions = tuple(
            replace(each, **fields) if isinstance(each, Steering) else each  # type: ignore[arg-type]
            for each in self.interventions
        )


def chat(
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
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    stop: options.Stop = None,
    decoding: options.Settings = None,
    seed: options.Seed = 0,
    allow_mismatch: options.AllowMismatch = False,
    engine: options.Engine = "transformers",
    server: options.Servers = None,
    served_name: options.ServedName = None,
    timeout: options.Timeout = None,
    vllm_option: options.VllmOptions = None,
) -> None:
    """Talk to the steered model; /strength 1.5 turns it while you talk, /help lists the commands."""
    placement = options.placement(device, device_map, max_memory, offload_folder, quantization)
    chosen = EngineChoice(
        engine, server or (), served_name, timeout, vllm_option or (), placement, template_option or ()
    )
    from steerkit.runs.references import read_interventions

    conversation = Conversation(read_interventions(steer or ()))
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
    runs_on = chosen.open(model, dtype, 1, allow_mismatch=allow_mismatch)
    sampled = how.of(runs_on.model)
    if not runs_on.model.renderer.has_chat_template:
        console.say(f"{runs_on.model.name} has no chat template: every line is a question of its own")
    console.say("/help lists the commands, /quit leaves")
    while (line := _read()) is not None:
        if line in ("/quit", "/exit"):
            break
        if line == "/help":
            console.say(HELP)
            continue
        try:
            if line.startswith("/") and not line.startswith("//"):
                console.say(conversation.command(line))
            elif line:
                _reply(runs_on, conversation, line.removeprefix("/"), sampled, system)
        except SteerkitError as error:
            console.report_error(str(error))


def _read() -> str | None:
    try:
        return console.out.input("[bold]> [/]" if console.out.is_terminal else "").strip()
    except EOFError:
        return None


def _reply(
    engine: Engine, conversation: Conversation, line: str, decoding: Decoding, system: str | None
) -> None:
    from steerkit.core.prompts import Message
    from steerkit.engines.base import Request

    asked = (*conversation.messages, Message(role="user", content=line))
    keeps_history = engine.model.renderer.has_chat_template
    acting = conversation.interventions if conversation.on else ()
    request = Request(asked if keeps_history else line, acting, decoding, system)
    (completion,) = engine.generate([request])
    console.show(completion.text)
    if keeps_history:
        conversation.messages = (*asked, Message(role="assistant", content=completion.answer))
