"""From a request's extra arguments to steerings: spec strings, or the same as JSON. Every limit stands here.

"steerkit": "abstain@layer=14,strength=1.25"                       one steering
"steerkit": ["abstain@layer=14", "brief@layer=9,scope=thinking"]   several, applied in this order
"steerkit": "[{\\"vector\\": \\"abstain\\", \\"layer\\": [14], \\"strength\\": 1.25}]"   the same as JSON text
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from steerkit.core.errors import MisuseError
from steerkit.engines.remote.arguments import ARGUMENT, DIGESTS, PROMPT_TOKENS
from steerkit.interventions.spec import KEYS, parse_spec
from steerkit.interventions.steering import Steering
from steerkit.interventions.vector import SteeringVector

LONGEST_SPEC = 1024
LONGEST_JSON = 1 << 16
MOST_STEERINGS = 16
# Ranges are written out number by number, so a short text could ask for millions.
MOST_COLONS = 4
WIDE_RANGE = re.compile(r"[0-9]{4}\s*:|:\s*[0-9]{4}")

Load = Callable[[str], SteeringVector]


def parse_steerings(value: Any, load: Load, load_gate: Load) -> tuple[Steering, ...]:
    """The steerings that a request's `steerkit` argument names. Raises SteerkitError saying what is wrong.

    `load` and `load_gate` turn a name into a vector, and are all that touches a file.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = _json(value)
    entries = value if isinstance(value, list) else [value]
    if len(entries) > MOST_STEERINGS:
        raise MisuseError(f"{len(entries)} steerings in one request: at most {MOST_STEERINGS}")
    return tuple(parse_spec(_spec(entry), load, load_gate) for entry in entries)


def check_digests(value: Any, steerings: Sequence[Steering]) -> None:
    """Raise MisuseError where a request says which vectors it means, and these are others."""
    if value is None:
        return
    ours = digests_of(steerings)
    if (
        not isinstance(value, list)
        or not all(isinstance(digest, str) for digest in value)
        or len(value) != len(ours)
    ):
        raise MisuseError(f"{DIGESTS!r} is a list of {len(ours)} texts, one for each vector that is named")
    names = [vector.name for steering in steerings for vector in steering.vectors]
    for name, digest, asked in zip(names, ours, value, strict=True):
        if digest != asked:
            raise MisuseError(
                f"{DIGESTS!r}: this server's vector {name!r} is another one (digest {digest[:12]}, not "
                f"{str(asked)[:12]}): put yours into its folder under a name of its own"
            )


def digests_of(steerings: Sequence[Steering]) -> list[str]:
    """The digests of all vectors in the order in which the steerings name them."""
    return [vector.digest for steering in steerings for vector in steering.vectors]


def parse_prompt_tokens(value: Any) -> int | None:
    """Where the completion begins, as a number of tokens; None where the request leaves it to the prompt."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise MisuseError(f"{PROMPT_TOKENS} is a number of tokens of at least 1, got {str(value)[:80]!r}")
    return value


def _json(text: str) -> Any:
    if len(text) > LONGEST_JSON:
        raise MisuseError(f"the JSON in {ARGUMENT!r} has {len(text)} characters: at most {LONGEST_JSON}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MisuseError(f"{ARGUMENT!r} begins like JSON and is none: {error}") from error


def _spec(entry: Any) -> str:
    if isinstance(entry, str) and entry.lstrip().startswith("{"):
        entry = _json(entry)
    if isinstance(entry, dict):
        entry = _spec_of_fields(entry)
    if not isinstance(entry, str):
        raise MisuseError(
            f"a steering is a spec string such as 'abstain@layer=14' or a JSON object, got {type(entry).__name__}"
        )
    if len(entry) > LONGEST_SPEC:
        raise MisuseError(f"a spec has {len(entry)} characters: at most {LONGEST_SPEC}")
    if entry.count(":") > MOST_COLONS or WIDE_RANGE.search(entry):
        raise MisuseError("'layer' holds more or wider ranges than any model has layers")
    return entry


def _spec_of_fields(fields: dict[str, Any]) -> str:
    """The spec string of a JSON object, so that there is one reading of both forms."""
    fields = dict(fields)
    vector = fields.pop("vector", None)
    if not isinstance(vector, str):
        raise MisuseError("a steering's 'vector' is missing, or is not a text")
    if "layers" in fields:
        fields["layer"] = fields.pop("layers")
    options = []
    for key, value in fields.items():
        if key not in KEYS:
            raise MisuseError(f"unknown field {key[:80]!r}; the fields are vector, {', '.join(KEYS)}")
        values = value if isinstance(value, list) and key == "layer" else [value]
        if not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
            raise MisuseError(f"field {key!r} holds something other than numbers or text")
        text = "+".join(str(v) for v in values)
        if "," in text or "=" in text or "@" in text:
            raise MisuseError(f"field {key!r}: {text[:80]!r} holds a character that no value has")
        options.append(f"{key}={text}")
    return f"{vector}@{','.join(options)}"
