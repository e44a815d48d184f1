"""What must be true of a server before its words are taken for the target's: its tokens and its probabilities."""

from collections.abc import Sequence

from autotune.alternatives import MOST_KEPT
from autotune.endpoint.answers import NO_LOGPROBS, Answer, TokenId
from autotune.endpoint.asking import ask, request_body
from autotune.endpoint.client import Client, EndpointError, RefusedError
from autotune.sampling import SamplingSettings
from autotune.targets import TextModel
from autotune.tokenizer import Tokenizer

_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b  # 3.14159\n\n\tx = {'k': [1, 22, 333]}",
    "Ünïcödé, 漢字 and 🙂!   Three spaces; it's fine.",
)
"""Texts that tokenizers disagree about: case, indentation, digits, accents, other scripts, apostrophes, spaces."""
_CLEAR = 0.2
"""A most likely token below this log-probability tells whether the server rescales it."""
_NOISE = 0.05
_PROBES = 16
_RANKED = (MOST_KEPT, 20, 5)
"""How many likely tokens are asked for: as many as are kept; vLLM's limit (`--max-logprobs`); OpenAI's."""
_TOO_MANY = {400, 422}
"""HTTP states of a request that asks for more than the server gives."""


def check_tokenizer(client: Client, model: TextModel) -> None:
    """EndpointError, naming the first difference, unless the server gives texts the ids that the local tokenizer does.

    Where the server cannot be asked for its ids, the number of tokens in a prompt must do.
    """
    tokenizer = model.open_tokenizer()
    for text in _TEXTS:
        ours = _plain(tokenizer.encode(text), model.bos_id)
        theirs = client.tokenize(text)
        if theirs is None:
            _check_by_completion(client, text, ours, tokenizer, model.bos_id)
        else:
            _compare(text, ours, _plain(theirs, model.bos_id), tokenizer)


def _check_by_completion(client: Client, text: str, ours: list[int], tokenizer: Tokenizer, bos_id: int | None) -> None:
    body = {"prompt": text, "max_tokens": 1, "temperature": 0.0, "logprobs": 1, "return_token_ids": True}
    try:
        answer = client.complete(body)
    except RefusedError:
        return  # takes ids alone: their meaning is checked on every continuation's text
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if choice.get("text") and not (choice.get("logprobs") or "completion_probabilities" in {*choice, *answer}):
        raise EndpointError(NO_LOGPROBS)
    theirs = choice.get("prompt_token_ids")
    if isinstance(theirs, list):
        _compare(text, ours, _plain(theirs, bos_id), tokenizer)
        return
    usage = answer.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if isinstance(count, int) and count - len(ours) not in (0, 1):  # 1: a BOS
        raise EndpointError(
            f"the endpoint's tokenizer differs from the local one: {text!r} is {count} tokens there, {len(ours)} here"
        )


def _compare(text: str, ours: list[int], theirs: list[int], tokenizer: Tokenizer) -> None:
    if ours == theirs:
        return
    place = next(
        (at for at, (here, there) in enumerate(zip(ours, theirs, strict=False)) if here != there),
        min(len(ours), len(theirs)),
    )
    here, there = (str(ids[place]) if place < len(ids) else "none" for ids in (ours, theirs))
    token = f" ({tokenizer.decode([ours[place]])!r})" if place < len(ours) else ""
    raise EndpointError(
        f"the endpoint's tokenizer differs from the local one: token {place + 1} of {text!r} is {there} there and "
        f"{here}{token} here; give --target the checkpoint that is served"
    )


def _plain(ids: list[int], bos_id: int | None) -> list[int]:
    """Ids without a BOS in front, which one side may add and the other not."""
    return ids[1:] if bos_id is not None and ids[:1] == [bos_id] else ids


