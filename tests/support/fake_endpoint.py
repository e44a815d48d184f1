"""A server in this process that answers as vLLM, SGLang or llama.cpp do, in their words; and with their faults."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.sampling import SamplingSettings, distribution, draw
from autotune.targets import TextModel


@dataclass(frozen=True)
class Fault:
    """What is answered instead: a state and a body, or nothing, or a body without an end."""

    status: int = 500
    body: bytes = b'{"error": {"message": "CUDA error: out of luck"}}'
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    drip: bool = False


@dataclass
class Script:
    """How a server behaves."""

    style: str = "vllm"
    """`vllm`, `vllm-old` (no `return_token_ids`), `sglang`, `sglang-old` (texts alone), `llama` or `none`."""
    logprobs: str = "raw"
    """Which log-probabilities it gives: `raw`, `temperature` (before the filters), or `processed`."""
    tokenize: bool = True
    api_key: str | None = None
    models: tuple[str, ...] = ("served",)
    root: str = "/models/one"
    fault: Callable[[int, dict[str, Any]], Fault | None] = lambda count, body: None
    """The fault in place of the answer to the n-th completion, if any."""
    change: Callable[[dict[str, Any]], None] = lambda answer: None
    """A last change of a completion's answer."""
    shift: int = 0
    """Added to the ids of `/tokenize`."""
    most_logprobs: int = 20
    """How many likely tokens of a place may be asked for."""
    penalty: float = 0.0
    """Taken from the most likely logit before drawing, as a server with penalties of its own would."""


