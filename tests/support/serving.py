"""A server on a free port of this machine, in a thread, and fake pairs for its engine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import uvicorn
from numpy.typing import NDArray

from autotune.pair import Pair
from autotune.runtime.decode import Decoder
from autotune.runtime.drafter import ModelDrafter
from autotune.runtime.session import Session
from autotune.server.app import Limits, create_app
from autotune.server.engine import Engine
from tests.support.sessions import PairwiseSession, near_table, random_table


class Gated:
    """A session whose verifications wait until they are let through, so that a test decides how far a request comes."""

    def __init__(self, session: Session, gate: threading.Semaphore) -> None:
        self._session = session
        self._gate = gate

    def greedy(self, tokens: Any, start: int) -> NDArray[np.int64]:
        self._gate.acquire()
        return self._session.greedy(tokens, start)

    def sibling(self) -> Session:
        return cast(Session, Gated(self._session.sibling(), self._gate))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def gated(pair: Pair, gate: threading.Semaphore) -> Pair:
    """The pair, every call of whose target waits for the gate."""
    pair.decoder.target = cast(Session, Gated(pair.decoder.target, gate))
    return pair


class FakeTokens:
    """Token n is the letter n of the alphabet."""

    def stream(self) -> Any:
        return SimpleNamespace(push=lambda token: "abcdefg"[token], finish=lambda: "")


class FakePair:
    """The part of a pair that an engine needs."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.tokenizer = FakeTokens()
        self.closed = False

    def sibling(self) -> "FakePair":
        return FakePair(self.decoder.sibling())

    def close(self) -> None:
        self.closed = True


def fake_pair(seed: int = 1, lookahead: int = 2) -> Pair:
    """A pair of fakes."""
    table = random_table(seed)
    drafter = ModelDrafter(PairwiseSession(near_table(table, 9, 0.5)))
    return cast(Pair, FakePair(Decoder(PairwiseSession(table), drafter, lookahead)))


@contextmanager
def serving(pair: Pair, *, slots: int = 4, queue: int = 8, limits: Limits | None = None) -> Iterator[str]:
    """The address of a server of the pair, which it closes."""
    engine = Engine(pair, slots, queue)
    app = create_app(engine, "demo", limits or Limits())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    started = threading.Event()
    thread = threading.Thread(target=server.run)
    original = server.startup

    async def startup(sockets: Any = None) -> None:
        await original(sockets)
        started.set()

    server.startup = startup  # type: ignore[method-assign]
    thread.start()
    assert started.wait(30)
    try:
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
