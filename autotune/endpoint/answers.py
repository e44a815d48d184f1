"""What servers answer to /v1/completions, each in its own shape, read into one.

vLLM and SGLang: `choices[0].token_ids` (where `return_token_ids` is understood) beside `logprobs.token_logprobs` and
`logprobs.top_logprobs`, a mapping of texts to log-probabilities for each token; vLLM says `token_id:123` instead of a
text where `return_tokens_as_token_ids` is set, and gives `choices[0].prompt_logprobs`, for each token of the
prompt a mapping of ids to `{logprob, rank}`.

llama.cpp: `choices[0].logprobs.content`, or `completion_probabilities` before, for each token `{id, token, logprob,
top_logprobs}`, and `{id, token, prob, top_probs}` where `post_sampling_probs` is set.

`transformers serve` accepts `logprobs` and ignores it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.endpoint.client import EndpointError

UNKNOWN = -1
"""Id of a most likely token that the server did not tell."""
_ID_PREFIX = "token_id:"

NO_LOGPROBS = (
    "the endpoint gives no log-probabilities of its tokens, without which traces cannot be checked: serve the model "
    "with vLLM, SGLang or llama.cpp's server (`transformers serve` has none)"
)

TokenId = Callable[[str], int]
"""The id of a token known by its text alone; raises where texts are ambiguous."""


@dataclass(frozen=True)
class Drawn:
    """One token of a continuation."""

    token: int
    logprob: float
    """As the server reports it; of which distribution is not for the answer to say."""
    top: int
    """Most likely token there, or `UNKNOWN`."""
    top_logprob: float


@dataclass(frozen=True)
class Answer:
    """A completion."""

    drawn: tuple[Drawn, ...]
    text: str
    prompt_tokens: int | None
    """Tokens the server counted in the prompt."""
    prompt_ids: tuple[int, ...] | None
    prompt_top: tuple[int, ...] | None
    """`[P]` most likely token at each place of the prompt (the first is unknown), where the server tells."""
    stopped: bool
    """Whether it ended by itself, rather than at the length asked for."""


def read_answer(body: dict[str, Any], token_id: TokenId) -> Answer:
    """The completion in a server's answer; EndpointError where it lacks what traces need."""
    try:
        choice = body["choices"][0]
        drawn = _read_drawn(body, choice, token_id)
        usage = body.get("usage") or {}
        prompt_ids = choice.get("prompt_token_ids")
        return Answer(
            drawn=drawn,
            text=str(choice.get("text") or ""),
            prompt_tokens=usage.get("prompt_tokens"),
            prompt_ids=None if prompt_ids is None else tuple(int(token) for token in prompt_ids),
            prompt_top=_prompt_top(choice.get("prompt_logprobs")),
            stopped=choice.get("finish_reason") == "stop",
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise EndpointError(
            f"the server's answer is malformed ({type(error).__name__}: {error}): is it OpenAI-compatible?"
        ) from error


def _read_drawn(body: dict[str, Any], choice: dict[str, Any], token_id: TokenId) -> tuple[Drawn, ...]:
    logprobs = choice.get("logprobs") or {}
    entries = logprobs.get("content") or choice.get("completion_probabilities") or body.get("completion_probabilities")
    if entries:
        return tuple(_read_entry(entry, token_id) for entry in entries)
    if logprobs.get("token_logprobs"):
        return _read_columns(choice, logprobs, token_id)
    if choice.get("text") or choice.get("token_ids"):
        raise EndpointError(NO_LOGPROBS)
    return ()


def _read_entry(entry: dict[str, Any], token_id: TokenId) -> Drawn:
    """A token as llama.cpp tells it."""
    token, logprob = _identify(entry, token_id), _logprob(entry)
    ranked = entry.get("top_logprobs") or entry.get("top_probs") or []
    top = max(ranked, key=_logprob, default=entry)
    if _logprob(top) <= logprob:
        return Drawn(token, logprob, token, logprob)
    return Drawn(token, logprob, _identify(top, token_id), _logprob(top))


def _identify(entry: dict[str, Any], token_id: TokenId) -> int:
    return int(entry["id"]) if "id" in entry else _named(str(entry["token"]), token_id)


def _logprob(entry: dict[str, Any]) -> float:
    if "logprob" in entry:
        return _finite(entry["logprob"])
    return math.log(max(float(entry["prob"]), 1e-45))


def _read_columns(choice: dict[str, Any], logprobs: dict[str, Any], token_id: TokenId) -> tuple[Drawn, ...]:
    """The tokens as vLLM and SGLang tell them."""
    values: Sequence[Any] = logprobs["token_logprobs"]
    given = choice.get("token_ids")
    tokens = [int(token) for token in given] if given else [_named(text, token_id) for text in logprobs["tokens"]]
    if len(tokens) != len(values):
        raise ValueError(f"{len(tokens)} tokens, but {len(values)} log-probabilities")
    ranked: Sequence[Any] = logprobs.get("top_logprobs") or [None] * len(values)
    drawn = []
    for token, value, mapping in zip(tokens, values, ranked, strict=True):
        logprob = _finite(value)
        name, best = max((mapping or {}).items(), key=lambda item: _finite(item[1]), default=("", logprob))
        if best <= logprob:
            drawn.append(Drawn(token, logprob, token, logprob))
        else:  # texts may be ambiguous, and the most likely token is good to know, but not needed
            known = int(name.removeprefix(_ID_PREFIX)) if name.startswith(_ID_PREFIX) else UNKNOWN
            drawn.append(Drawn(token, logprob, known, _finite(best)))
    return tuple(drawn)


def _named(text: str, token_id: TokenId) -> int:
    return int(text.removeprefix(_ID_PREFIX)) if text.startswith(_ID_PREFIX) else token_id(text)


def _finite(value: Any) -> float:
    """A log-probability, at most 0; rounding makes some servers' a little larger."""
    number = float(value)
    if math.isnan(number) or number > 0.01:
        raise ValueError(f"{value} is not a log-probability")
    return max(min(number, 0.0), -9999.0)


def _prompt_top(places: list[dict[str, dict[str, Any]] | None] | None) -> tuple[int, ...] | None:
    """Most likely token at each place of the prompt, of vLLM's `prompt_logprobs`."""
    if places is None:
        return None
    return tuple(
        int(max(place, key=lambda token: float(place[token]["logprob"]))) if place else UNKNOWN for place in places
    )