class FakeServer:
    """The model behind it: the next token's logits are `table[token]`."""

    def __init__(self, model: TextModel, script: Script, seed: int = 0) -> None:
        self.script = script
        self.tokenizer = model.open_tokenizer()
        vocab = model.shape.vocab
        self.eos_ids = model.eos_ids
        self.table: NDArray[np.float32] = np.random.default_rng(seed).normal(0, 2, (vocab, vocab)).astype(np.float32)
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self._lock = threading.Lock()

    def completion(self, body: dict[str, Any]) -> dict[str, Any] | Fault:
        """The answer to a completion request."""
        with self._lock:
            self.bodies.append(body)
            count = len(self.bodies)
        fault = self.script.fault(count, body)
        if fault is not None:
            return fault
        for name in ("logprobs", "prompt_logprobs"):
            if body.get(name, 0) > self.script.most_logprobs:
                said = (
                    f"Requested {name} of {body[name]}, which is greater than max allowed: {self.script.most_logprobs}"
                )
                return Fault(400, json.dumps({"error": {"message": said}}).encode())
        by_text = isinstance(body["prompt"], str)
        if self.script.style == "none" and not by_text:
            return Fault(422, b'{"detail": "prompt must be a string"}')  # as `transformers serve`
        prompt = self.tokenizer.encode(body["prompt"]) if by_text else body["prompt"]
        settings = SamplingSettings(body.get("temperature", 1.0), max(body.get("top_k", -1), 0), body.get("top_p", 1.0))
        rng = np.random.default_rng(body.get("seed", 0))
        drawn, token = [], prompt[-1]
        for _ in range(body["max_tokens"]):
            logits = self.table[token].copy()
            bent = logits.copy()
            bent[bent.argmax()] -= self.script.penalty
            token = draw(distribution(bent, settings), rng)
            drawn.append((token, self._logprobs(logits, settings, body)))
            if token in self.eos_ids:
                break
        text = self.tokenizer.decode([token for token, _ in drawn])
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "length"}
        choice |= self._describe(drawn, prompt, body)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(drawn)}
        answer = {"object": "text_completion", "choices": [choice], "usage": usage}
        self.script.change(answer)
        return answer

    def _logprobs(self, logits: NDArray[np.float32], settings: SamplingSettings, body: dict[str, Any]) -> Any:
        kind = self.script.logprobs
        if self.script.style == "llama":
            kind = "processed" if body.get("post_sampling_probs") else "raw"
        shown = {"raw": SamplingSettings(1.0), "temperature": replace(settings, top_k=0, top_p=1.0)}.get(kind, settings)
        if settings.greedy:
            shown = SamplingSettings(1.0)
        with np.errstate(divide="ignore"):
            return np.maximum(np.log(distribution(logits, shown)), -9999.0)

    def _describe(self, drawn: list[tuple[int, Any]], prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        style = self.script.style
        count = body.get("logprobs", 0)

        def ranked(values: Any, token: int) -> list[int]:
            """The likeliest, and the one that is there."""
            order = np.argsort(-values, kind="stable")[:count].tolist()
            return order if token in order else [*order, token]

        if style == "none" or not body.get("logprobs"):
            return {"logprobs": None}
        if style == "llama":
            sampled = "prob" if body.get("post_sampling_probs") else "logprob"
            tops = "top_probs" if sampled == "prob" else "top_logprobs"

            def entry(token: int, values: Any) -> dict[str, Any]:
                value = float(np.exp(values[token])) if sampled == "prob" else float(values[token])
                return {"id": token, "token": self.tokenizer.decode([token]), sampled: value}

            return {
                "logprobs": {
                    "content": [
                        entry(t, v) | {tops: [entry(each, v) for each in ranked(v, t)[:count]]} for t, v in drawn
                    ]
                }
            }
        spelled = body.get("return_tokens_as_token_ids") and style.startswith("vllm")

        def name(token: int) -> str:
            return f"token_id:{token}" if spelled else self.tokenizer.decode([token])

        columns = {
            "tokens": [name(token) for token, _ in drawn],
            "token_logprobs": [float(values[token]) for token, values in drawn],
            "top_logprobs": [
                {name(each): float(values[each]) for each in ranked(values, token)} for token, values in drawn
            ],
        }
        found: dict[str, Any] = {"logprobs": columns}
        if body.get("return_token_ids") and style in {"vllm", "sglang"}:
            found |= {"token_ids": [token for token, _ in drawn], "prompt_token_ids": prompt}
        if body.get("prompt_logprobs") is not None and style.startswith("vllm"):
            shown = np.log(distribution(self.table, SamplingSettings(1.0)))
            found["prompt_logprobs"] = [
                None,
                *(
                    {str(each): {"logprob": float(shown[before, each])} for each in ranked(shown[before], token)}
                    for before, token in pairwise(prompt)
                ),
            ]
        return found


@contextmanager
def serving(model: TextModel, script: Script | None = None) -> Iterator[FakeServer]:
    """A fake server on a free port of this machine, while the block runs."""
    server = FakeServer(model, script or Script())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            listed = [
                {"id": name, "object": "model", "max_model_len": 64, "root": server.script.root}
                for name in server.script.models
            ]
            self._answer({"object": "list", "data": listed} if self.path == "/v1/models" else Fault(404, b""))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize" and server.script.tokenize:
                ids = server.tokenizer.encode(body["prompt"])
                self._answer({"tokens": [token + server.script.shift for token in ids]})
            elif self.path == "/v1/completions":
                self._answer(server.completion(body))
            else:
                self._answer(Fault(404, b'{"detail": "Not Found"}'))

        def _answer(self, answer: dict[str, Any] | Fault) -> None:
            key = server.script.api_key
            if key and self.headers.get("Authorization") != f"Bearer {key}":
                said = f"bad key {self.headers.get('Authorization')}"
                answer = Fault(401, json.dumps({"error": {"message": said}}).encode())
            if not isinstance(answer, Fault):
                answer = Fault(200, json.dumps(answer).encode())
            if answer.drop:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) + (1 << 20 if answer.drip else 0)))
            self.end_headers()
            self.wfile.write(answer.body)
            for _ in range(200 if answer.drip else 0):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.02)
            self.close_connection = answer.drip

        def log_message(self, format: str, *values: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that hang up are part of the play."""

    http = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
