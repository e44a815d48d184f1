"""The application: what is served where."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hmac import compare_digest
from importlib.resources import files
from secrets import randbelow
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.responses import Response

from autotune.runtime.decode import DecodeRequest
from autotune.sampling import SamplingSettings
from autotune.server import errors
from autotune.server.body_limit import BodyLimit
from autotune.server.chat import ChatTemplate
from autotune.server.engine import Engine
from autotune.server.errors import ApiError
from autotune.server.generation import Generation
from autotune.server.metrics import Metrics
from autotune.server.replies import ChatFormat, CompletionFormat, Format
from autotune.server.requests import LARGEST_SEED, ChatRequest, CompletionRequest

_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request cannot be met as it is."},
    401: {"description": "The API key is missing or wrong."},
    404: {"description": "Another model than the served one was asked for."},
    413: {"description": "The body is too large."},
    429: {"description": "Too many requests are waiting."},
    503: {"description": "The server is shutting down."},
}
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)

Asked = CompletionRequest | ChatRequest


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    body_bytes: int = 4 << 20
    api_key: str | None = None


def create_app(engine: Engine, model: str, limits: Limits) -> FastAPI:
    """The application around an engine; it starts the engine's worker and closes it at the end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()

    app = FastAPI(title="autotune", docs_url=None, redoc_url=None, lifespan=lifespan)
    errors.install(app)
    app.add_middleware(BodyLimit, most_bytes=limits.body_bytes)
    served = _Served(engine, model)
    app.include_router(_api(served, limits.api_key))
    app.include_router(_pages(served))
    return app


class _Served:
    """The served model: from what is asked for to a generation."""

    def __init__(self, engine: Engine, model: str) -> None:
        pair = engine.pair
        self.engine = engine
        self.model = model
        self.metrics = Metrics(model)
        self.tokenizer = pair.tokenizer
        self.chat = ChatTemplate(pair.tokenizer.folder)
        self._eos_ids = frozenset(pair.manifest.eos_ids)
        self._lookahead = pair.decoder.lookahead
        self._capacity = pair.decoder.capacity_tokens
        self._vocab = pair.decoder.target.program.shape.vocab

    def generation(self, asked: Asked) -> Generation:
        """The generation of a request, under way; ApiError if it is refused."""
        if asked.model not in (None, self.model):
            raise ApiError(
                f"the model {asked.model!r} is not served here, only {self.model!r}",
                status=404,
                param="model",
                code="model_not_found",
            )
        prompt = self._prompt(asked)
        lookahead = self._lookahead if asked.lookahead is None else min(asked.lookahead, self._lookahead)
        request = DecodeRequest(
            prompt,
            self._new_tokens(asked, len(prompt)),
            SamplingSettings(asked.temperature, asked.top_k, asked.top_p),
            _seed(asked.seed),
            self._eos_ids,
            lookahead,
            _likeliest(asked),
        )
        return Generation.start(self.engine, self.metrics, request, asked.stops, lookahead)

    def _prompt(self, asked: Asked) -> list[int]:
        prompt = self.chat.render(asked.messages) if isinstance(asked, ChatRequest) else asked.single_prompt
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise ApiError("the prompt is empty: it needs at least one token", param="prompt")
        if any(not 0 <= token < self._vocab for token in ids):
            raise ApiError(f"the prompt holds a token id outside 0 … {self._vocab - 1}", param="prompt")
        return ids

    def _new_tokens(self, asked: Asked, prompt_tokens: int) -> int:
        room = self._capacity - prompt_tokens
        wanted = asked.max_tokens
        if isinstance(asked, ChatRequest):
            wanted = asked.max_completion_tokens or asked.max_tokens or max(room, 1)
        if wanted is None or wanted > room:
            raise ApiError(
                f"the context has {self._capacity} tokens, and {prompt_tokens} of the prompt with {wanted} new ones "
                "do not fit: shorten the prompt or ask for fewer",
                param="messages" if isinstance(asked, ChatRequest) else "prompt",
                code="context_length_exceeded",
            )
        return wanted


def _api(served: _Served, api_key: str | None) -> APIRouter:
    """What OpenAI's clients talk to."""
    bearer = HTTPBearer(auto_error=False)

    async def authorised(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if api_key is not None and not compare_digest((given.credentials if given else "").encode(), api_key.encode()):
            raise ApiError(
                "the API key is missing or wrong: send it as `Authorization: Bearer KEY`",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    router = APIRouter(prefix="/v1", dependencies=[Depends(authorised)], responses=_REFUSALS)

    @router.post("/completions", response_model=None)
    async def completions(asked: CompletionRequest, client: Request) -> Response:
        reply = CompletionFormat(
            served.model, served.tokenizer, logprobs=asked.logprobs is not None, rounds=asked.return_rounds
        )
        return await _answer(served.generation(asked), reply, asked, client)

    @router.post("/chat/completions", response_model=None)
    async def chat_completions(asked: ChatRequest, client: Request) -> Response:
        reply = ChatFormat(served.model, served.tokenizer, logprobs=asked.logprobs, rounds=asked.return_rounds)
        return await _answer(served.generation(asked), reply, asked, client)

    @router.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_describe(served)]}

    return router


async def _answer(generation: Generation, reply: Format, asked: Asked, client: Request) -> Response:
    if not asked.stream:
        return JSONResponse(await generation.whole(reply, client))
    usage = asked.return_rounds or (asked.stream_options is not None and asked.stream_options.include_usage)
    return StreamingResponse(
        generation.stream(reply, usage=usage), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


def _pages(served: _Served) -> APIRouter:
    """What people and their monitoring look at."""
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse)
    async def playground() -> HTMLResponse:
        page = files("autotune.server").joinpath("static", "playground.html").read_text(encoding="utf-8")
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})

    @router.get("/healthz")
    async def health() -> JSONResponse:
        healthy = served.engine.alive
        return JSONResponse({"status": "ok" if healthy else "the model worker is gone"}, 200 if healthy else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        page = served.metrics.page(served.engine.load()).decode()
        return PlainTextResponse(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _describe(served: _Served) -> dict[str, Any]:
    """The served model's entry."""
    manifest = served.engine.pair.manifest
    shape = manifest.draft.shape if manifest.draft else None
    return {
        "id": served.model,
        "object": "model",
        "created": 0,
        "owned_by": "autotune",
        "autotune": {
            "target": manifest.target.id,
            "lookahead": served.engine.pair.decoder.lookahead,
            "draft": {"layers": shape.layers, "heads": shape.heads, "ffn": shape.ffn} if shape else None,
            "lookup": str(manifest.model_free) if manifest.model_free else None,
            "predicted_speedup": manifest.figures.speedup_predicted.value if manifest.figures else None,
        },
    }


def _likeliest(asked: Asked) -> int | None:
    """How many of the likeliest tokens are wanted with every token."""
    if isinstance(asked, ChatRequest):
        return asked.top_logprobs if asked.logprobs else None
    return asked.logprobs


def _seed(seed: int | None) -> int:
    """A seed that NumPy takes; another one every time where none is given."""
    return randbelow(LARGEST_SEED) if seed is None else seed % LARGEST_SEED
