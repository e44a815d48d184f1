"""Recording from servers of every kind, well-behaved and not."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.candidate import Precision
from autotune.endpoint.address import Endpoint, served_fingerprint
from autotune.endpoint.answers import Answer, Drawn
from autotune.endpoint.asking import TextIds
from autotune.endpoint.checks import check_continuation
from autotune.endpoint.client import Patience, find_endpoint
from autotune.endpoint.recording import record_served
from autotune.errors import BadRequest
from autotune.program import Program
from autotune.sampling import SamplingSettings, distribution
from autotune.targets import Target, resolve_target
from autotune.traces import Traces, record
from autotune.workload import PromptTokens
from tests.support.checkpoints import VOCAB
from tests.support.fake_endpoint import FakeServer, Fault, Script, serving

GREEDY, PLAIN = SamplingSettings(), SamplingSettings(1.0)
WARM, FILTERED = SamplingSettings(0.7), SamplingSettings(0.7, 20, 0.9)
QUICK = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=0.02, connect_s=2.0, answer_s=5.0)
NEW = 9


@pytest.fixture(scope="module")
def target(tiny_checkpoint: Path) -> Target:
    return resolve_target(str(tiny_checkpoint))


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    for name in ("AUTOTUNE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def prompts(target: Target, count: int = 12) -> list[PromptTokens]:
    tokenizer = target.open_tokenizer()
    texts = [f"def add_{n}(a, b):\n    return" for n in range(count)]
    return [PromptTokens(np.array(tokenizer.encode(text), np.int32), "code", f"p:{text}") for text in texts]


def recorded(server: FakeServer, target: Target, settings: SamplingSettings = GREEDY, **changes: Any) -> Traces:
    endpoint = find_endpoint(server.url, patience=QUICK)
    asked = {"patience": QUICK, "concurrency": 4} | changes
    return record_served(endpoint, target, asked.pop("prompts", prompts(target)), settings, NEW, 0, **asked)


class TableModel:
    """The fake server's model, for our own recording."""

    def __init__(self, server: FakeServer, target: Target) -> None:
        self.table = server.table
        self.program = Program("fake", "cpu", Precision.FP32, target.shape, target.numerics, 64)

    def logits(self, tokens: Any, start: int) -> Any:
        return self.table[np.asarray(tokens)]

    def greedy(self, tokens: Any, start: int) -> Any:
        return self.logits(tokens, start).argmax(-1)


@pytest.mark.parametrize("style", ["vllm", "vllm-old", "sglang", "llama"])
@pytest.mark.parametrize("tokenize", [True, False])
def test_greedy_traces_equal_our_own(target: Target, style: str, tokenize: bool) -> None:
    with serving(target, Script(style, tokenize=tokenize)) as server:
        served = recorded(server, target)
    ours = record(TableModel(server, target), target, prompts(target), GREEDY, NEW)
    assert (served.settings, served.seed) == (ours.settings, ours.seed)
    assert served.target_fingerprint == target.fingerprint
    for there, here in zip(served.items, ours.items, strict=True):
        assert there.tokens.tolist() == here.tokens.tolist()
        assert there.category == here.category
        assert not there.logprobs.any()
        known = there.top if style.startswith("vllm") else there.top[len(there.prompt) :]
        np.testing.assert_array_equal(known, here.top[-len(known) :])
        if not style.startswith("vllm"):
            assert set(there.top[: len(there.prompt)].tolist()) == {-1}
        assert there.top.dtype == there.continuation.dtype == np.int32


@pytest.mark.parametrize(
    ("style", "kind", "settings"),
    [
        ("vllm", "raw", PLAIN),
        ("vllm", "processed", WARM),
        ("vllm-old", "processed", FILTERED),
        ("sglang", "temperature", WARM),
        ("llama", "", WARM),
        ("llama", "", FILTERED),
    ],
)
def test_sampled_traces_carry_the_probability_they_were_drawn_with(
    target: Target, style: str, kind: str, settings: SamplingSettings
) -> None:
    with serving(target, Script(style, kind)) as server:
        served = recorded(server, target, settings)
    for trace in served.items:
        before = trace.tokens[len(trace.prompt) - 1 : -1]
        expected = np.log(distribution(server.table, settings)[before, trace.continuation])
        np.testing.assert_allclose(trace.logprobs, expected, atol=1e-5)
    assert len({tuple(trace.continuation.tolist()) for trace in served.items}) > 1


