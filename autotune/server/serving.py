"""`autotune serve`: opens a pair, listens, and ends in good order."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from autotune.errors import BadRequest
from autotune.pair import Pair
from autotune.server.app import Limits, create_app
from autotune.server.engine import Engine


@dataclass(frozen=True)
class ServeRequest:
    """What is served, where, and for how many at once."""

    artifact: Path
    target: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    slots: int = 8
    queue: int = 64
    shutdown_s: float = 30.0
    threads: int | None = None
    model: str | None = None
    """The id that clients ask for; the target's by default."""
    body_bytes: int = Limits.body_bytes


def serve(request: ServeRequest, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; what is under way then may end within `shutdown_s`.

    on_ready: called with the server's address once it answers.  Raises ArtifactError for an artifact that cannot be
    run, and BadRequest where it cannot listen.
    """
    listener = _listen(request.host, request.port)  # before the models, which may take long
    try:
        pair = Pair.open(request.artifact, request.target, threads=request.threads)
        engine = Engine(pair, request.slots, request.queue)
        app = create_app(engine, request.model or pair.manifest.target.id, Limits(request.body_bytes, request.api_key))
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on")
        server = _Server(config, engine, request.shutdown_s, lambda: on_ready(_address(listener)))
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # the signal that ended it, raised once more when all is done
            return
    finally:
        listener.close()


def _address(listener: socket.socket) -> str:
    """Where it listens, for people."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Ends in good order: takes nothing new, lets what is under way end, and cuts it short when time is up."""

    def __init__(self, config: uvicorn.Config, engine: Engine, shutdown_s: float, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._engine = engine
        self._shutdown_s = shutdown_s
        self._deadline: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when it answers."""
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal cuts short what is under way."""
        if self.should_exit:
            self._engine.abort("the server was stopped")
        super().handle_exit(sig, frame)
        self.force_exit = False  # replies that were cut short still say so

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for replies under way, but not forever."""
        self._engine.refuse_more()
        self._deadline = asyncio.create_task(self._cut_short())
        await super().shutdown(sockets)
        self._deadline.cancel()

    async def _cut_short(self) -> None:
        await asyncio.sleep(self._shutdown_s)
        self._engine.abort("the server is shutting down")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY; without, the end of every reply waits for a delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise BadRequest(
            f"cannot listen on {host} port {port}: {reason}; choose another with --host or --port"
        ) from None
    return listener
