"""Log-probabilities of tokens in the two forms that OpenAI has for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from steerkit.engines.transformers.logprobs import TokenLogprobs

TextOf = Callable[[int], str]
LEAST = -9999.0  # stands for minus infinity, which JSON does not have; vLLM's


def of_chat(found: Sequence[TokenLogprobs], text_of: TextOf) -> dict[str, Any]:
    """Return the `logprobs` of a chat's choice."""

    def told(token: int, nats: float) -> dict[str, Any]:
        text = text_of(token)
        return {"token": text, "logprob": _finite(nats), "bytes": list(text.encode("utf-8", "replace"))}

    content = [
        told(each.token_id, each.logprob) | {"top_logprobs": [told(*likely) for likely in each.top]}
        for each in found
    ]
    return {"content": content, "refusal": None}


def of_completion(found: Sequence[TokenLogprobs], text_of: TextOf, offset: int) -> dict[str, Any]:
    """Return the `logprobs` of a completion's choice; `offset` is how many characters its text had before.

    The token itself is told among the likeliest ones, as vLLM has it.
    """
    texts = [text_of(each.token_id) for each in found]
    offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [_finite(each.logprob) for each in found],
        "top_logprobs": [
            {text_of(token): _finite(nats) for token, nats in (*each.top, (each.token_id, each.logprob))}
            for each in found
        ],
        "text_offset": offsets,
    }


def _finite(nats: float) -> float:
    return max(nats, LEAST)
