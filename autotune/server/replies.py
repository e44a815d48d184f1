"""Replies in OpenAI's form, whole and in pieces, for completions and for chats."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from autotune.runtime.decode import Statistics
from autotune.runtime.logprobs import TokenLogprobs
from autotune.server.engine import Piece
from autotune.tokenizer import Tokenizer

Json = dict[str, Any]


@dataclass
class Tally:
    """What a reply came to so far."""

    prompt_tokens: int
    lookahead: int
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    statistics: Statistics = field(default_factory=Statistics)

    def add(self, piece: Piece) -> None:
        """Count a round."""
        self.tokens += len(piece.round.tokens)
        self.drafted += piece.round.drafted
        self.accepted += piece.round.accepted

    def usage(self) -> Json:
        """OpenAI's counts; `autotune`: of the decoding itself, without the waiting for others."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
            "completion_tokens_details": {
                "accepted_prediction_tokens": self.accepted,
                "rejected_prediction_tokens": self.drafted - self.accepted,
            },
            "autotune": {
                "rounds": self.statistics.rounds,
                "tokens_per_s": self.statistics.tokens_per_s,
                "lookahead": self.lookahead,
            },
        }


def round_json(piece: Piece) -> Json:
    """A round with its tokens by kind: drafted and accepted, the target's correction, or its bonus token."""
    done = piece.round
    own = "bonus" if done.drafted and done.accepted == done.drafted else "corrected"
    return {
        "pieces": [
            {"text": text, "kind": "accepted" if place < done.accepted else own}
            for place, text in enumerate(piece.token_texts)
        ],
        "drafted": done.drafted,
        "accepted": done.accepted,
    }


class Format(Protocol):
    """How one endpoint writes its replies."""

    def opening(self) -> list[Json]:
        """Chunks that come before any text."""

    def chunk(self, text: str, pieces: Sequence[Piece], reason: str | None) -> Json:
        """A piece of a streamed reply; pieces: the rounds it shows."""

    def usage_chunk(self, usage: Json) -> Json:
        """The last chunk of a streamed reply."""

    def whole(self, text: str, pieces: Sequence[Piece], reason: str, usage: Json) -> Json:
        """A reply that is not streamed."""


class _Format:
    """What both formats have in common."""

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, model: str, tokenizer: Tokenizer, *, logprobs: bool, rounds: bool) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._rounds = rounds
        self._head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def usage_chunk(self, usage: Json) -> Json:
        """The last chunk: no choice, but what it took."""
        return {**self._head, "object": self.chunk_kind, "choices": [], "usage": usage}

    def _choice(self, content: Json, pieces: Sequence[Piece], reason: str | None) -> Json:
        logprobs = self._told([each for piece in pieces for each in self._of(piece)]) if self._logprobs else None
        rounds = {"rounds": [round_json(piece) for piece in pieces]} if self._rounds else {}
        return {"index": 0, **content, "logprobs": logprobs, "finish_reason": reason, **rounds}

    def _of(self, piece: Piece) -> list[tuple[str, TokenLogprobs]]:
        return [(self._text(token), each) for token, each in zip(piece.round.tokens, piece.round.logprobs, strict=True)]

    def _told(self, tokens: Sequence[tuple[str, TokenLogprobs]]) -> Json:
        raise NotImplementedError

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token])


class CompletionFormat(_Format):
    """Of `/v1/completions`."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, tokenizer: Tokenizer, *, logprobs: bool, rounds: bool) -> None:
        super().__init__(model, tokenizer, logprobs=logprobs, rounds=rounds)
        self._offset = 0

    def opening(self) -> list[Json]:
        """Nothing."""
        return []

    def chunk(self, text: str, pieces: Sequence[Piece], reason: str | None) -> Json:
        """A piece of text."""
        return {**self._head, "object": self.chunk_kind, "choices": [self._choice({"text": text}, pieces, reason)]}

    def whole(self, text: str, pieces: Sequence[Piece], reason: str, usage: Json) -> Json:
        """All of the text."""
        return {**self.chunk(text, pieces, reason), "usage": usage}

    def _told(self, tokens: Sequence[tuple[str, TokenLogprobs]]) -> Json:
        offsets = []
        for text, _ in tokens:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": [text for text, _ in tokens],
            "token_logprobs": [each.logprob for _, each in tokens],
            "top_logprobs": [{self._text(token): logprob for token, logprob in each.likeliest} for _, each in tokens],
            "text_offset": offsets,
        }


class ChatFormat(_Format):
    """Of `/v1/chat/completions`."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self) -> list[Json]:
        """Who speaks."""
        return [self._chunk({"role": "assistant", "content": ""}, (), None)]

    def chunk(self, text: str, pieces: Sequence[Piece], reason: str | None) -> Json:
        """A piece of the message."""
        return self._chunk({"content": text} if text or not reason else {}, pieces, reason)

    def whole(self, text: str, pieces: Sequence[Piece], reason: str, usage: Json) -> Json:
        """The message."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = self._choice({"message": message}, pieces, reason)
        return {**self._head, "object": self.kind, "choices": [choice], "usage": usage}

    def _chunk(self, delta: Json, pieces: Sequence[Piece], reason: str | None) -> Json:
        choice = self._choice({"delta": delta}, pieces, reason)
        return {**self._head, "object": self.chunk_kind, "choices": [choice]}

    def _told(self, tokens: Sequence[tuple[str, TokenLogprobs]]) -> Json:
        def entry(text: str, logprob: float) -> Json:
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        return {
            "content": [
                {
                    **entry(text, each.logprob),
                    "top_logprobs": [entry(self._text(token), logprob) for token, logprob in each.likeliest],
                }
                for text, each in tokens
            ]
        }
