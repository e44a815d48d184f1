"""Engines of the comparison that need no library: one that counts upwards, and some that fail."""

import sys
import time
from collections.abc import Sequence

from benchmarks.peers.protocol import Answer, Generate, Setup, serve, timed


def open_engine(setup: Setup) -> Generate:
    """settings: `fault`, of opening or of answering."""
    fault = setup.settings.get("fault")
    print("a library that prints")  # noqa: T201
    if fault == "opening":
        raise FileNotFoundError("no such model")
    if fault == "dying":
        sys.exit("out of luck")

    def generate(prompt: Sequence[int], count: int, temperature: float, seed: int) -> Answer:
        if fault == "answering":
            raise ValueError("too hot")
        while fault == "hanging":
            time.sleep(60.0)
        tokens, total_s, first_s = timed([prompt[-1] + 1 + n] for n in range(count))
        return Answer(tokens, total_s, first_s, count)

    return generate


if __name__ == "__main__":
    serve(open_engine)
