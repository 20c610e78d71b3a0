"""The extra arguments of a request that are ours. Light, as it is imported where nothing else of steerkit may fit.

"steerkit"                 the interventions, in order; see `wire`
"steerkit_prompt_tokens"   the completion begins behind this many tokens (for scoring a given text)
"steerkit_readers"         what is read of each token; see `readers`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from steerkit.core.errors import MisuseError

ARGUMENT = "steerkit"
PROMPT_TOKENS = "steerkit_prompt_tokens"
READERS = "steerkit_readers"
ARGUMENTS = (ARGUMENT, PROMPT_TOKENS, READERS)


def our_names(arguments: Iterable[Any] | None) -> list[str]:
    """Return those names of arguments that are ours, rightly spelt or not."""
    return [name for name in arguments or () if isinstance(name, str) and name.lower().startswith(ARGUMENT)]


def asked_for(extra_args: Mapping[str, Any] | None) -> bool:
    """Return whether these extra arguments ask for steering. Raises MisuseError for a misspelt argument."""
    ours = our_names(extra_args)
    for key in ours:
        if key not in ARGUMENTS:
            raise MisuseError(f"unknown argument {key[:80]!r}: the arguments are {', '.join(ARGUMENTS)}")
    if PROMPT_TOKENS in ours and ARGUMENT not in ours:
        raise MisuseError(f"{PROMPT_TOKENS!r} has no meaning without {ARGUMENT!r}")
    return ARGUMENT in ours
