"""How much one request may ask for, and how much may wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A server's limits; what passes one gets a 4xx that says so.

    `most_waiting` rows wait at once (then 429). A completion has at most `most_tokens` (None: what the model reads) and
    a chat's has `usual_tokens` where the request does not say. A body has at most `longest_body` bytes and is there
    within `read_seconds`; a client that leaves its answer unread for `write_seconds` is given up.
    """

    most_waiting: int = 256
    most_tokens: int | None = None
    usual_tokens: int = 1024
    most_choices: int = 64
    most_stops: int = 16
    longest_stop: int = 256  # characters
    most_logprobs: int = 20
    longest_body: int = 4 << 20
    read_seconds: float = 30.0
    write_seconds: float = 30.0
    closing_seconds: float = 30.0


# No text of a model's longest prompt has more characters a token than this.
CHARACTERS_A_TOKEN = 64
RETRY_SECONDS = 1
