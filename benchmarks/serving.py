"""`autotune serve` under load: many streams at once for minutes.

    python -m benchmarks.serving --artifact autotune-run/artifact [--out FILE] [--streams 32] [--seconds 300]

Every stream asks again and again, for a continuation of one of the built-in prompts, greedy or sampled, of 16 … 200
new tokens.  Every twentieth reply is left in the middle, as by a killed client.  Counted are errors, tokens/s of all
streams together, the time to the first token, and the time between one round's tokens and the next ones of the same
reply, as clients see them (the load generator shares the cores).  The server's memory is noted every few seconds;
`memory_growth` is the mean of the last fifth over that of the second fifth of the time.  At the end `running` and
`waiting` must be 0: clients that went left no slot behind.
"""

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from autotune.workload import BUILTIN, read_prompts
from benchmarks.record import machine, write_record
from benchmarks.server_process import Served, served

LEFT_SHARE = 0.05
PATIENCE_S = 120.0
NEW_TOKENS = (16, 200)
WATCH_S = 2.0


@dataclass
class Seen:
    """What clients saw."""

    replies: int = 0
    left: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    between_s: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--max-concurrent", type=int, default=32, help="slots of the server")
    arguments = parser.parse_args()
    facts = machine()
    slots = str(arguments.max_concurrent)
    with served(arguments.artifact, "--max-concurrent", slots, "--max-queue", str(arguments.streams)) as server:
        seen = asyncio.run(load(server, arguments.streams, arguments.seconds))
        left_behind = at_rest(server.url)
    settings = {"streams": arguments.streams, "seconds": arguments.seconds, "slots": arguments.max_concurrent}
    results = {"settings": settings, **figures(seen, arguments.seconds), "at_rest": left_behind}
    write_record("serving", facts, results, ("fastapi", "uvicorn"), arguments.out)


async def load(server: Served, streams: int, seconds: float) -> Seen:
    """All streams at once, for so many seconds."""
    prompts = [prompt.text for prompt in read_prompts(BUILTIN)]
    seen, until = Seen(), time.monotonic() + seconds
    limits = httpx2.Limits(max_connections=streams + 4)
    async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client:

        async def watch() -> None:
            while time.monotonic() < until:
                seen.rss_bytes.append(server.rss_bytes)
                await asyncio.sleep(WATCH_S)

        await asyncio.gather(watch(), *(ask(client, seen, prompts, random.Random(n), until) for n in range(streams)))
    return seen


async def ask(client: httpx2.AsyncClient, seen: Seen, prompts: list[str], rng: random.Random, until: float) -> None:
    """One stream after the other, until it is time."""
    while time.monotonic() < until:
        body = {
            "prompt": rng.choice(prompts),
            "max_tokens": rng.randint(*NEW_TOKENS),
            "temperature": rng.choice([0.0, 0.7]),
            "stream": True,
            "return_rounds": True,
        }
        leave_after = rng.randint(1, 5) if rng.random() < LEFT_SHARE else None
        try:
            await follow(client, seen, body, leave_after)
        except (httpx2.HTTPError, ValueError, KeyError) as error:
            seen.errors.append(f"{type(error).__name__}: {error}")


async def follow(client: httpx2.AsyncClient, seen: Seen, body: dict[str, Any], leave_after: int | None) -> None:
    """One reply to its end, or until it is left."""
    last, chunks, ended = time.monotonic(), 0, False
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{answer.status_code}: {(await answer.aread())[:200]!r}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                ended = ended or line == "data: [DONE]"
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise ValueError(chunk["error"]["message"])
            rounds = [each for choice in chunk["choices"] for each in choice["rounds"]]
            if not rounds:
                continue
            now = time.monotonic()
            (seen.between_s if chunks else seen.first_s).append(now - last)
            last, chunks = now, chunks + 1
            seen.tokens += sum(len(each["pieces"]) for each in rounds)
            if leave_after is not None and chunks >= leave_after:
                seen.left += 1
                return
    if not ended:
        raise ValueError("the stream broke off")
    seen.replies += 1


def at_rest(url: str) -> dict[str, float]:
    """What the server thinks it is doing once nobody asks any more."""
    time.sleep(2.0)
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    counted = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {
        name: next(float(value) for key, value in counted.items() if key.startswith(f"vllm:num_requests_{name}"))
        for name in ("running", "waiting")
    }


def figures(seen: Seen, seconds: float) -> dict[str, Any]:
    """The figures of what was seen."""
    fifth = max(len(seen.rss_bytes) // 5, 1)
    early, late = np.mean(seen.rss_bytes[fifth : 2 * fifth]), np.mean(seen.rss_bytes[-fifth:])
    return {
        "replies": seen.replies,
        "left": seen.left,
        "errors": len(seen.errors),
        "first_errors": seen.errors[:5],
        "tokens_per_s": seen.tokens / seconds,
        "first_token_s": _quantiles(seen.first_s),
        "between_tokens_s": _quantiles(seen.between_s),
        "rss_mib": {"first": seen.rss_bytes[0] / 2**20, "last": seen.rss_bytes[-1] / 2**20},
        "memory_growth": float(late / early) - 1,
    }


def _quantiles(seconds: list[float]) -> dict[str, float | int]:
    p50, p90, p99 = np.quantile(seconds, [0.5, 0.9, 0.99]).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": max(seconds), "samples": len(seconds)}


if __name__ == "__main__":
    main()
