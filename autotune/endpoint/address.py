"""Where a target is served, and under what name."""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from autotune.cache import content_key
from autotune.errors import BadRequest

KEY_VARIABLES = ("AUTOTUNE_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the server's key, the first that is set wins."""


@dataclass(frozen=True)
class Endpoint:
    """A model of an OpenAI-compatible server."""

    url: str
    """Base URL without a slash at its end, as in `http://host:8000/v1`."""
    model: str
    """The model's name there."""
    api_key: str | None = field(default=None, repr=False, compare=False)
    """Sent to the server, and never written or logged."""
    context_tokens: int | None = field(default=None, compare=False)
    """Longest sequence the server takes, where it says so."""
    described: str = ""
    """Key of what the server says of the model: another model under the same name may come after it."""

    @property
    def root(self) -> str:
        """The server's own URL, where its routes outside OpenAI's are."""
        return self.url.removesuffix("/v1")

    def __str__(self) -> str:
        return f"{self.model} at {self.url}"


def is_url(text: str) -> bool:
    """Whether a text is meant as a URL rather than as a path."""
    return "://" in text


def base_url(url: str) -> str:
    """The base URL that a user means by `http://host`, `http://host/v1/` or `http://host/v1/completions`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadRequest(f"{url!r} is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise BadRequest(f"{url!r} is not an endpoint: give the base URL of a server, as in http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise BadRequest(
            "the endpoint's URL must hold no credentials and no query: put the server's key into $AUTOTUNE_API_KEY"
        )
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/chat")
    return urlunsplit((parts.scheme, parts.netloc, path or "/v1", "", ""))


def find_key(api_key: str | None = None) -> str | None:
    """The server's key: the one given, or that of the environment; None if there is none."""
    if api_key:
        return api_key
    return next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)


def served_fingerprint(endpoint: Endpoint, tokenizer_fingerprint: str) -> str:
    """Fingerprint of a model of which only its server's word and its tokenizer are known."""
    return content_key("served", endpoint.url, endpoint.model, endpoint.described, tokenizer_fingerprint)
