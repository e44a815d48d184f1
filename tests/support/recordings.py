"""Recording a few short prompts from a fake server."""

from typing import Any

import numpy as np

from autotune.endpoint.client import Patience, find_endpoint
from autotune.endpoint.recording import record_served
from autotune.sampling import SamplingSettings
from autotune.targets import Target
from autotune.traces import Traces
from autotune.workload import PromptTokens
from tests.support.fake_endpoint import FakeServer

GREEDY, PLAIN = SamplingSettings(), SamplingSettings(1.0)
WARM, FILTERED = SamplingSettings(0.7), SamplingSettings(0.7, 20, 0.9)
QUICK = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=0.02, connect_s=2.0, answer_s=5.0)
NEW = 9


def prompts(target: Target, count: int = 12) -> list[PromptTokens]:
    tokenizer = target.open_tokenizer()
    texts = [f"def add_{n}(a, b):\n    return" for n in range(count)]
    return [PromptTokens(np.array(tokenizer.encode(text), np.int32), "code", f"p:{text}") for text in texts]


def recorded(server: FakeServer, target: Target, settings: SamplingSettings = GREEDY, **changes: Any) -> Traces:
    endpoint = find_endpoint(server.url, patience=QUICK)
    asked = {"patience": QUICK, "concurrency": 4} | changes
    return record_served(endpoint, target, asked.pop("prompts", prompts(target)), settings, NEW, 0, **asked)
