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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from autotune.endpoint.client import EndpointError

UNKNOWN = -1
"""Id of a most likely token that the server did not tell."""
_ID_PREFIX = "token_id:"
_NOTHING = -100.0
"""Log-probabilities at or below this stand for tokens that are never drawn."""

NO_LOGPROBS = (
    "the endpoint gives no log-probabilities of its tokens, without which traces cannot be checked: serve the model "
    "with vLLM, SGLang or llama.cpp's server (`transformers serve` has none)"
)

TokenId = Callable[[str], int]
"""The id of a token known by its text alone; EndpointError where texts are ambiguous."""
Ranked = tuple[tuple[int, float], ...]
"""Ids and log-probabilities of the tokens that a server ranks at one place, the likeliest first.

It ends before the first token whose id is unknown, and before one that another may precede unseen.
"""


@dataclass(frozen=True)
class Drawn:
    """One token of a continuation."""

    token: int
    logprob: float
    """As the server reports it; of which distribution is not for the answer to say."""
    top: int
    """Most likely token there, or `UNKNOWN`."""
    top_logprob: float
    ranked: Ranked = ()


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
    prompt_ranked: tuple[Ranked, ...] | None
    """`[P]`"""
    stopped: bool
    """Whether it ended by itself, rather than at the length asked for."""


def read_answer(body: dict[str, Any], token_id: TokenId) -> Answer:
    """The completion in a server's answer; EndpointError where it lacks what traces need."""
    try:
        choice = body["choices"][0]
        drawn = _read_drawn(body, choice, token_id)
        usage = body.get("usage") or {}
        prompt_ids = choice.get("prompt_token_ids")
        prompt_ranked = _prompt_ranked(choice.get("prompt_logprobs"))
        return Answer(
            drawn=drawn,
            text=str(choice.get("text") or ""),
            prompt_tokens=usage.get("prompt_tokens"),
            prompt_ids=None if prompt_ids is None else tuple(int(token) for token in prompt_ids),
            prompt_top=None
            if prompt_ranked is None
            else tuple(place[0][0] if place else UNKNOWN for place in prompt_ranked),
            prompt_ranked=prompt_ranked,
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
    listed = entry.get("top_logprobs") or entry.get("top_probs") or []
    ranked = _rank((_identify_if_known(each, token_id), _logprob(each)) for each in listed)
    top = max(listed, key=_logprob, default=entry)
    if _logprob(top) <= logprob:
        return Drawn(token, logprob, token, logprob, ranked)
    return Drawn(token, logprob, _identify(top, token_id), _logprob(top), ranked)


def _identify(entry: dict[str, Any], token_id: TokenId) -> int:
    return int(entry["id"]) if "id" in entry else _named(str(entry["token"]), token_id)


def _identify_if_known(entry: dict[str, Any], token_id: TokenId) -> int:
    try:
        return _identify(entry, token_id)
    except EndpointError:
        return UNKNOWN


def _rank(listed: Iterable[tuple[int, float]], hiding: bool = False) -> Ranked:
    """The tokens in their order, up to the first that is unknown.

    hiding: whether tokens that share a text may have replaced each other in a mapping.  One that is not listed has at
    most what the listed ones leave of the probability, so it cannot precede those that have more.
    """
    possible = sorted((each for each in listed if each[1] > _NOTHING), key=lambda each: -each[1])
    unseen = 1.0 - sum(math.exp(logprob) for _, logprob in possible) if hiding else 0.0
    return tuple(takewhile(lambda each: each[0] != UNKNOWN and math.exp(each[1]) > unseen, possible))


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
        entries = [{"token": name, "logprob": each} for name, each in (mapping or {}).items()]
        listed = [(_identify_if_known(entry, token_id), _logprob(entry)) for entry in entries]
        hiding = any(known == UNKNOWN for known, _ in listed)
        if all(known != token for known, _ in listed):  # where texts are ambiguous, the drawn token tells its own
            same = next((at for at, each in enumerate(listed) if each == (UNKNOWN, logprob)), None)
            listed = [(token, each[1]) if at == same else each for at, each in enumerate(listed)]
        top, best = max(listed, key=lambda each: each[1], default=(token, logprob))
        if best <= logprob:
            top, best = token, logprob
        drawn.append(Drawn(token, logprob, top, best, _rank(listed, hiding)))
    return tuple(drawn)


def _named(text: str, token_id: TokenId) -> int:
    return int(text.removeprefix(_ID_PREFIX)) if text.startswith(_ID_PREFIX) else token_id(text)


def _finite(value: Any) -> float:
    """A log-probability, at most 0; rounding makes some servers' a little larger."""
    number = float(value)
    if math.isnan(number) or number > 0.01:
        raise ValueError(f"{value} is not a log-probability")
    return max(min(number, 0.0), -9999.0)


def _prompt_ranked(places: list[dict[str, dict[str, Any]] | None] | None) -> tuple[Ranked, ...] | None:
    """What is ranked at each place of the prompt, of vLLM's `prompt_logprobs`."""
    if places is None:
        return None
    return tuple(
        _rank((int(token), _finite(entry["logprob"])) for token, entry in (place or {}).items()) for place in places
    )
