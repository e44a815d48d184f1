"""HTTP with an OpenAI-compatible server: one line for each fault, back-off for those that pass."""

import json
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx2
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)

from autotune.cache import content_key
from autotune.endpoint.address import Endpoint, base_url, find_key
from autotune.errors import BadRequest

_PASSING = {408, 425, 429, 500, 502, 503, 504, 529}
"""HTTP states that may be gone in a moment."""
_NO_ROUTE = {404, 405, 501}
_MOST_ANSWER_BYTES = 64 << 20
_MOST_MESSAGE = 300
_MODEL_SIZES = ("n_params", "n_vocab", "n_embd", "size", "ftype")


class EndpointError(BadRequest):
    """The server cannot be used, or not any longer."""


class RefusedError(EndpointError):
    """The server understood and refused this very request; asking again is no use."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def no_route(self) -> bool:
        """Whether the server does not have what was asked for at all."""
        return self.status in _NO_ROUTE


class _PassingError(EndpointError):
    """A fault that may pass; `wait_s` is how long the server asked to be left alone."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for."""

    attempts: int = 7
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    """Most seconds between two attempts, whatever the server asks for."""
    connect_s: float = 10.0
    answer_s: float = 600.0
    """Most seconds from a request to the end of its answer."""


PATIENCE = Patience()


