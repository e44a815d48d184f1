"""The model worker: one thread that owns the pair, and takes the rounds of all active requests in turn.

Every active request has a slot, a sibling of the pair with a cache of its own; slots wait for each other for a round at
most.  Requests beyond the slots wait in a queue of bounded length, and what comes beyond that is refused.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from autotune.pair import Pair
from autotune.runtime.decode import DecodeRequest, Round, Statistics
from autotune.runtime.stops import StopStrings
from autotune.tokenizer import TextStream

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """What one round added to a reply."""

    text: str
    """What may be shown now: half characters and beginnings of stop strings are held back."""
    round: Round
    token_texts: tuple[str, ...]
    """Of every token of the round; empty in the middle of a character."""


@dataclass(frozen=True)
class Finished:
    """The end of a reply: what was held back, why it ended, and what it took."""

    text: str
    reason: str
    """`stop` (EOS or a stop string) or `length`."""
    statistics: Statistics


@dataclass(frozen=True)
class Failed:
    """A reply that will not be finished, and why."""

    message: str


Event = Piece | Finished | Failed


@dataclass(eq=False)
class Job:
    """A request on its way; `tell` is called from the worker's thread with every event, the last one an end."""

    request: DecodeRequest
    stops: Sequence[str]
    tell: Callable[[Event], None]
    cancelled: bool = False
    """Set by whoever no longer wants the reply; its slot is free after the round at hand."""
    arrived_s: float = field(default_factory=time.monotonic)


class QueueFull(Exception):
    """No slot is free and the queue is full; `retry_s`: about when it is worth asking again."""

    def __init__(self, waiting: int, retry_s: float) -> None:
        super().__init__(f"{waiting} requests are waiting already")
        self.retry_s = retry_s


class Closed(Exception):
    """The engine takes no more requests."""


@dataclass
class Load:
    """How busy the engine is."""

    running: int
    waiting: int
    slots: int
    queue: int


class Engine:
    """Decodes for many requests with one pair."""

    def __init__(self, pair: Pair, slots: int, queue: int) -> None:
        self.pair = pair
        self._slots = [pair, *(pair.sibling() for _ in range(slots - 1))]
        self._free = list(self._slots)
        self._most_waiting = queue
        self._waiting: deque[Job] = deque()
        self._active: deque[_Decoding] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_each = 1.0
        """Of a request in its slot, smoothed: what a refusal's advice is made of."""
        self._thread = threading.Thread(target=self._work, name="model worker", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take a request; QueueFull or Closed if it cannot be taken."""
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._waiting) >= self._most_waiting and not self._free:
                ahead = (len(self._waiting) + 1) / len(self._slots)
                raise QueueFull(len(self._waiting), ahead * self._seconds_each)
            self._waiting.append(job)
            self._changed.notify()

    def load(self) -> Load:
        """How busy it is."""
        with self._changed:
            waiting = sum(not job.cancelled for job in self._waiting)
            return Load(len(self._active), waiting, len(self._slots), self._most_waiting)

    @property
    def alive(self) -> bool:
        """Whether the worker works."""
        return self._thread.is_alive()

    def refuse_more(self) -> None:
        """Take no more requests; those that were taken go on."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def abort(self, reason: str) -> None:
        """End every request that was taken with a failure."""
        with self._changed:
            self._closed = True
            for decoding in self._active:
                decoding.abort = reason
            for job in self._waiting:
                job.tell(Failed(reason))
            self._waiting.clear()
            self._changed.notify()

    def close(self, reason: str = "the server is shutting down") -> None:
        """Stop at once, and free the models."""
        self.abort(reason)
        if self._thread.is_alive():
            self._thread.join()
        for slot in self._slots:
            slot.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._admit()
                while not self._active:
                    if self._closed and not self._waiting:
                        return
                    self._changed.wait()
                    self._admit()
                decoding = self._active[0]
            going = decoding.advance()
            with self._changed:
                self._active.popleft()
                if going:
                    self._active.append(decoding)
                else:
                    self._free.append(decoding.slot)
                    seconds = time.monotonic() - decoding.began_s
                    self._seconds_each += 0.2 * (seconds - self._seconds_each)

    def _admit(self) -> None:
        """Give free slots to those who wait."""
        while self._free and self._waiting:
            job = self._waiting.popleft()
            if not job.cancelled:
                self._active.append(_Decoding(job, self._free.pop()))


class _Decoding:
    """A request in its slot."""

    def __init__(self, job: Job, slot: Pair) -> None:
        self.job = job
        self.slot = slot
        self.abort: str | None = None
        self.began_s = time.monotonic()
        self._statistics = Statistics()
        self._rounds: Iterator[Round] = slot.decoder.rounds(job.request, self._statistics)
        self._stream: TextStream = slot.tokenizer.stream()
        self._stops = StopStrings(job.stops)
        self._emitted = 0

    def advance(self) -> bool:
        """Take one round; whether there is more to do."""
        if self.job.cancelled:
            return False
        if self.abort is not None:
            self.job.tell(Failed(self.abort))
            return False
        try:
            done = next(self._rounds, None)
        except Exception as error:
            logger.exception("a request failed")
            self.job.tell(Failed(f"{type(error).__name__} while decoding"))
            return False
        if done is None:
            return self._finish("length")
        texts = tuple(self._stream.push(token) for token in done.tokens)
        self._emitted += len(done.tokens)
        self.job.tell(Piece(self._stops.push("".join(texts)), done, texts))
        if self._stops.stopped or done.tokens[-1] in self.job.request.eos_ids:
            return self._finish("stop")
        return self._emitted < self.job.request.max_new_tokens or self._finish("length")

    def _finish(self, reason: str) -> bool:
        rest = self._stops.push(self._stream.finish()) + self._stops.finish()
        if self._stops.stopped:
            reason = "stop"
        self.job.tell(Finished(rest, reason, self._statistics))
        return False
