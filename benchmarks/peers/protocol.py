"""How an engine answers, in a process and an environment of its own: a JSON object a line, standard library only.

The process writes {"ready": …} once its models are open, or {"failed": reason}; then it answers every request line with
one answer line, one at a time, so that engines take turns on the same cores.
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A continuation and its seconds."""

    tokens: list[int]
    total_s: float
    """Of the whole call, the prompt's prefill included."""
    first_s: float
    """Until the first token was there."""
    rounds: int | None = None
    """Calls of the target that gave tokens, where the engine tells; with some, the prefill's own is one of them."""
    decode_s: float | None = None
    """Of the rounds alone, without the prefill, where the engine tells."""


@dataclass(frozen=True)
class Setup:
    """What an engine opens: `settings` are its own."""

    target: str
    draft: str
    lookahead: int
    threads: int
    capacity_tokens: int
    eos_ids: list[int]
    vocab: int
    settings: dict[str, Any] = field(default_factory=dict)


Generate = Callable[[Sequence[int], int, float, int], Answer]
"""Prompt, most new tokens, temperature (0: greedy) and seed to an answer."""


def serve(open_engine: Callable[[Setup], Generate]) -> None:
    """Be the engine's process: the first line read is its `Setup`, every other a request."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    try:
        generate = open_engine(Setup(**json.loads(sys.stdin.readline())))
    except Exception as error:  # noqa: BLE001 (whatever keeps an engine from opening is a result)
        _say(answers, {"failed": f"{type(error).__name__}: {error}"})
        return
    _say(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = generate(request["prompt"], request["count"], request["temperature"], request["seed"])
            _say(answers, asdict(answer) | {"peak_rss_bytes": _peak_rss_bytes()})
        except Exception as error:  # noqa: BLE001 (as above)
            _say(answers, {"failed": f"{type(error).__name__}: {error}"})


def timed(steps: Iterable[Sequence[int]]) -> tuple[list[int], float, float]:
    """All tokens of what yields them as they come, the seconds of it all, and those until the first."""
    began = time.perf_counter()
    tokens: list[int] = []
    first_s = 0.0
    for new in steps:
        if not tokens:
            first_s = time.perf_counter() - began
        tokens += new
    return tokens, time.perf_counter() - began, first_s


def _say(stream: Any, message: Mapping[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _peak_rss_bytes() -> int:
    """This program's own peak: what the system tells of a process begins with what its parent was when it forked."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class EngineFailed(Exception):
    """An engine that cannot be used, and why."""


ANSWER_LIMIT_S = 300.0
"""Longest wait for an answer, or for an engine to open."""


class EngineProcess:
    """A running engine; `EngineFailed` where it does not open, or does not answer in time."""

    def __init__(
        self, python: Path, module: str, setup: Setup, log: Path, answer_limit_s: float = ANSWER_LIMIT_S
    ) -> None:
        threads = str(setup.threads)
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "0",
        }
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        self._log, self._answer_limit_s = log, answer_limit_s
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [python, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        try:
            self._ask(asdict(setup))
        except EngineFailed:
            self.close()
            raise

    def generate(self, prompt: Sequence[int], count: int, temperature: float, seed: int) -> Mapping[str, Any]:
        """An `Answer` as a mapping, and the process's `peak_rss_bytes`."""
        return self._ask({"prompt": list(prompt), "count": count, "temperature": temperature, "seed": seed})

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; may be called again."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # what was still to be written to a process that is gone
                stream.close()

    def _ask(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self._answer_limit_s, end)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if late.is_set():
            raise EngineFailed(f"no answer within {self._answer_limit_s:g} s")
        if not line:
            lines = [each for each in self._log.read_text(errors="replace").splitlines() if each.strip()]
            raise EngineFailed(f"the process ended: {' | '.join(lines[-3:])[-600:] or 'it wrote nothing'}")
        answer: Mapping[str, Any] = json.loads(line)
        if "failed" in answer:
            raise EngineFailed(answer["failed"])
        return answer
