"""Random requests by the server's own schema, most of them malformed: no fault and no crash.

    python -m benchmarks.malformed --artifact autotune-run/artifact [--out FILE] [--requests 10000] [--seed 0]

schemathesis makes the bodies: nine in ten violate the schema in some way, the others keep to it (with few new tokens,
since every token that is asked for is decoded).  Every tenth is then cut or has bytes replaced, so that it is no JSON.
Counted are answers by status; `faults` are answers of 500 and above, broken connections and errors that are not in
OpenAI's form.
"""

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed

from benchmarks.record import machine, write_record
from benchmarks.server_process import served

MALFORMED_SHARE, DAMAGED_SHARE = 0.9, 0.1
MOST_NEW_TOKENS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    facts = machine()
    with served(arguments.artifact) as server, httpx2.Client(timeout=60) as client:
        statuses: Counter[str] = Counter()
        faults: list[str] = []
        for path, content in bodies(server.url, arguments.requests, arguments.seed):
            status, fault = send(client, server.url + path, content)
            statuses[status] += 1
            faults += [fault] if fault else []
        healthy = client.get(f"{server.url}/healthz").status_code == 200
        rss_mib = server.rss_bytes / 2**20
    results = {
        "requests": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())),
        "faults": len(faults),
        "first_faults": faults[:5],
        "healthy_afterwards": healthy,
        "rss_mib_afterwards": rss_mib,
    }
    write_record("malformed", facts, results, ("fastapi", "schemathesis"), arguments.out)


def bodies(url: str, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Paths and bodies, in turn of both endpoints."""
    rng = random.Random(seed)
    operations = [found.ok() for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]
    asked = [operation for operation in operations if operation.method == "post"]
    modes = (
        (schemathesis.GenerationMode.NEGATIVE, MALFORMED_SHARE),
        (schemathesis.GenerationMode.POSITIVE, 1 - MALFORMED_SHARE),
    )
    for place, operation in enumerate(asked):
        for mode, share in modes:
            examples = round(count * share / len(asked))
            for body in drawn(operation.as_strategy(generation_mode=mode), examples, seed + place):
                content = httpx2.Request("POST", url, json=_short(body)).content
                yield operation.path, damage(content, rng) if rng.random() < DAMAGED_SHARE else content


def drawn(strategy: Any, count: int, seed: int) -> list[Any]:
    """Bodies of so many cases."""
    found: list[Any] = []

    @hypothesis_seed(seed)
    @settings(
        max_examples=2 * count,  # some have no body
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def take(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict | list | str | int | float | bool | None):
            found.append(case.body)

    take()
    return found[:count]


def damage(content: bytes, rng: random.Random) -> bytes:
    """The body cut somewhere, or with a byte replaced."""
    if not content:
        return b"{"
    place = rng.randrange(len(content))
    return (
        content[:place] if rng.random() < 0.5 else content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    )


def send(client: httpx2.Client, url: str, content: bytes) -> tuple[str, str | None]:
    """The status of the answer, and what is wrong with it."""
    try:
        answer = client.post(url, content=content, headers={"Content-Type": "application/json"})
    except httpx2.HTTPError as error:
        return type(error).__name__, f"{type(error).__name__}: {content[:200]!r}"
    if answer.status_code >= 500:
        return str(answer.status_code), f"{answer.status_code}: {content[:200]!r}"
    if answer.status_code >= 400 and not answer.json().get("error", {}).get("message"):
        return str(answer.status_code), f"no error in {answer.text[:200]!r}"
    return str(answer.status_code), None


def _short(body: Any) -> Any:
    """A body that asks for few tokens, if it asks for any sensible number of them."""
    if isinstance(body, dict):
        for name in ("max_tokens", "max_completion_tokens"):
            if isinstance(body.get(name), int) and body[name] > MOST_NEW_TOKENS:
                body[name] = MOST_NEW_TOKENS
    return body


if __name__ == "__main__":
    main()
