"""`steerkit chat`: talk to the steered model, and turn its strength while talking."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from steerkit.cli import console, options
from steerkit.core.errors import MisuseError, SteerkitError

if TYPE_CHECKING:
    from steerkit.core.prompts import Message
    from steerkit.engines.base import Decoding
    from steerkit.engines.transformers.engine import TransformersEngine
    from steerkit.interventions.steering import Steering

HELP = """/strength 1.5   set the strength of every steering
/layer 12       move every steering to this layer (4+8 for several)
/scope all      change where it acts
/off  /on       take the steering out, put it back
/clear          forget the conversation
/quit           leave"""


@dataclass
class Conversation:
    """What was said, and how the next reply is steered."""

    steerings: tuple[Steering, ...]
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
                self.steerings = tuple(replace(s, strength=strength) for s in self.steerings)
            case "layer":
                layers = parse_range(value, int, separator="+", what="/layer")
                self.steerings = tuple(replace(s, layers=layers) for s in self.steerings)
            case "scope":
                self.steerings = tuple(replace(s, scope=value.strip()) for s in self.steerings)  # type: ignore[arg-type]
            case "off" | "on":
                self.on = name == "on"
            case "clear":
                self.messages = ()
            case _:
                raise MisuseError(f"unknown command /{name}; /help lists them")
        specs = " ; ".join(str(s) for s in self.steerings) or "no vector"
        return specs if self.on else f"off ({specs})"


def chat(
    steer: options.Steer = None,
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = None,
    dtype: options.Dtype = None,
    system: options.System = None,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = 0,
    allow_mismatch: options.AllowMismatch = False,
) -> None:
    """Talk to the steered model; /strength 1.5 turns it while you talk, /help lists the commands."""
    from steerkit.engines.base import Decoding
    from steerkit.engines.transformers.engine import TransformersEngine
    from steerkit.interventions.spec import parse_spec

    conversation = Conversation(tuple(parse_spec(spec) for spec in steer or ()))
    lm = console.load(model, device, dtype)
    engine = TransformersEngine(lm, 1, allow_mismatch=allow_mismatch)
    if not lm.renderer.has_chat_template:
        console.say(f"{lm.name} has no chat template: every line is a question of its own")
    console.say("/help lists the commands, /quit leaves")
    while (line := _read()) is not None:
        if line in ("/quit", "/exit"):
            break
        if line == "/help":
            console.say(HELP)
            continue
        try:
            if line.startswith("/"):
                console.say(conversation.command(line))
            elif line:
                _reply(engine, conversation, line, Decoding(max_new_tokens, temperature, top_p, seed), system)
        except SteerkitError as error:
            console.report_error(str(error))


def _read() -> str | None:
    try:
        return console.out.input("[bold]> [/]" if console.out.is_terminal else "").strip()
    except EOFError:
        return None


def _reply(
    engine: TransformersEngine, conversation: Conversation, line: str, decoding: Decoding, system: str | None
) -> None:
    from steerkit.core.prompts import Message
    from steerkit.engines.base import Request

    asked = (*conversation.messages, Message(role="user", content=line))
    keeps_history = engine.lm.renderer.has_chat_template
    steerings = conversation.steerings if conversation.on else ()
    request = Request(asked if keeps_history else line, steerings, decoding, system)
    (completion,) = engine.generate([request])
    console.out.print(completion.text, soft_wrap=True)
    if keeps_history:
        conversation.messages = (*asked, Message(role="assistant", content=completion.text))
