"""Counters for Prometheus, under the names that vLLM gives them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from autotune.runtime.decode import Round
from autotune.server.engine import Load

_LABELS = ("model_name",)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """What the server counts, for one model."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        self._drafts = self._counter("spec_decode_num_drafts", "Rounds in which tokens were drafted.")
        self._drafted = self._counter("spec_decode_num_draft_tokens", "Drafted tokens.")
        self._accepted = self._counter("spec_decode_num_accepted_tokens", "Drafted tokens that were accepted.")
        self._per_position = Counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Accepted tokens by their position in the burst, from 0.",
            (*_LABELS, "position"),
            registry=self._registry,
        )
        self._prompt_tokens = self._counter("prompt_tokens", "Prefilled tokens.")
        self._generated = self._counter("generation_tokens", "Emitted tokens.")
        self._requests = Counter(
            "vllm:request_success", "Finished requests.", (*_LABELS, "finished_reason"), registry=self._registry
        )
        self._running = self._gauge("num_requests_running", "Requests in a slot.")
        self._waiting = self._gauge("num_requests_waiting", "Requests in the queue.")
        self._first = self._histogram("time_to_first_token_seconds", "From arrival to the first token.")
        self._between = self._histogram("inter_token_latency_seconds", "Between a round's tokens and the next ones.")
        self._whole = self._histogram("e2e_request_latency_seconds", "From arrival to the end.")

    def count_prompt(self, tokens: int) -> None:
        """A request was taken."""
        self._prompt_tokens.inc(tokens)

    def count_round(self, done: Round, since_last_s: float, *, first: bool) -> None:
        """A round of some request; seconds since its last one, or since its arrival."""
        self._generated.inc(len(done.tokens))
        (self._first if first else self._between).observe(since_last_s)
        if done.drafted:
            self._drafts.inc()
            self._drafted.inc(done.drafted)
            self._accepted.inc(done.accepted)
            for position in range(done.accepted):
                self._per_position.labels(self._model, str(position)).inc()

    def count_end(self, reason: str, seconds: float) -> None:
        """A request ended: `stop`, `length`, `abort` or `error`."""
        self._requests.labels(self._model, reason).inc()
        self._whole.observe(seconds)

    def page(self, load: Load) -> bytes:
        """The text that Prometheus reads."""
        self._running.set(load.running)
        self._waiting.set(load.waiting)
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(self._model)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(self._model)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"vllm:{name}", text, _LABELS, registry=self._registry, buckets=_SECONDS).labels(self._model)
