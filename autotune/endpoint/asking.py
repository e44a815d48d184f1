"""The request that draws one continuation, in terms that every server understands or ignores."""

from typing import Any

from autotune.endpoint.answers import Answer, TokenId, read_answer
from autotune.endpoint.client import Client, EndpointError
from autotune.sampling import SamplingSettings
from autotune.tokenizer import Tokenizer

_NO_FILTER = -1
"""`top_k` that filters nothing: SGLang knows no other, and vLLM and llama.cpp take it as 0."""


def request_body(
    prompt: list[int], settings: SamplingSettings, tokens: int, seed: int, eos_ids: tuple[int, ...], ranked: int = 1
) -> dict[str, Any]:
    """The body of a completion request; the defaults of servers that would bend the distribution are switched off.

    ranked: how many of the likeliest tokens the server is to tell of each place.
    """
    body: dict[str, Any] = {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k or _NO_FILTER,
        "seed": seed,
        "logprobs": ranked,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "stream": False,
        # vLLM and SGLang: ids beside the texts; end at every EOS that the checkpoint knows.
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stop_token_ids": list(eos_ids),
        # llama.cpp: its own penalty; and no cached prefix, whose last bits depend on what was asked before.
        "repeat_penalty": 1.0,
        "cache_prompt": False,
    }
    if settings.greedy:
        # vLLM: what the target would have said at each place of the prompt.
        return body | {"prompt_logprobs": ranked}
    # llama.cpp: filters in the order of `autotune.sampling`, and the probabilities that tokens were drawn with.
    return body | {"samplers": ["temperature", "top_k", "top_p"], "post_sampling_probs": True}


def ask(client: Client, body: dict[str, Any], token_id: TokenId) -> Answer:
    """The answer to a request whose prompt is token ids; EndpointError if the server saw another prompt."""
    answer = read_answer(client.complete(body), token_id)
    prompt: list[int] = body["prompt"]
    if answer.prompt_ids is not None and list(answer.prompt_ids) != prompt:
        raise EndpointError("the server changed the prompt's token ids: start it without templates or truncation")
    if answer.prompt_tokens not in (None, len(prompt)):
        raise EndpointError(
            f"the server counted {answer.prompt_tokens} tokens in a prompt of {len(prompt)}: it must take token ids "
            "as they are (without adding a BOS or cutting)"
        )
    if len(answer.drawn) > body["max_tokens"]:
        raise EndpointError(f"the server gave {len(answer.drawn)} tokens where at most {body['max_tokens']} were asked")
    return answer


class TextIds:
    """Ids of tokens known by their text alone; only texts that one token has can be told."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._ids: dict[str, list[int]] | None = None

    def __call__(self, text: str) -> int:
        """The id of a token's text; EndpointError if no token has it, or several have."""
        if self._ids is None:
            ids: dict[str, list[int]] = {}
            special = {token_id: token for token, token_id in self._tokenizer.special_tokens.items()}
            for token_id in range(self._vocab):
                ids.setdefault(special.get(token_id) or self._tokenizer.decode([token_id]), []).append(token_id)
            self._ids = ids
        found = self._ids.get(text, [])
        if len(found) == 1:
            return found[0]
        what = f"{len(found)} tokens have" if found else "no token of the local tokenizer has"
        raise EndpointError(
            f"the endpoint names its tokens by text alone, and {what} the text {text!r}: use a server that gives token "
            "ids (vLLM ≥ 0.11, recent SGLang, llama.cpp)"
        )
