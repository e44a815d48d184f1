"""OpenVINO GenAI: its LLM pipeline, alone or with a draft model.  Runs in an environment of its own.

With a draft, 2026.4 fails at temperatures above 0 (`content_length <= prompt_ids.size() + …`): rejected tokens leave
the sequence too late (openvinotoolkit/openvino.genai#4190).  Without prefix caching it would not fail but drop words,
so it is left to fail.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as ovg

from benchmarks.peers.protocol import Answer, Generate, Setup, serve


class _Watch(ovg.StreamerBase):
    """Keeps what is written, a token or those of a round at a time, and when the first of it came."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []
        self.first_at = 0.0
        self.writes = 0

    def write(self, token: int | list[int]) -> Any:
        """Never stops the generation."""
        self.first_at = self.first_at or time.perf_counter()
        self.writes += 1
        self.tokens += [token] if isinstance(token, int) else list(token)
        return ovg.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is held back."""


def open_engine(setup: Setup) -> Generate:
    """Folders of models that `optimum-cli export openvino` wrote."""
    alone = setup.settings.get("alone")
    threads = {"INFERENCE_NUM_THREADS": setup.threads, "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    draft = {} if alone else {"draft_model": ovg.draft_model(setup.draft, "CPU", **threads)}
    pipeline = ovg.LLMPipeline(setup.target, "CPU", **threads, **draft)

    def generate(prompt: Sequence[int], count: int, temperature: float, seed: int) -> Answer:
        config = ovg.GenerationConfig()
        config.max_new_tokens = count
        config.stop_token_ids = set(setup.eos_ids)
        if temperature:
            config.do_sample, config.temperature, config.top_p, config.rng_seed = True, temperature, 1.0, seed
        if not alone:
            config.num_assistant_tokens = setup.lookahead
        ids = np.array([list(prompt)], np.int64)
        inputs, watch = ovg.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids))), _Watch()
        began = time.perf_counter()
        pipeline.generate(inputs, config, watch)
        return Answer(watch.tokens, time.perf_counter() - began, watch.first_at - began, watch.writes)

    return generate


if __name__ == "__main__":
    serve(open_engine)