@pytest.mark.parametrize(
    ("style", "kind", "settings", "message"),
    [
        ("vllm", "raw", WARM, "at temperature 1, not those it draws with: start vLLM with --logprobs-mode processed"),
        ("vllm", "raw", SamplingSettings(1.0, top_k=5), "before top-k and top-p"),
        ("sglang", "temperature", FILTERED, "before top-k and top-p"),
        ("sglang", "raw", WARM, "SGLANG_RETURN_ORIGINAL_LOGPROB"),
    ],
)
def test_probabilities_of_another_distribution_are_refused(
    target: Target, style: str, kind: str, settings: SamplingSettings, message: str
) -> None:
    with serving(target, Script(style, kind)) as server, pytest.raises(BadRequest, match=message):
        recorded(server, target, settings)


def test_results_do_not_depend_on_who_finishes_first(target: Target, tmp_path: Path) -> None:
    def wait(count: int, body: dict[str, Any]) -> None:
        time.sleep(0.05 if count % 4 == 1 else 0.0)

    runs = []
    for concurrency in (1, 8):
        with serving(target, Script(fault=wait)) as server:  # another port is another endpoint: nothing is known
            runs.append(recorded(server, target, PLAIN, concurrency=concurrency))
    assert [t.tokens.tolist() for t in runs[0].items] == [t.tokens.tolist() for t in runs[1].items]


def test_a_repeated_prompt_has_luck_of_its_own_and_an_eos_ends_a_trace(target: Target) -> None:
    asked = prompts(target, 1) * 30
    with serving(target) as server:
        server.table[:, target.eos_ids[0]] += 3.0
        served = recorded(server, target, PLAIN, prompts=asked)
        assert len(server.bodies) == 30
    assert len({tuple(trace.continuation.tolist()) for trace in served.items}) > 10
    for trace in served.items:
        assert target.eos_ids[0] not in trace.continuation[:-1]
    assert any(trace.continuation[-1] == target.eos_ids[0] for trace in served.items)


def test_nothing_is_asked_twice(target: Target) -> None:
    with serving(target) as server:
        first = recorded(server, target)
        asked = len(server.bodies)
        again = recorded(server, target)
        assert len(server.bodies) == asked == 12
        longer = recorded(server, target, prompts=prompts(target, 14))
        assert len(server.bodies) == 14
    assert [t.tokens.tolist() for t in first.items] == [t.tokens.tolist() for t in again.items]
    assert [t.tokens.tolist() for t in longer.items[:12]] == [t.tokens.tolist() for t in first.items]


def test_a_recording_whose_server_dies_goes_on_where_it_stopped(target: Target, fresh_cache: Path) -> None:
    script = Script(fault=lambda count, body: Fault(drop=True) if count > 5 else None)
    with serving(target, script) as server:
        with pytest.raises(BadRequest, match=r"broke .*; 5 of 12 traces are kept, and the same command goes on"):
            recorded(server, target, concurrency=1)
        (journal,) = fresh_cache.rglob("*.jsonl")
        with journal.open("a") as file:
            file.write('{"key": "cut sho')  # as a killed process leaves it
        script.fault = lambda count, body: None
        server.bodies.clear()
        whole = recorded(server, target)
        assert len(server.bodies) == 7
    assert len(whole.items) == 12
    assert all(json.loads(line) for line in journal.read_text().splitlines())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_sat_out(target: Target, status: int) -> None:
    def fault(count: int, body: dict[str, Any]) -> Fault | None:
        return Fault(status, headers={"Retry-After": "0.01"}) if count % 3 else None

    with serving(target, Script(fault=fault)) as server:
        assert len(recorded(server, target, prompts=prompts(target, 3), concurrency=1).items) == 3
        assert len(server.bodies) == 9


def test_what_is_asked_for_is_waited(target: Target) -> None:
    def fault(count: int, body: dict[str, Any]) -> Fault | None:
        return Fault(429, headers={"Retry-After": "0.3"}) if count == 1 else None

    with serving(target, Script(fault=fault)) as server:
        began_s = time.monotonic()
        recorded(server, target, prompts=prompts(target, 1), patience=replace(QUICK, longest_wait_s=5.0))
        assert time.monotonic() - began_s >= 0.3


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
        return Answer(drawn, text, None, None, None, False)

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
