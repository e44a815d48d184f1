"""The model worker with fakes: fairness, bounds, cancellation and the end."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from autotune.runtime.decode import DecodeRequest
from autotune.server.engine import Closed, Engine, Event, Failed, Finished, Job, Piece, QueueFull
from tests.support.serving import FakePair, fake_pair, gated

WAIT_S = 20.0


class Told:
    """Events as they come."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.over = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, Piece):
            self.over.set()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if not isinstance(event, Failed))

    def end(self) -> Event:
        assert self.over.wait(WAIT_S)
        return self.events[-1]


def ask(engine: Engine, prompt: list[int], count: int, **changes: Any) -> tuple[Job, Told]:
    told = Told()
    stops = changes.pop("stops", [])
    job = Job(DecodeRequest(prompt, count, **changes), stops, told)
    engine.submit(job)
    return job, told


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_request_gets_what_it_would_get_alone() -> None:
    pair = fake_pair()
    requests = [([n, 3], 20 + n) for n in range(7)]
    expected = [
        "".join("abcdefg"[token] for token in pair.decoder.decode(DecodeRequest(prompt, count))[0])
        for prompt, count in requests
    ]
    engine = Engine(pair, slots=3, queue=8)
    engine.start()
    told = [ask(engine, prompt, count)[1] for prompt, count in requests]
    ends = [each.end() for each in told]
    engine.close()
    assert [each.text for each in told] == expected
    for end, (_, count) in zip(ends, requests, strict=True):
        assert isinstance(end, Finished)
        assert (end.reason, end.statistics.tokens) == ("length", count)


def test_active_requests_take_turns() -> None:
    gate = threading.Semaphore(0)
    engine = Engine(gated(fake_pair(lookahead=0), gate), slots=2, queue=4)
    one, other = ask(engine, [1], 50)[1], ask(engine, [2], 50)[1]
    engine.start()
    gate.release(20)
    until(lambda: len(one.events) + len(other.events) == 20)
    assert len(one.events) == len(other.events) == 10
    gate.release(200)
    engine.close()


def test_what_exceeds_slots_and_queue_is_refused_with_advice() -> None:
    gate = threading.Semaphore(0)
    engine = Engine(gated(fake_pair(), gate), slots=1, queue=2)
    engine.start()
    first, _ = ask(engine, [1], 30)
    until(lambda: engine.load().running == 1)
    ask(engine, [2], 30)
    last, last_told = ask(engine, [3], 30)
    with pytest.raises(QueueFull, match="2 requests are waiting") as refused:
        ask(engine, [4], 30)
    assert refused.value.retry_s > 0
    load = engine.load()
    assert (load.running, load.waiting, load.slots, load.queue) == (1, 2, 1, 2)
    first.cancelled = True  # its slot is free after the round at hand
    gate.release(500)
    assert isinstance(last_told.end(), Finished)
    assert not last.cancelled
    engine.close()


def test_a_cancelled_request_frees_its_slot() -> None:
    gate = threading.Semaphore(0)
    engine = Engine(gated(fake_pair(), gate), slots=1, queue=2)
    engine.start()
    job, told = ask(engine, [1], 100_000)
    gate.release(3)
    until(lambda: len(told.events) == 3)
    job.cancelled = True
    gate.release(1)
    until(lambda: engine.load().running == 0)
    assert len(told.events) <= 4
    gate.release(100)
    assert isinstance(ask(engine, [2], 10)[1].end(), Finished)
    engine.close()


def test_a_stop_string_ends_a_reply_before_it() -> None:
    pair = fake_pair()
    engine = Engine(pair, slots=1, queue=2)
    engine.start()
    whole = ask(engine, [1], 40)[1]
    whole.end()
    stop = whole.text[10:13]
    cut = ask(engine, [1], 40, stops=[stop])[1]
    end = cut.end()
    engine.close()
    assert isinstance(end, Finished)
    assert end.reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_a_fault_of_one_request_leaves_the_others_alone() -> None:
    pair = fake_pair()
    engine = Engine(pair, slots=2, queue=4)
    engine.start()
    broken = ask(engine, [99], 10)[1]  # a token that the fake model does not know
    sound = ask(engine, [1], 10)[1]
    assert isinstance(broken.end(), Failed)
    assert isinstance(sound.end(), Finished)
    engine.close()


def test_an_abort_tells_everyone_and_takes_nobody() -> None:
    gate = threading.Semaphore(0)
    pair = gated(fake_pair(), gate)
    engine = Engine(pair, slots=1, queue=2)
    engine.start()
    told = [ask(engine, [n], 100_000)[1] for n in range(2)]
    until(lambda: engine.load().running == 1)
    engine.abort("out of time")
    gate.release(10)
    assert [each.end() for each in told] == [Failed("out of time")] * 2
    with pytest.raises(Closed):
        ask(engine, [1], 1)
    engine.close()
    assert not engine.alive
    assert isinstance(pair, FakePair)
    assert pair.closed
