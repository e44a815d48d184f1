"""Traces of the demo, served by llama.cpp (a server that nobody here wrote), against those of our own program.

Needs the wheels `xllamacpp` and `gguf`: pip install 'draft-autotune[dev]'.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.alternatives import padded_alternatives
from autotune.endpoint.client import find_endpoint
from autotune.endpoint.recording import record_served
from autotune.programs import compile_target
from autotune.runtime.session import open_session
from autotune.sampling import SamplingSettings, distribution
from autotune.targets import demo_folder, resolve_target
from autotune.trace_files import load_traces
from autotune.traces import Trace, record
from autotune.workload import read_prompts, tokenize
from benchmarks.peers.gguf_export import write_gguf
from tests.support.llama_cpp_server import serve

pytest.importorskip("xllamacpp", reason="llama.cpp's server is not installed: pip install xllamacpp gguf")
pytest.importorskip("gguf", reason="GGUF cannot be written: pip install gguf")

CONTEXT = 512
NEAR_TIE = 0.05
"""Two logits this near may change places: llama.cpp rounds attention's keys and values otherwise than we do."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = tmp_path_factory.mktemp("gguf") / "demo.gguf"
    write_gguf(demo_folder(), model)
    with serve(model, CONTEXT, slots=4) as address:
        yield f"{address}/v1"


def test_greedy_traces_equal_those_of_our_program(url: str) -> None:
    target = resolve_target("demo")
    chosen = [prompt for prompt in read_prompts("builtin") if not prompt.only_train][:40]
    prompts = tokenize(chosen, target.open_tokenizer(), CONTEXT)
    endpoint = find_endpoint(url)
    assert (endpoint.model, endpoint.context_tokens) == ("served", CONTEXT)
    served = record_served(endpoint, target, prompts, SamplingSettings(), 48)
    session = open_session(compile_target(target, "onnxruntime"), 1)
    ours = record(session, target, prompts, SamplingSettings(), 48)
    identical = 0
    for there, here in zip(served.items, ours.items, strict=True):
        assert there.prompt.tolist() == here.prompt.tolist()
        length = min(len(there.continuation), len(here.continuation))
        (different,) = np.nonzero(there.continuation[:length] != here.continuation[:length])
        if len(different) == 0:
            assert len(there.continuation) == len(here.continuation)
            identical += 1
            continue
        first = len(there.prompt) + int(different[0])
        logits = session.logits(here.tokens[:first].astype(np.int64), 0)[-1]
        assert logits[here.tokens[first]] - logits[there.tokens[first]] < NEAR_TIE
    assert identical >= 32


@pytest.mark.parametrize("settings", [SamplingSettings(1.0), SamplingSettings(0.7), SamplingSettings(0.8, 20, 0.9)])
def test_sampled_traces_carry_the_probabilities_of_our_own_distribution(url: str, settings: SamplingSettings) -> None:
    target = resolve_target("demo")
    chosen = [prompt for prompt in read_prompts("builtin") if not prompt.only_train][:8]
    prompts = tokenize(chosen, target.open_tokenizer(), CONTEXT)
    served = record_served(find_endpoint(url), target, prompts, settings, 48, alternatives=True)
    session = open_session(compile_target(target, "onnxruntime"), 1)
    differences, taught = [], []
    for trace in served.items:
        logits = session.logits(trace.tokens[:-1].astype(np.int64), 0)[len(trace.prompt) - 1 :]
        probabilities = distribution(logits, settings)[np.arange(len(trace.continuation)), trace.continuation]
        with np.errstate(divide="ignore"):
            differences.append(np.abs(np.log(probabilities) - trace.logprobs))
            taught.append(_mass_apart(trace, distribution(logits, settings)))
    assert np.mean(np.concatenate(taught)) < 0.02
    # At the edge of a filter, rounding decides whether a token is in.
    assert np.quantile(np.concatenate(differences), 0.98) < NEAR_TIE


@pytest.mark.slow
def test_a_run_records_its_traces_from_it_and_writes_no_key(url: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "autotune", "run", "--traces", url, "--api-key", "sesame", "--out", str(out)]
    command += ["--trials", "2", "--proxy", "pruned", "--finish", "0", "--validate", "1", "--threads", "1"]
    command += ["--backend", "onnxruntime", "--precision", "fp32", "--no-database", "--max-new-tokens", "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert (out / "report" / "report.md").is_file()
    for path in (*out.rglob("*"), *Path(os.environ["AUTOTUNE_CACHE"]).rglob("*")):
        assert path.is_dir() or b"sesame" not in path.read_bytes()


def test_the_command_records_from_it(url: str, tmp_path: Path) -> None:
    out, prompts = tmp_path / "traces.safetensors", tmp_path / "prompts.txt"
    prompts.write_text("def add(a, b):\nclass Point:\nfor index in range(10):\n")
    command = [sys.executable, "-m", "autotune", "traces", "--endpoint", url, "--model", "served"]
    command += ["--prompts", str(prompts), "--out", str(out), "--max-new-tokens", "12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert f"Recording traces of served at {url}" in done.stderr
    assert len(load_traces(out).items) == 3
    nowhere = tmp_path / "nowhere.safetensors"
    wrong = [*command[: command.index("--model")], "--model", "gpt-x", "--out", str(nowhere)]
    done = subprocess.run(wrong, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert "does not serve 'gpt-x'; it serves: served" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not nowhere.exists()


def _mass_apart(trace: Trace, ours: NDArray[np.float64]) -> NDArray[np.float64]:
    """[T] total-variation distance between what the server says of its likeliest tokens and what we do."""
    assert trace.alternatives is not None
    tokens, logprobs = padded_alternatives(trace.alternatives)
    tokens, logprobs = tokens[len(trace.prompt) :], logprobs[len(trace.prompt) :]
    assert (tokens[:, 0] >= 0).all()
    known = np.where(tokens < 0, 0.0, np.take_along_axis(ours, np.maximum(tokens, 0), -1))
    return np.abs(known - np.exp(logprobs)).sum(-1) / 2
