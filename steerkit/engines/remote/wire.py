"""How a request names interventions, to vLLM's plugin and to `steerkit serve` alike, within limits.

    "steerkit": "abstain@layer=14,strength=1.25"                       one spec string, or several parted by " ; "
    "steerkit": ["abstain@layer=14", "brief@layer=9,scope=thinking"]   several, applied in this order
    "steerkit": "{\\"vector\\": \\"abstain\\", \\"layers\\": [14]}"          a JSON form, as text, or a list of them

In the JSON form a vector is a name, or `{"name", "sha256"}`, which is refused where the server's vector of that name is
another one. Fields that are left out have their defaults.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from steerkit.core.errors import MisuseError, SteerkitError
from steerkit.core.sites import RESID_POST
from steerkit.engines.remote.arguments import ARGUMENT, PROMPT_TOKENS
from steerkit.interventions.base import Intervention, json_reference
from steerkit.interventions.gate import PositionGate
from steerkit.interventions.prompt_edit import PromptEdit
from steerkit.interventions.spec import parse_all
from steerkit.interventions.steering import Steering
from steerkit.interventions.store import Store, from_json

LONGEST_SPEC = 1024
LONGEST_JSON = 1 << 16
MOST_INTERVENTIONS = 16
# Ranges are written out number by number, so a short text could ask for millions.
MOST_COLONS = 4
WIDE_RANGE = re.compile(r"[0-9]{4}\s*:|:\s*[0-9]{4}")
LONGEST_MESSAGE = 500
PARTS_OF_GATES = {"position": "vector", "probe": "probe"}  # kind of gate -> what its form refers to
READ_PARTS = ("vector", "probe")  # kinds of readers whose forms refer to one
# What of a steering vLLM's tables express; a steering with any other field is refused by the field's name.
EXPRESSED = {"vector", "layers", "strength", "operation", "scope", "target", "gate"}


def supports(intervention: Intervention) -> str | None:
    """Return why vLLM cannot carry out an intervention; None where it can.

    Prompt edits are made before a prompt is sent, so those that edit the prompt alone are carried out.
    """
    if intervention.gate is not None and not isinstance(intervention.gate, PositionGate):
        return (
            f"'gate' {intervention.gate.name!r} is read from the whole prompt, and vLLM gates positions alone"
        )
    if isinstance(intervention, PromptEdit):
        return None if intervention.begin is None else "'begin' forces tokens, which vLLM cannot"
    if not isinstance(intervention, Steering):
        return "vLLM has no rules on logits"
    if intervention.site != RESID_POST:
        return f"'site' {intervention.site!r} is not supported in vLLM, which steers {RESID_POST} alone"
    for field in dataclasses.fields(intervention):
        value = getattr(intervention, field.name)
        if field.name not in EXPRESSED and value != field.default:
            return f"{field.name!r} {value!r} is not supported in vLLM"
    if intervention.scope == "tool":
        return "'scope' 'tool' is not supported in vLLM, where calls of tools are steered as the answer is"
    if not intervention.acts_by.in_vllm:
        return f"'operation' {intervention.operation!r} is not supported in vLLM"
    return None


def to_argument(steerings: Iterable[Steering]) -> list[str]:
    """Return what the extra argument `steerkit` holds over HTTP, whose values are flat: JSON forms as texts."""
    return [json.dumps(each.to_json()) for each in steerings]


def read_argument(value: Any, vectors: Store) -> tuple[Intervention, ...]:
    """Return the interventions that a request's `steerkit` argument names, their vectors taken from `vectors`.

    Raises SteerkitError saying what is wrong, in a bounded message.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = read_json(value, ARGUMENT)
    entries = value if isinstance(value, list) else [value]
    _check_count(len(entries))
    try:
        found = tuple(each for entry in entries for each in _read(entry, vectors))
    except SteerkitError as error:
        raise MisuseError(str(error)[:LONGEST_MESSAGE]) from error
    _check_count(len(found))
    return found


def read_prompt_tokens(value: Any) -> int | None:
    """Return where the completion begins, in tokens; None where the request leaves it to the prompt."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise MisuseError(f"{PROMPT_TOKENS} is a number of tokens of at least 1, got {str(value)[:80]!r}")
    return value


def _check_count(count: int) -> None:
    if count > MOST_INTERVENTIONS:
        raise MisuseError(f"{count} steerings in one request: at most {MOST_INTERVENTIONS}")


def read_json(text: str, argument: str) -> Any:
    """Return what a JSON text of bounded length says. Raises MisuseError, naming the argument, for what is none."""
    if len(text) > LONGEST_JSON:
        raise MisuseError(f"the JSON in {argument!r} has {len(text)} characters: at most {LONGEST_JSON}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MisuseError(f"{argument!r} begins like JSON and is none: {error}") from error


def _read(entry: Any, vectors: Store) -> tuple[Intervention, ...]:
    if isinstance(entry, str) and entry.lstrip().startswith("{"):
        entry = read_json(entry, ARGUMENT)
    if isinstance(entry, dict):
        return (_from_form(entry, vectors),)
    if not isinstance(entry, str):
        raise MisuseError(
            f"a steering is a spec string such as 'abstain@layer=14' or a JSON object, got {type(entry).__name__}"
        )
    if len(entry) > LONGEST_SPEC:
        raise MisuseError(f"a spec has {len(entry)} characters: at most {LONGEST_SPEC}")
    if entry.count(":") > MOST_COLONS or WIDE_RANGE.search(entry):
        raise MisuseError("'layer' holds more or wider ranges than any model has layers")
    return parse_all([entry], vectors)


def _from_form(form: Mapping[str, Any], vectors: Store) -> Intervention:
    """An intervention of its JSON form; the vectors that it names are fetched by name, and held against its digests."""
    known = Store(files=False)

    def fetched(part: Mapping[str, Any], kind: str) -> dict[str, Any]:
        fetch = vectors.gate if kind == "probe" else vectors.vector
        found = named_part(part.get(kind), fetch, f"a steering's {kind!r}")
        known.add(found)
        return {**part, kind: json_reference(found)}

    whole: dict[str, Any] = {"kind": "steering", **form}
    if whole["kind"] == "steering":
        whole = fetched(whole, "vector")
    gate = whole.get("gate")
    if isinstance(gate, Mapping) and (kind := PARTS_OF_GATES.get(str(gate.get("kind")))):
        whole["gate"] = fetched(gate, kind)
    for key in ("follows", "when"):
        holder = whole.get(key)
        reader = holder.get("reader") if isinstance(holder, Mapping) else None
        if (
            isinstance(holder, Mapping)
            and isinstance(reader, Mapping)
            and str(reader.get("kind")) in READ_PARTS
        ):
            whole[key] = {**holder, "reader": fetched(reader, str(reader["kind"]))}
    return from_json(whole, known)


def named_part(reference: Any, fetch: Callable[[str], Any], what: str) -> Any:
    """Return the vector or probe that a JSON form refers to, by its name or as `{"name", "sha256"}`.

    Raises MisuseError, beginning with `what`, for no name, and where the part of that name has another digest.
    """
    named = reference if isinstance(reference, Mapping) else {"name": reference}
    name, digest = named.get("name"), named.get("sha256")
    if not isinstance(name, str):
        raise MisuseError(f"{what} is missing, or is no name")
    part = fetch(name)
    if digest not in (None, part.digest):
        raise MisuseError(
            f"this server's vector {part.name!r} is another one (digest {part.digest[:12]}, not {str(digest)[:12]}): "
            "put yours into its folder under a name of its own"
        )
    return part
