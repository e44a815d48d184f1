"""Bodies of bounded length."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotune.server.errors import error_body


class BodyLimit:
    """Refuses a request whose body is longer than allowed, whatever its headers say, before anything reads it."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, and hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read: list[Message] = []
        length, more = 0, True
        while more:
            message = await receive()
            read.append(message)
            length += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
            if length > self._most_bytes:
                text = f"the body is longer than {self._most_bytes} bytes"
                await JSONResponse(error_body(text, 413), 413)(scope, receive, send)
                return

        async def replay() -> Message:
            return read.pop(0) if read else await receive()

        await self._app(scope, replay, send)
