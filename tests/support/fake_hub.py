"""A Hugging Face hub on loopback: the few endpoints that fetching a checkpoint calls, and its ways of refusing."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Repositories by name; each is a folder."""

    folders: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    breaks_after: dict[str, int] = field(default_factory=dict)
    """Bytes of a file after which connections break, until it is cleared."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and range of each request."""
    url: str = ""


@contextmanager
def serve_hub(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub, answering at `hub.url` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append((self.command, path, self.headers.get("Range")))
            parts = path.strip("/").split("/")
            repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            folder = hub.folders.get(repository)
            if folder is None:
                self._refuse(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."})
            elif parts[0] == "api":
                files = [{"rfilename": p.name, "size": p.stat().st_size} for p in sorted(folder.iterdir())]
                document = {"id": repository, "sha": COMMIT, "siblings": files, "private": False, "tags": []}
                self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"}, body=body)
            elif repository in hub.gated:
                self._refuse(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
            elif not (folder / parts[-1]).exists():
                self._refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            else:
                self._file(folder / parts[-1], body=body)

        def _file(self, path: Path, *, body: bool) -> None:
            content = path.read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked and body else 0
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            broken = hub.breaks_after.get(path.name)
            if not body or broken is None:
                self._send(206 if start else 200, content[start:], headers, body=body)
                return
            self._send(206 if start else 200, content[start:], headers, body=False)
            self.wfile.write(content[start:broken])
            self.wfile.flush()
            self.close_connection = True

        def _refuse(self, status: int, headers: dict[str, str]) -> None:
            self._send(status, b"", headers, body=False)

        def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
