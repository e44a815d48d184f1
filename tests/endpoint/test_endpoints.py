"""Servers that cannot be used, and how they are found out."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.endpoint.address import Endpoint, served_fingerprint
from autotune.endpoint.answers import Answer, Drawn
from autotune.endpoint.asking import TextIds
from autotune.endpoint.checks import check_continuation
from autotune.endpoint.client import find_endpoint
from autotune.endpoint.recording import record_served
from autotune.errors import BadRequest
from autotune.targets import Target
from tests.support.checkpoints import VOCAB
from tests.support.fake_endpoint import Fault, Script, serving
from tests.support.recordings import GREEDY, NEW, QUICK, prompts, recorded


def set_tokens(values: list[Any]) -> Callable[[dict[str, Any]], None]:
    def change(answer: dict[str, Any]) -> None:
        answer["choices"][0]["token_ids"][: len(values)] = values

    return change


def retell(answer: dict[str, Any]) -> None:
    choice = answer["choices"][0]
    choice["token_ids"] = [65] * len(choice["token_ids"])
    choice["logprobs"]["top_logprobs"] = None
    choice["text"] = "sum of parts"


def drop_a_logprob(answer: dict[str, Any]) -> None:
    answer["choices"][0]["logprobs"]["token_logprobs"].pop()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (Script("none"), "HTTP 422: prompt must be a string"),
        (Script("none", tokenize=False), "gives no log-probabilities .*vLLM, SGLang or llama.cpp"),
        (
            Script(change=lambda answer: answer["choices"][0].update(logprobs=None)),
            "gives no log-probabilities .*vLLM, SGLang or llama.cpp",
        ),
        (
            Script(shift=1),
            r"tokenizer differs from the local one: token 1 of 'The quick.*' is \d+ there and \d+ .*here",
        ),
        (Script(fault=lambda count, body: Fault(500)), "keeps failing .HTTP 500: CUDA error: out of luck."),
        (Script(fault=lambda count, body: Fault(200, b"<html>")), "answered what is not JSON"),
        (Script(fault=lambda count, body: Fault(200, b"[1]")), "answered list where an object was expected"),
        (Script(fault=lambda count, body: Fault(200, b"{}")), "the server's answer is malformed .KeyError: 'choices'"),
        (Script(fault=lambda count, body: Fault(400, b'{"detail": "no ids"}')), "refuses .HTTP 400: no ids."),
        (Script(fault=lambda count, body: Fault(404, b"")), "completions are needed"),
        (Script(fault=lambda count, body: Fault(200, b"{", drip=True)), "no whole answer within 0.5 s"),
        (Script(change=set_tokens([VOCAB + 7])), f"gave token {VOCAB + 7}, but .* has only {VOCAB}"),
        (Script(change=set_tokens([-5])), "gave token"),
        (Script(change=retell), "it wrote 'sum of parts', and locally they read 'aaa"),
        (Script(change=drop_a_logprob), "malformed .ValueError: 9 tokens, but 8 log-probabilities"),
        (Script(change=lambda answer: answer["usage"].update(prompt_tokens=3)), "counted 3 tokens in a prompt of"),
        (Script(penalty=3.0), "does not take the most likely token"),
        (Script("sglang-old"), r"names its tokens by text alone, and \d+ tokens have the text"),
    ],
)
def test_a_server_that_cannot_be_used_is_refused_in_one_line(target: Target, script: Script, message: str) -> None:
    script = replace(script)
    with serving(target, script) as server:
        with pytest.raises(BadRequest, match=message) as caught:
            recorded(server, target, patience=replace(QUICK, answer_s=0.5))
        assert "\n" not in str(caught.value)


def test_a_tokenizer_is_compared_by_length_where_the_server_tells_no_more(target: Target) -> None:
    def longer(answer: dict[str, Any]) -> None:
        answer["choices"][0].pop("prompt_token_ids", None)
        answer["usage"]["prompt_tokens"] += 5

    with (
        serving(target, Script(tokenize=False, change=longer)) as server,
        pytest.raises(BadRequest, match=r"is \d+ tokens there, \d+ here"),
    ):
        recorded(server, target)


def test_bytes_that_are_no_character_may_be_written_in_any_way(target: Target) -> None:
    """llama.cpp makes a character of its own choice of them."""
    tokenizer = target.open_tokenizer()
    (lone,) = [token for token in range(1, 300) if tokenizer.vocabulary.get("´") == token]
    letters = tokenizer.encode("ab")

    def answer(text: str) -> Answer:
        drawn = tuple(Drawn(token, -1.0, token, -1.0) for token in (*letters, lone, *letters))
        return Answer(drawn, text, None, None, None, None, False)

    check_continuation(answer("abŴab"), GREEDY, target, tokenizer)
    check_continuation(answer("ab\ufffdab"), GREEDY, target, tokenizer)
    with pytest.raises(BadRequest, match="mean something else here"):
        check_continuation(answer("axŴab"), GREEDY, target, tokenizer)


def test_texts_that_tell_the_token_are_enough(target: Target) -> None:
    ids = TextIds(target.open_tokenizer(), target.shape.vocab)
    token = target.open_tokenizer().encode("return")[0]
    text = target.open_tokenizer().decode([token])
    assert ids(text) == token
    assert ids("<|end|>") == 0
    with pytest.raises(BadRequest, match="no token of the local tokenizer has the text 'nonesuch'"):
        ids("nonesuch")


def test_finding_an_endpoint(target: Target) -> None:
    with serving(target, Script(models=("a", "b"))) as server:
        found = find_endpoint(server.url, "b")
        assert (found.url, found.model, found.api_key, found.context_tokens) == (server.url, "b", None, 64)
        assert found == find_endpoint(server.url, "b")
        server.script.root = "/models/two"
        assert found != find_endpoint(server.url, "b")
        assert find_endpoint(server.url.removesuffix("/v1"), "b").context_tokens == 64
        with pytest.raises(BadRequest, match=r"serves several models: choose one with --model \(a, b\)"):
            find_endpoint(server.url)
        with pytest.raises(BadRequest, match="does not serve 'c'; it serves: a, b"):
            find_endpoint(server.url, "c")
    with pytest.raises(BadRequest, match=r"cannot be reached .*: is the server running there"):
        find_endpoint(server.url, patience=QUICK)


def test_the_key_is_sent_and_never_shown(
    target: Target, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(target, Script(api_key="sesame-1")) as server:
        with pytest.raises(BadRequest, match=r"refuses \(HTTP 401.*it wants a key; set \$AUTOTUNE_API_KEY"):
            find_endpoint(server.url)
        with pytest.raises(BadRequest, match="the key given is not accepted") as caught:
            find_endpoint(server.url, api_key="sesame-2")
        assert "sesame" not in str(caught.value)
        monkeypatch.setenv("OPENAI_API_KEY", "sesame-1")
        endpoint = find_endpoint(server.url)
        record_served(endpoint, target, prompts(target), GREEDY, NEW)
    assert "sesame" not in repr(endpoint) + str(endpoint) + caplog.text
    assert endpoint == replace(endpoint, api_key=None)
    for path in fresh_cache.rglob("*"):
        assert path.is_dir() or b"sesame" not in path.read_bytes()
    with pytest.raises(BadRequest, match="no HTTP header can carry"):
        find_endpoint(server.url, api_key="ключ\n")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:99999/v1", "http://me:secret@h/v1", "http://h/v1?a=b"])
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match=r"is not a URL|is not an endpoint|must hold no credentials") as caught:
        find_endpoint(url)
    assert "secret" not in str(caught.value)


def test_a_served_model_is_known_by_its_place_and_tokenizer() -> None:
    endpoint = Endpoint("http://h/v1", "m", "key")
    same = served_fingerprint(endpoint, "t")
    assert same == served_fingerprint(replace(endpoint, api_key=None), "t")
    others = [replace(endpoint, **{name: "n"}) for name in ("url", "model", "described")]
    assert len({same, served_fingerprint(endpoint, "u"), *(served_fingerprint(other, "t") for other in others)}) == 5


def test_what_cannot_be_asked_is_refused(target: Target) -> None:
    with serving(target) as server:
        endpoint = find_endpoint(server.url)
        with pytest.raises(BadRequest, match="max_new_tokens must be at least 1"):
            record_served(endpoint, target, prompts(target), GREEDY, 0)
        with pytest.raises(BadRequest, match="leaves no room in the context of 10"):
            record_served(endpoint, target, prompts(target), GREEDY, NEW, context_tokens=10)
        assert not server.bodies