class Client:
    """A connection to one endpoint; threads may share it."""

    def __init__(self, endpoint: Endpoint, patience: Patience = PATIENCE) -> None:
        self.endpoint = endpoint
        self._patience = patience
        self._stopped = threading.Event()
        headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
        try:
            self._http = httpx2.Client(
                headers=headers,
                timeout=httpx2.Timeout(patience.answer_s, connect=patience.connect_s),
                limits=httpx2.Limits(max_connections=None),
            )
        except (ValueError, UnicodeError):
            raise BadRequest("the server's key holds characters that no HTTP header can carry") from None

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._http.close()

    def stop(self) -> None:
        """End all waiting: requests that fail from now on are not repeated."""
        self._stopped.set()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path behind the base URL."""
        return self._ask("GET", self.endpoint.url + path, None)

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request for a completion."""
        try:
            return self._ask("POST", self.endpoint.url + "/completions", {"model": self.endpoint.model, **body})
        except RefusedError as error:
            if error.no_route:
                raise EndpointError(
                    f"{error}: completions are needed (POST {self.endpoint.url}/completions); chat alone does not do"
                ) from None
            raise

    def tokenize(self, text: str) -> list[int] | None:
        """The server's token ids of a text, without special ones; None if the server has no such route.

        vLLM and SGLang name the text `prompt`, llama.cpp `content`; all three answer `tokens`.
        """
        body = {
            "model": self.endpoint.model,
            "prompt": text,
            "add_special_tokens": False,
            "content": text,
            "add_special": False,
        }
        try:
            tokens = self._ask("POST", self.endpoint.root + "/tokenize", body).get("tokens")
        except RefusedError:
            return None
        if isinstance(tokens, list) and all(isinstance(token, int) for token in tokens):
            return tokens
        return None

    def _ask(self, method: str, url: str, body: dict[str, Any] | None) -> dict[str, Any]:
        patience = self._patience
        backing_off = wait_exponential(patience.first_wait_s, patience.longest_wait_s) + wait_random(
            0.0, patience.first_wait_s
        )

        def wait_s(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait_s if isinstance(error, _PassingError) else None
            return min(max(asked or 0.0, backing_off(state)), patience.longest_wait_s)

        attempts = Retrying(
            retry=retry_if_exception_type(_PassingError),
            wait=wait_s,
            stop=stop_after_attempt(patience.attempts) | stop_when_event_set(self._stopped),
            sleep=sleep_using_event(self._stopped),
            reraise=True,
        )
        return attempts(self._ask_once, method, url, body)

    def _ask_once(self, method: str, url: str, body: dict[str, Any] | None) -> dict[str, Any]:
        address = self.endpoint.url
        deadline_s = time.monotonic() + self._patience.answer_s
        try:
            with self._http.stream(method, url, json=body) as response:
                content = bytearray()
                for piece in response.iter_bytes():
                    content += piece
                    # The library's own limit is one between two pieces; a server that drips would never end.
                    if time.monotonic() > deadline_s:
                        raise httpx2.ReadTimeout("", request=response.request)
                    if len(content) > _MOST_ANSWER_BYTES:
                        raise EndpointError(f"{address} sends more than {_MOST_ANSWER_BYTES >> 20} MiB: no completion")
        except httpx2.ConnectTimeout:
            raise _PassingError(f"{address} cannot be reached within {self._patience.connect_s:g} s") from None
        except httpx2.TimeoutException:
            raise EndpointError(
                f"{address} gave no whole answer within {self._patience.answer_s:g} s: ask for less at once "
                "(--concurrency, --max-new-tokens)"
            ) from None
        except httpx2.ConnectError as error:
            raise _PassingError(f"{address} cannot be reached ({error}): is the server running there?") from None
        except httpx2.HTTPError as error:
            raise _PassingError(f"the connection to {address} broke ({error or type(error).__name__})") from None
        if response.status_code != 200:
            raise self._fault(response, bytes(content))
        try:
            answer = json.loads(content)
        except ValueError:
            raise EndpointError(f"{address} answered what is not JSON: is this an OpenAI-compatible server?") from None
        if not isinstance(answer, dict):
            raise EndpointError(f"{address} answered {type(answer).__name__} where an object was expected")
        return answer

    def _fault(self, response: httpx2.Response, content: bytes) -> EndpointError:
        address, status = self.endpoint.url, response.status_code
        message = _message(content)
        if self.endpoint.api_key:  # some servers repeat it
            message = message.replace(self.endpoint.api_key, "…")
        said = f"HTTP {status}" + (f": {message}" if message else "")
        if status in {401, 403}:
            have = "the key given is not accepted" if self.endpoint.api_key else "it wants a key"
            return RefusedError(f"{address} refuses ({said}): {have}; set $AUTOTUNE_API_KEY", status)
        if status in _PASSING:
            return _PassingError(f"{address} keeps failing ({said})", _retry_after_s(response))
        return RefusedError(f"{address} refuses ({said})", status)


def find_endpoint(
    url: str, model: str | None = None, api_key: str | None = None, patience: Patience | None = None
) -> Endpoint:
    """The endpoint at a URL, which must answer; its model is the one named, or the only one served."""
    asked = Endpoint(base_url(url), model or "", find_key(api_key))
    with Client(asked, patience or Patience(attempts=3)) as client:
        served = _models(client.get("/models"), asked.url)
    if not served:
        raise EndpointError(f"{asked.url} serves no model")
    names = ", ".join(sorted(served)[:10]) + (", …" if len(served) > 10 else "")
    if model is None and len(served) > 1:
        raise BadRequest(f"{asked.url} serves several models: choose one with --model ({names})")
    if model is not None and model not in served:
        raise BadRequest(f"{asked.url} does not serve {model!r}; it serves: {names}")
    name = model or next(iter(served))
    return Endpoint(asked.url, name, asked.api_key, *served[name])


def _models(answer: dict[str, Any], address: str) -> dict[str, tuple[int | None, str]]:
    """By name, the longest sequence that each served model takes (if the server says so), and a key of its description.

    vLLM and SGLang say `max_model_len` and the checkpoint's name or folder (`root`), llama.cpp in `meta` the context of
    one sequence (`n_ctx`) and the model's sizes.  `created` is the time of the request with some of them.
    """
    found: dict[str, tuple[int | None, str]] = {}
    listed = answer.get("data")
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            raise EndpointError(f"{address}/models lists models without ids: is this an OpenAI-compatible server?")
        meta = entry["meta"] if isinstance(entry.get("meta"), dict) else {}
        longest = entry.get("max_model_len") or meta.get("n_ctx")
        described = content_key(entry.get("root"), entry.get("parent"), [meta.get(name) for name in _MODEL_SIZES])
        found[entry["id"]] = (longest if isinstance(longest, int) and longest > 0 else None, described)
    return found


def _message(content: bytes) -> str:
    """What a body says went wrong, short and on one line; empty if it is not JSON."""
    try:
        said = json.loads(content)
    except ValueError:
        return ""
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return " ".join(str(said).split())[:_MOST_MESSAGE] if said else ""


def _retry_after_s(response: httpx2.Response) -> float | None:
    """Seconds the server asked to wait; None if it did not, or gave a date."""
    try:
        return max(float(response.headers["Retry-After"]), 0.0)
    except (KeyError, ValueError):
        return None
