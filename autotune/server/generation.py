"""One request from its arrival to the last event: taken by the engine, counted, and given up when nobody listens."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from fastapi import Request

from autotune.runtime.decode import DecodeRequest
from autotune.server.engine import Closed, Engine, Event, Failed, Finished, Job, Piece, QueueFull
from autotune.server.errors import ApiError, error_body
from autotune.server.metrics import Metrics
from autotune.server.replies import Format, Json, Tally

_LONGEST_WAIT_S = 60
_LOOK_S = 0.25
"""How often it is asked whether the client of a reply that is not streamed is still there."""


@dataclass(frozen=True)
class Generation:
    """A request that the engine took."""

    job: Job
    events: "asyncio.Queue[Event]"
    tally: Tally
    metrics: Metrics

    @staticmethod
    def start(
        engine: Engine, metrics: Metrics, request: DecodeRequest, stops: Sequence[str], lookahead: int
    ) -> "Generation":
        """Hand a request to the engine; ApiError if it takes no more."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def tell(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(request, stops, tell)
        try:
            engine.submit(job)
        except QueueFull as error:
            wait = str(min(max(1, round(error.retry_s)), _LONGEST_WAIT_S))
            raise ApiError(
                f"the server is busy: {error}; try again in {wait} s",
                status=429,
                code="queue_full",
                headers={"Retry-After": wait},
            ) from None
        except Closed:
            raise ApiError("the server is shutting down", status=503, code="shutting_down") from None
        metrics.count_prompt(len(request.prompt))
        return Generation(job, events, Tally(len(request.prompt), lookahead), metrics)

    async def pieces(self) -> AsyncIterator[Piece | Finished]:
        """The events of the reply, its end included; ApiError if it fails.  Gives the slot up however it is left."""
        last, reason = self.job.arrived_s, "abort"
        try:
            while True:
                event = await self.events.get()
                now = time.monotonic()
                if isinstance(event, Failed):
                    reason = "error"
                    raise ApiError(event.message, status=503, code="generation_failed")
                if isinstance(event, Piece):
                    self.metrics.count_round(event.round, now - last, first=not self.tally.tokens)
                    self.tally.add(event)
                    last = now
                else:
                    reason = event.reason
                    self.tally.statistics = event.statistics
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.job.cancelled = True
            self.metrics.count_end(reason, time.monotonic() - self.job.arrived_s)

    async def whole(self, reply: Format, client: Request) -> Json:
        """The reply at once; given up when the client is gone."""
        collecting = asyncio.ensure_future(self._collect(reply))
        while not collecting.done():
            await asyncio.wait([collecting], timeout=_LOOK_S)
            if not collecting.done() and await client.is_disconnected():
                collecting.cancel()
                break
        return await collecting

    async def stream(self, reply: Format, *, usage: bool) -> AsyncIterator[str]:
        """The reply as server-sent events; a failure is told as one."""
        try:
            for chunk in reply.opening():
                yield _event(chunk)
            async for event in self.pieces():
                if isinstance(event, Piece):
                    yield _event(reply.chunk(event.text, [event], None))
                else:
                    yield _event(reply.chunk(event.text, [], event.reason))
            if usage:
                yield _event(reply.usage_chunk(self.tally.usage()))
        except ApiError as error:
            yield _event(error_body(str(error), error.status, error.param, error.code))
        yield "data: [DONE]\n\n"

    async def _collect(self, reply: Format) -> Json:
        text, rounds, reason = "", [], ""
        async for event in self.pieces():
            text += event.text
            if isinstance(event, Piece):
                rounds.append(event)
            else:
                reason = event.reason
        return reply.whole(text, rounds, reason, self.tally.usage())


def _event(chunk: Json) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
