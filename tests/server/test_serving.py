"""`autotune serve` as a process: faults of clients, signals, and what it refuses to start with."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from autotune.pair import Pair
from autotune.server.chat import ChatTemplate
from autotune.server.errors import ApiError
from autotune.server.requests import Message
from autotune.server.serving import _listen
from tests.support.serving import gated, serving

LONG = {"prompt": "def main():", "max_tokens": 480, "temperature": 0}


@contextmanager
def process(artifact: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A served artifact on a free port, with its address."""
    command = [sys.executable, "-m", "autotune", "serve", str(artifact), "--port", "0", *words]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        line = running.stderr.readline()
        assert "serving" in line, line
        yield running, line.split(" at ")[1].split()[0]
    finally:
        running.kill()
        running.wait()


def stream(url: str, body: dict[str, Any]) -> Iterator[str]:
    with httpx2.stream("POST", f"{url}/v1/completions", json={**body, "stream": True}, timeout=60) as answer:
        assert answer.status_code == 200
        yield from (line for line in answer.iter_lines() if line)


def running(url: str) -> float:
    page = httpx2.get(f"{url}/metrics").text
    (line,) = (line for line in page.splitlines() if line.startswith("vllm:num_requests_running{"))
    return float(line.rsplit(" ", 1)[1])


@pytest.mark.slow
def test_a_termination_lets_replies_end(demo_artifact: Path) -> None:
    with process(demo_artifact) as (server, url):
        lines: list[str] = []
        begun = threading.Event()

        def read() -> None:
            for line in stream(url, LONG):
                lines.append(line)
                begun.set()

        reading = threading.Thread(target=read)
        reading.start()
        assert begun.wait(30)
        server.send_signal(signal.SIGTERM)
        reading.join(30)
        assert lines[-1] == "data: [DONE]"
        assert '"finish_reason": "length"' in lines[-2]
        assert server.wait(30) == 0


@pytest.mark.slow
def test_a_reply_that_takes_too_long_ends_with_a_clean_error(demo_artifact: Path) -> None:
    with process(demo_artifact, "--shutdown-timeout", "0s", "--max-concurrent", "1") as (server, url):
        courses = [stream(url, LONG) for _ in range(3)]
        first = next(courses[0])
        assert first.startswith("data: {")
        server.send_signal(signal.SIGTERM)
        rest = list(courses[0])
        assert rest[-1] == "data: [DONE]"
        assert server.wait(30) == 0


def test_a_client_that_goes_frees_its_slot(pair: Pair) -> None:
    gate = threading.Semaphore(0)
    with serving(gated(pair.sibling(), gate), slots=1) as url:
        course = stream(url, LONG)
        gate.release(3)
        next(course)
        assert running(url) == 1
        course.close()  # type: ignore[attr-defined]
        for _ in range(200):
            gate.release(1)
            if running(url) == 0:
                break
        assert running(url) == 0


@pytest.mark.parametrize("damage", ["changed", "missing", "no artifact"])
def test_a_damaged_artifact_is_not_served(demo_artifact: Path, tmp_path: Path, damage: str) -> None:
    artifact = tmp_path / "artifact"
    if damage != "no artifact":
        shutil.copytree(demo_artifact, artifact)
        victim = next(path for path in sorted((artifact / "draft").iterdir()) if path.is_file())
        if damage == "missing":
            victim.unlink()
        else:
            victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    command = [sys.executable, "-m", "autotune", "serve", str(artifact), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_port_in_use_is_refused_before_anything_is_opened(url: str, demo_artifact: Path) -> None:
    port = url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "autotune", "serve", str(demo_artifact), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_replies_are_sent_without_delay(host: str) -> None:
    async def accepted() -> int:
        options: asyncio.Queue[int] = asyncio.Queue()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("socket")
            options.put_nowait(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = _listen(host, 0)
        server = await asyncio.start_server(connected, sock=listener)
        async with server:
            _, writer = await asyncio.open_connection(host, listener.getsockname()[1])
            option = await options.get()
            writer.close()
        return option

    assert asyncio.run(accepted())


def test_a_chat_template_is_rendered_in_a_sandbox(tmp_path: Path) -> None:
    def template(source: str) -> ChatTemplate:
        (tmp_path / "chat_template.jinja").write_text(source)
        (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<s>"}}')
        return ChatTemplate(tmp_path)

    messages = [
        Message(role="system", content="Be brief."),
        Message.model_validate({"role": "user", "content": [{"type": "text", "text": "Hi"}]}),
    ]
    assert template(TEMPLATE).render(messages) == "<s>[system] Be brief.\n[user] Hi\n[assistant] "
    with pytest.raises(ApiError, match="refuses these messages: no system turn"):
        template("{{ raise_exception('no system turn') }}").render(messages)
    with pytest.raises(ApiError, match="refuses these messages"):
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}").render(messages)


def test_chat_completions(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatTemplate, "render", lambda self, messages: messages[-1].text)
    with serving(pair.sibling()) as url:
        body = {"messages": [{"role": "user", "content": "def main():"}], "max_completion_tokens": 20, "temperature": 0}
        expected = pair.generate("def main():", 20).text
        whole = httpx2.post(f"{url}/v1/chat/completions", json={**body, "logprobs": True, "top_logprobs": 1}).json()
        (choice,) = whole["choices"]
        assert (whole["object"], choice["message"]["role"]) == ("chat.completion", "assistant")
        assert choice["message"]["content"] == expected
        told = choice["logprobs"]["content"]
        assert "".join(each["token"] for each in told) == expected
        assert all(each["top_logprobs"][0]["token"] == each["token"] for each in told)
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}) as answer:
            chunks = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert text == expected
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