def check_probabilities(
    client: Client, settings: SamplingSettings, prompts: Sequence[list[int]], token_id: TokenId
) -> None:
    """EndpointError unless the server reports log-probabilities of the very distribution that it draws from.

    vLLM reports the model's own unless started with `--logprobs-mode processed_logprobs`, SGLang those after the
    temperature but before the filters, llama.cpp either, as asked.  Which it is, the server shows: at temperature 2 a
    rescaled most likely token is less likely than at 1, and the only token that top-k 1 leaves is certain.
    """
    needs_temperature = settings.temperature != 1.0
    needs_filter = settings.top_k > 0 or settings.top_p < 1.0
    if settings.greedy or not (needs_temperature or needs_filter):
        return

    def most_likely(prompt: list[int], probe: SamplingSettings) -> float:
        return ask(client, request_body(prompt, probe, 1, 0, ()), token_id).drawn[0].top_logprob

    for prompt in prompts[:_PROBES]:
        plain = most_likely(prompt, SamplingSettings(1.0))
        if plain > -_CLEAR:
            continue
        scales = most_likely(prompt, SamplingSettings(2.0)) < plain - _NOISE
        filters = most_likely(prompt, SamplingSettings(1.0, top_k=1)) > -_NOISE
        if (needs_temperature and not scales) or (needs_filter and not filters):
            if needs_temperature and not scales:
                raise EndpointError(
                    "the endpoint reports log-probabilities at temperature 1, not those it draws with: start vLLM with "
                    "--logprobs-mode processed_logprobs (SGLang without SGLANG_RETURN_ORIGINAL_LOGPROB), or record at "
                    "--temperature 1 without --top-k and --top-p"
                )
            raise EndpointError(
                "the endpoint reports log-probabilities before top-k and top-p, not those it draws with: start vLLM "
                "with --logprobs-mode processed_logprobs, or record without --top-k and --top-p"
            )
        return
    raise EndpointError(
        "the target is so sure of every prompt's first token that the server's log-probabilities cannot be told apart: "
        "record at --temperature 1 without --top-k and --top-p"
    )


def most_ranked(client: Client, settings: SamplingSettings, prompt: list[int], token_id: TokenId) -> int:
    """How many of the likeliest tokens of a place the server may be asked for; 1 where it refuses to tell more."""
    for ranked in _RANKED:
        try:
            ask(client, request_body(prompt, settings, 1, 0, (), ranked), token_id)
        except RefusedError as error:
            if error.status not in _TOO_MANY:
                raise
        else:
            return ranked
    return 1


def check_continuation(answer: Answer, settings: SamplingSettings, model: TextModel, tokenizer: Tokenizer) -> None:
    """EndpointError unless a continuation is made of the model's tokens, says what they say, and is drawn as asked."""
    for place, drawn in enumerate(answer.drawn):
        if not 0 <= drawn.token < model.shape.vocab or drawn.top >= model.shape.vocab:
            raise EndpointError(
                f"the server gave token {max(drawn.token, drawn.top)}, but {model.id} has only {model.shape.vocab}: "
                "give --target the checkpoint that is served"
            )
        if settings.greedy and drawn.top_logprob > drawn.logprob + _NOISE:
            raise EndpointError(
                f"token {place + 1} of a greedy continuation has log-probability {drawn.logprob:.3f}, but another had "
                f"{drawn.top_logprob:.3f}: the server does not take the most likely token (has it a penalty or bias?)"
            )
    written = tokenizer.decode([drawn.token for drawn in answer.drawn])
    theirs, ours = _letters(answer.text), _letters(written)
    # Either side may hold back an unfinished end.
    if not (theirs.startswith(ours) or ours.startswith(theirs)):
        raise EndpointError(
            f"the endpoint's tokens mean something else here: it wrote {answer.text[:40]!r}, and locally they read "
            f"{written[:40]!r}; give --target the checkpoint that is served"
        )


def _letters(text: str) -> str:
    """A text up to the first bytes that are no character, and without spaces: servers write both in their own ways."""
    return "".join(text.partition("\N{REPLACEMENT CHARACTER}")[0].split())
