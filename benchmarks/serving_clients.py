"""Clients of a server, in one asyncio process: a job a line on stdin, what came of it as a line on stdout.

A job has a `url`, how many `clients`, the `bodies` of requests to `/v1/chat/completions`, and whether to `stream`. Each
client takes the next request when its last one is answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx


async def answered(job: dict[str, Any]) -> list[list[int]]:
    """The tokens of each answer, in the order of the requests."""
    found: list[list[int]] = [[] for _ in job["bodies"]]
    left: Iterator[tuple[int, dict[str, Any]]] = iter(enumerate(job["bodies"]))
    ask = streamed if job["stream"] else whole
    limits = httpx.Limits(max_connections=job["clients"], max_keepalive_connections=job["clients"])
    async with httpx.AsyncClient(base_url=job["url"], timeout=None, limits=limits, trust_env=False) as http:

        async def client() -> None:
            for number, body in left:
                found[number] = await ask(http, body)

        await asyncio.gather(*(client() for _ in range(job["clients"])))
    return found


async def whole(http: httpx.AsyncClient, body: dict[str, Any]) -> list[int]:
    """The tokens of one answer."""
    response = await http.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    tokens: list[int] = response.json()["choices"][0]["token_ids"]
    return tokens


async def streamed(http: httpx.AsyncClient, body: dict[str, Any]) -> list[int]:
    """The same, read piece by piece."""
    tokens: list[int] = []
    async with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    tokens += choice.get("token_ids") or []
    return tokens


def main() -> None:
    """Do jobs until stdin ends."""
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        token_ids = asyncio.run(answered(json.loads(line)))
        told = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "token_ids": token_ids,
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
