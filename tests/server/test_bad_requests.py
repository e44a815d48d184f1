"""Requests that cannot be met: one clear refusal in OpenAI's form, never a fault of the server."""

from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from autotune.pair import Pair
from autotune.server.app import Limits
from tests.support.serving import serving

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
FEW = settings(max_examples=60, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        (COMPLETIONS, {}, "prompt", "'prompt' is missing"),
        (COMPLETIONS, {"prompt": "a", "max_token": 3}, "max_token", "unknown field 'max_token'"),
        (COMPLETIONS, {"prompt": "a", "temperature": -0.1}, "temperature", "greater than or equal to 0"),
        (COMPLETIONS, {"prompt": "a", "top_p": 0}, "top_p", "greater than 0"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        (COMPLETIONS, {"prompt": "a", "n": 2}, None, "n: only 1 is supported here"),
        (COMPLETIONS, {"prompt": "a", "best_of": 2}, None, "best_of: only 1"),
        (COMPLETIONS, {"prompt": "a", "echo": True}, None, "echo: only False"),
        (COMPLETIONS, {"prompt": "a", "suffix": "b"}, None, "suffix: only null"),
        (COMPLETIONS, {"prompt": "a", "frequency_penalty": 0.5}, None, "frequency_penalty: only 0.0"),
        (COMPLETIONS, {"prompt": "a", "logit_bias": {"5": 1}}, None, "logit_bias: only null"),
        (COMPLETIONS, {"prompt": ["a", "b"]}, None, "one prompt a request"),
        (COMPLETIONS, {"prompt": [[1], [2]]}, None, "one prompt a request"),
        (COMPLETIONS, {"prompt": []}, "prompt", "the prompt is empty"),
        (COMPLETIONS, {"prompt": [1, 99999]}, "prompt", "a token id outside"),
        (COMPLETIONS, {"prompt": "a", "stop": ""}, None, "a stop string is empty"),
        (COMPLETIONS, {"prompt": "a", "stop": ["x"] * 17}, None, "at most 16 strings"),
        (COMPLETIONS, {"prompt": "a", "stream_options": {}}, None, "set stream"),
        (COMPLETIONS, {"prompt": "word " * 3000}, "prompt", "the context has 512 tokens"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 512}, "prompt", "the context has 512 tokens"),
        (COMPLETIONS, {"prompt": "a", "seed": 2**70}, "seed", "less than or equal to"),
        (CHAT, {"messages": []}, "messages", "at least 1"),
        (CHAT, {"messages": [{"role": "wizard", "content": "a"}]}, "messages.0.role", "'system', 'developer'"),
        (CHAT, {"messages": HELLO, "top_logprobs": 2}, None, "needs logprobs"),
        (CHAT, {"messages": HELLO, "tools": [{"type": "function"}]}, None, "tools: only null"),
    ],
)
def test_a_refusal_says_what_is_wrong(
    url: str, path: str, body: dict[str, Any], param: str | None, message: str
) -> None:
    answer = httpx2.post(url + path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"prompt": "a"',
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"prompt": "\\ud800"}',
        b'{"prompt":"a","temperature":NaN}',
    ],
)
def test_what_is_no_json_request_is_refused(url: str, content: bytes) -> None:
    answer = httpx2.post(url + COMPLETIONS, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_other_paths_and_methods_are_told_in_the_same_form(url: str) -> None:
    for method, path, status in (("GET", "/v2", 404), ("GET", COMPLETIONS, 405), ("DELETE", "/v1/models", 405)):
        answer = httpx2.request(method, url + path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_a_body_is_read_up_to_its_limit(pair: Pair) -> None:
    def chunks() -> Any:
        yield from [b"x" * 1000] * 30

    with serving(pair.sibling(), limits=Limits(body_bytes=10_000)) as url:
        for content in (b"x" * 20_000, chunks()):
            answer = httpx2.post(url + COMPLETIONS, content=content)
            assert answer.status_code == 413
            assert "longer than 10000 bytes" in answer.json()["error"]["message"]
        assert httpx2.post(url + COMPLETIONS, json={"prompt": "a", "max_tokens": 1}).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_random_requests_find_no_fault(url: str, mode: schemathesis.GenerationMode) -> None:
    """Some of what `python -m benchmarks.malformed` sends ten thousand of."""
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = found.ok()
        if operation.method != "post":  # of which none can be malformed
            continue

        @FEW
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            answer = case.call()
            assert answer.status_code < 500
            if answer.status_code >= 400:
                assert answer.json()["error"]["message"]

        ask()
