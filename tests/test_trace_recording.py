"""Files of traces, of targets here and of served ones whose weights are elsewhere."""

from dataclasses import replace
from pathlib import Path

import pytest

from autotune import trace_recording
from autotune.endpoint.address import served_fingerprint
from autotune.endpoint.client import find_endpoint
from autotune.progress import LoggingObserver
from autotune.sampling import SamplingSettings
from autotune.targets import Blueprint, TextModel, resolve_target
from autotune.trace_files import load_traces
from autotune.trace_recording import TraceRequest, record_here, record_remote, served_model
from tests.support.fake_endpoint import serving


def request(folder: Path) -> TraceRequest:
    prompts = folder / "prompts.txt"
    prompts.write_text("def add(a, b):\nreturn a + b\nclass A:\n")
    return TraceRequest(str(prompts), SamplingSettings(), 8, 0, folder / "traces.safetensors")


@pytest.mark.parametrize("runner", [None, "autotune", "transformers"])
def test_a_local_target_writes_the_same_traces_whatever_runs_it(
    tiny_checkpoint: Path, tmp_path: Path, runner: str | None
) -> None:
    target = resolve_target(str(tiny_checkpoint))
    asked = request(tmp_path)
    expected = record_here(target, asked, LoggingObserver())
    found = record_here(target, TraceRequest(**(vars(asked) | {"runner": runner})), LoggingObserver())
    assert [trace.tokens.tolist() for trace in found.items] == [trace.tokens.tolist() for trace in expected.items]
    loaded = load_traces(asked.out)
    assert loaded.target_fingerprint == target.fingerprint
    assert all(trace.alternatives is not None for trace in loaded.items)


def test_alternatives_can_be_left_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    asked = replace(request(tmp_path), alternatives=False)
    record_here(resolve_target(str(tiny_checkpoint)), asked, LoggingObserver())
    assert all(trace.alternatives is None for trace in load_traces(asked.out).items)


def test_traces_of_a_checkpoint_that_a_server_runs_are_the_checkpoints(tiny_checkpoint: Path, tmp_path: Path) -> None:
    target = resolve_target(str(tiny_checkpoint))
    with serving(target) as server:
        endpoint = find_endpoint(server.url)
        model = served_model(str(tiny_checkpoint), endpoint, False, LoggingObserver())
        assert model == target
        record_remote(endpoint, model, request(tmp_path), LoggingObserver())
    loaded = load_traces(tmp_path / "traces.safetensors")
    assert (loaded.target_fingerprint, len(loaded.items)) == (target.fingerprint, 3)


def test_a_model_whose_weights_are_elsewhere_is_known_by_its_server(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = resolve_target(str(tiny_checkpoint))
    blueprint = Blueprint("big", target.family, target.shape, target.numerics)
    asked: list[bool] = []

    def find_tokenizer(name: str, *, download: bool = False, observer: object = None) -> Path:
        asked.append(download)
        return tiny_checkpoint

    monkeypatch.setattr(trace_recording, "find_model", lambda name: blueprint)
    monkeypatch.setattr(trace_recording, "find_tokenizer", find_tokenizer)
    with serving(target) as server:
        endpoint = find_endpoint(server.url)
        model = served_model("big", endpoint, True, LoggingObserver())
        assert type(model) is TextModel
        assert model.fingerprint == served_fingerprint(endpoint, target.tokenizer_fingerprint)
        assert (model.eos_ids, model.bos_id) == (target.eos_ids, target.bos_id)
        record_remote(endpoint, model, request(tmp_path), LoggingObserver())
    assert asked[0] is True
    assert load_traces(tmp_path / "traces.safetensors").target_fingerprint == model.fingerprint
