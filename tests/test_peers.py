"""The comparison with peers: what is exchanged, exported and grown, without any peer."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from autotune.errors import BadRequest
from autotune.runtime.decode import Decoder, DecodeRequest
from autotune.runtime.session import open_session
from autotune.targets import Target, resolve_target
from benchmarks.peers.__main__ import ALONE, OURS, compare, figures, order, take_turns
from benchmarks.peers.engines import ENGINES, Pair, kept
from benchmarks.peers.environments import OURS as PYTHON
from benchmarks.peers.environments import run as run_tool
from benchmarks.peers.genai_export import export
from benchmarks.peers.grown import grow
from benchmarks.peers.protocol import EngineFailed, EngineProcess, Setup
from tests.support.reference_decoder import decoder_logits

CAPACITY = 32


@pytest.fixture(scope="module")
def target(tiny_checkpoint: Path) -> Target:
    return resolve_target(str(tiny_checkpoint))


def started(tmp_path: Path, answer_limit_s: float = 60.0, **settings: Any) -> EngineProcess:
    setup = Setup("target", "draft", 2, 1, CAPACITY, [0], 96, settings)
    return EngineProcess(PYTHON, "tests.support.peer_engines", setup, tmp_path / "log", answer_limit_s)


def pair_of(target: Target, folder: Path) -> Pair:
    return Pair(target, target, 2, 1, CAPACITY, folder, ("onnxruntime", "onnxruntime"), folder, [[5, 9], [3, 3, 17]], 6)


def test_an_engine_answers_one_request_after_the_other(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        for last in (5, 7):
            answer = engine.generate([1, last], 3, 0.0, 0)
            assert answer["tokens"] == [last + 1, last + 2, last + 3]
            assert 0.0 <= answer["first_s"] <= answer["total_s"]
            assert answer["peak_rss_bytes"] > 1 << 20
    assert "a library that prints" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("fault", "message"),
    [("opening", "FileNotFoundError: no such model"), ("dying", r"the process ended: .*out of luck")],
)
def test_an_engine_that_does_not_open_says_why(tmp_path: Path, fault: str, message: str) -> None:
    with pytest.raises(EngineFailed, match=message):
        started(tmp_path, fault=fault)


def test_an_engine_that_hangs_is_ended(tmp_path: Path) -> None:
    with started(tmp_path, fault="hanging", answer_limit_s=5.0) as engine:
        with pytest.raises(EngineFailed, match="no answer within 5 s"):
            engine.generate([1], 3, 0.0, 0)
        with pytest.raises(EngineFailed, match="the process ended"):
            engine.generate([1], 3, 0.0, 0)


def test_an_engine_that_fails_drops_out_and_the_others_go_on(tmp_path: Path) -> None:
    failed: dict[str, str] = {}
    with started(tmp_path) as sound, started(tmp_path, fault="answering") as broken:
        turns = take_turns({OURS: sound, "broken": broken}, [[1], [2]], 4, 0.7, 3, failed)
    assert failed == {"broken": "at temperature 0.7: ValueError: too hot"}
    assert [len(answers) for answers in turns[OURS]] == [2, 2, 2]


def test_nothing_is_left_where_all_fail(tmp_path: Path) -> None:
    failed: dict[str, str] = {}
    with started(tmp_path, fault="answering") as broken:
        assert take_turns({"broken": broken}, [[1]], 4, 0.0, 2, failed) == {}
    assert list(failed) == ["broken"]


def test_engines_that_cannot_be_made_ready_are_results(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(pair: Pair, log: Path) -> EngineProcess:
        raise BadRequest("no such compiler here")

    def missing(pair: Pair, log: Path) -> EngineProcess:
        run_tool([sys.executable, "-c", "import sys; sys.exit('no such wheel')"])
        raise AssertionError

    monkeypatch.setitem(ENGINES, "lacking", lacking)
    monkeypatch.setitem(ENGINES, "missing", missing)
    found = compare(pair_of(target, tmp_path), ["lacking", "missing"], 2)
    assert found["failed"]["lacking"] == "no such compiler here"
    assert found["failed"]["missing"].endswith("no such wheel")
    assert found["temperature"] == {"0": {}, "0.7": {}}


def test_greedy_tokens_are_held_to_the_targets_own(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counting(pair: Pair, log: Path) -> EngineProcess:
        return EngineProcess(PYTHON, "tests.support.peer_engines", pair.setup(tmp_path, tmp_path), log)

    monkeypatch.setitem(ENGINES, "counting", counting)
    pair = pair_of(target, tmp_path)
    greedy = compare(pair, [ALONE, OURS, "counting"], 2)["temperature"]["0"]
    for name in (ALONE, OURS):
        assert (greedy[name]["same_greedy"], greedy[name]["near_ties"], greedy[name]["mismatches"]) == (2, 0, 0)
        assert greedy[name]["decode_tokens_per_s"]["median"] > greedy[name]["tokens_per_s"]["median"]
    decoder = Decoder(open_session(pair.program("target", "onnxruntime"), 1), None, 0)
    counted = [[prompt[-1] + 1 + n for n in range(6)] for prompt in pair.prompts]
    assert all(
        decoder.decode(DecodeRequest(each, 6))[0] != own for each, own in zip(pair.prompts, counted, strict=True)
    )
    decoder.close()
    assert (greedy["counting"]["same_greedy"], greedy["counting"]["mismatches"]) == (0, 2)
    assert "decode_tokens_per_s" not in greedy["counting"]


def test_what_is_kept_is_made_once_and_whole(tmp_path: Path) -> None:
    folder = tmp_path / "kept"

    def half(part: Path) -> None:
        (part / "file").write_text("half")
        raise EngineFailed("in the middle")

    with pytest.raises(EngineFailed):
        kept(folder, half)
    assert list(tmp_path.iterdir()) == []
    kept(folder, lambda part: (part / "file").write_text("whole"))
    assert (kept(folder, half) / "file").read_text() == "whole"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engines", "ours;theirs"], "--engines theirs: choose from ours; "),
        (["--sizes", "huge"], "--sizes huge: choose from demo, grown"),
        (["--pairs", "1"], "--pairs 1: a spread needs at least 2"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused_in_one_line(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "benchmarks.peers", "--artifact", str(tmp_path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1


def test_everyone_is_first_as_often_as_last() -> None:
    names = ["a", "b", "c"]
    orders = [order(names, turn) for turn in range(6)]
    assert all(sorted(each) == names for each in orders)
    assert {each[0] for each in orders} == {each[-1] for each in orders} == set(names)


def test_figures_are_of_pairs_of_turns() -> None:
    def answers(seconds: float, rounds: int) -> list[dict[str, Any]]:
        times = {"total_s": seconds, "first_s": 0.1, "decode_s": seconds / 2}
        return [{"tokens": [1] * 6, "rounds": rounds, "peak_rss_bytes": 2**21} | times]

    turns = {OURS: [answers(1.0, 2), answers(2.0, 2)], "other": [answers(3.0, 3), answers(4.0, 3)]}
    other = figures(turns, "other")
    assert other["ratio"]["median"] == pytest.approx((3.0 + 2.0) / 2)
    assert other["tokens_per_round"] == 2.0
    assert other["tokens_per_s"]["max"] == 2.0
    assert other["decode_tokens_per_s"]["max"] == 4.0
    assert other["peak_rss_mib"] == 2.0
    assert "ratio" not in figures(turns, OURS)


@pytest.mark.parametrize(("times", "layers"), [(2, 0), (3, 2)])
def test_a_grown_model_is_the_same_function(target: Target, times: int, layers: int) -> None:
    weights, tokens = target.read_weights(), [5, 9, 3, 3, 17]
    larger = grow(weights, times, weights.shape.layers + layers)
    assert larger.shape.hidden == times * weights.shape.hidden
    assert larger.shape.parameters > times * weights.shape.parameters
    np.testing.assert_allclose(decoder_logits(larger, tokens), decoder_logits(weights, tokens), atol=2e-4)


def test_an_exported_pair_computes_the_targets_logits(target: Target, tmp_path: Path) -> None:
    folder = tmp_path / "pair"
    export(target, target, folder, capacity_tokens=CAPACITY, lookahead=3, threads=1)
    config = json.loads((folder / "genai_config.json").read_text())
    assert config["speculative"] == {"max_draft_tokens": 3}
    tokens = [5, 9, 3, 3, 17]
    expected = decoder_logits(target.read_weights(), tokens)
    for role in ("decoder", "draft"):
        section = config["model"][role]
        path = folder / section["filename"]
        graph = onnx.load(path, load_external_data=False).graph
        given = {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in graph.input
        }
        assert given["input_ids"] == ["batch", "n"]
        assert given["attention_mask"] == ["batch", "total"]
        assert given["past_key_values.0.key"][1::2] == [section["num_key_value_heads"], section["head_size"]]
        assert "argmax" not in {value.name for value in graph.output}
        logits = run(path, section, [tokens[:3], tokens[3:]])
        np.testing.assert_allclose(logits, expected, atol=2e-4)


def test_a_target_alone_is_exported_without_a_draft(target: Target, tmp_path: Path) -> None:
    export(target, None, tmp_path, capacity_tokens=CAPACITY, lookahead=3, threads=1)
    config = json.loads((tmp_path / "genai_config.json").read_text())
    assert "speculative" not in config
    assert "draft" not in config["model"]
    assert not (tmp_path / "draft.onnx").exists()


def run(path: Path, section: dict[str, Any], parts: Sequence[Sequence[int]]) -> Any:
    """The logits of a text that comes in parts, the cache handed on as GenAI does."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs, outputs = section["inputs"], section["outputs"]
    layers, heads, size = (section[name] for name in ("num_hidden_layers", "num_key_value_heads", "head_size"))
    pasts = {
        inputs[f"past_{part}_names"] % layer: np.zeros((1, heads, CAPACITY, size), np.float32)
        for layer in range(layers)
        for part in ("key", "value")
    }
    presents = [outputs[f"present_{part}_names"] % layer for layer in range(layers) for part in ("key", "value")]
    rows, read = [], 0
    for part in parts:
        read += len(part)
        fed = {inputs["input_ids"]: np.array([part]), inputs["attention_mask"]: np.ones((1, read), np.int64)}
        logits, *cache = session.run([outputs["logits"], *presents], fed | pasts)
        pasts = dict(zip(pasts, cache, strict=True))
        rows.append(logits[0])
    return np.concatenate(rows)
