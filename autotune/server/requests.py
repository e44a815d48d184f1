"""What can be asked for: OpenAI's fields that mean something here, and three of our own.

Fields that other servers have and this one does not are accepted with the value that changes nothing, and refused with
any other: an ignored field would be a wrong answer.  Unknown fields are refused.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MOST_STOPS = 16
MOST_LOGPROBS = 20
LARGEST_SEED = 2**63 - 1


def _writable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds a lone surrogate at {error.start}, which is no character") from None
    return text


Text = Annotated[str, AfterValidator(_writable)]


class StreamOptions(BaseModel):
    """Of a streamed reply."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class _Asked(BaseModel):
    """What completions and chat completions have in common."""

    model_config = ConfigDict(extra="forbid")

    model: Text | None = Field(None, description="The served model's id; may be left out.")
    temperature: float = Field(1.0, ge=0.0, le=2.0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-LARGEST_SEED - 1, le=LARGEST_SEED)
    stop: Text | list[Text] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Text | None = None

    top_k: int = Field(0, ge=0, le=1_000_000, description="Extension: only the k likeliest tokens; 0 is off.")
    lookahead: int | None = Field(None, ge=0, le=1024, description="Extension: at most so many drafted tokens a round.")
    return_rounds: bool = Field(False, description="Extension: tell of every round which of its tokens were drafted.")

    n: int = Field(1, description="Only 1.")
    presence_penalty: float = Field(0.0, description="Only 0.", allow_inf_nan=False)
    frequency_penalty: float = Field(0.0, description="Only 0.", allow_inf_nan=False)
    logit_bias: dict[str, float] | None = Field(None, description="Only none.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        stops = self.stops
        if len(stops) > MOST_STOPS:
            raise ValueError(f"stop: at most {MOST_STOPS} strings, not {len(stops)}")
        if any(not stop for stop in stops):
            raise ValueError("stop: a stop string is empty")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streamed replies: set stream")
        _only(self, n=1, presence_penalty=0.0, frequency_penalty=0.0, logit_bias=(None, {}))
        return self

    @property
    def stops(self) -> Sequence[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionRequest(_Asked):
    """`POST /v1/completions`."""

    prompt: Text | list[int] | list[Text] | list[list[int]] = Field(description="One text, or its token ids.")
    max_tokens: int = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    echo: bool = Field(False, description="Only false.")
    best_of: int = Field(1, description="Only 1.")
    suffix: str | None = Field(None, description="Only null.")

    @model_validator(mode="after")
    def _check_completion(self) -> Self:
        _only(self, echo=False, best_of=1, suffix=None)
        if self._several():
            raise ValueError("prompt: one prompt a request, not a list of several")
        return self

    def _several(self) -> bool:
        listed = isinstance(self.prompt, list)
        return listed and len(self.prompt) > 1 and any(isinstance(part, str | list) for part in self.prompt)

    @property
    def single_prompt(self) -> str | list[int]:
        """The prompt, taken out of a list of one."""
        prompt: Any = self.prompt
        while isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        return prompt  # type: ignore[no-any-return]


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """A turn of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: Text | None = None

    @property
    def text(self) -> str:
        """Its parts together."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(BaseModel):
    """Only plain text."""

    type: Literal["text"]


class ChatRequest(_Asked):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MOST_LOGPROBS)

    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = Field(None, description="Only none.")

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        _only(self, tools=(None, []))
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self


def _only(request: BaseModel, **neutral: object) -> None:
    """ValueError where a field that has no effect here was asked to have one."""
    for name, value in neutral.items():
        allowed = value if isinstance(value, tuple) else (value,)
        if getattr(request, name) not in allowed:
            raise ValueError(f"{name}: only {allowed[0]!r} is supported here".replace("None", "null"))
