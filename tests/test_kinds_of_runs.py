"""The real command line on models made here: a plan, a served target known by its traces, and two whole families."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import save_llama, save_tokenizer
from tests.support.grown import save_grown

pytestmark = pytest.mark.slow

SMALL = ["--threads", "1", "--proxy", "pruned", "--finish", "0", "--backend", "onnxruntime", "--validate", "1"]
ONE_SHAPE = ["--layers", "1", "--heads", "8", "--ffn", "96"]
TEXT = ("def add(a, b):", "return a + b", "the sum of both", "a = add(1, 2)", "print(a)", "if a > b:", "b = a")


def autotune(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "autotune", *words], capture_output=True, text=True, timeout=300)


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(f"{text} # {number}" for number in range(2) for text in TEXT))
    return path


def config_alone(folder: Path, model: Path) -> Path:
    """A folder that holds a model's config and nothing else of it."""
    folder.mkdir()
    shutil.copy(model / "config.json", folder)
    return folder


def assert_scheduled(out: Path, summary: dict[str, Any], evidence: str) -> None:
    """The run was asked for batches of 1 and 3, and says what each comes to; the manifest leaves no gap."""
    assert [entry["batch"] for entry in summary["batches"]] == [1, 3]
    for entry in summary["batches"]:
        assert 0 <= entry["lookahead"] <= entry["largest_lookahead"]
        assert entry["target_kv_bytes"] > 0
        assert entry["speedup"]["evidence"] == evidence or entry["lookahead"] == 0
    schedule = json.loads((out / "artifact" / "manifest.json").read_text())["lookahead_schedule"]
    assert [row[:2] for row in schedule] == [[1, 1], [2, 3]]
    assert "## Batches" in (out / "report" / "report.md").read_text()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    save_grown(folder, "llama", layers=4, hidden=64, ffn=96)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    save_llama(folder, seed=1)
    save_tokenizer(folder)
    return folder


def test_a_plan_needs_nothing_but_two_configs(tmp_path: Path, target: Path, source: Path) -> None:
    here, drafts = config_alone(tmp_path / "big", target), config_alone(tmp_path / "small", source)
    words = ["--target", str(here), "--source", str(drafts), "--lookahead", "1:2", "--max-new-tokens", "8"]
    strict = autotune("run", "--strict", "--out", str(tmp_path / "strict"), *words)
    assert strict.returncode == 3
    assert len(strict.stderr.splitlines()) == 1
    assert not (tmp_path / "strict").exists()
    out = tmp_path / "run"
    done = autotune("run", "--out", str(out), "--trials", "2", "--batch", "1,3", *words, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("A PLAN, NOT A RESULT: neither weights nor text of ")
    assert "  A PLAN, NOT A RESULT" in done.stderr
    report = (out / "report" / "report.md").read_text()
    assert report.splitlines()[2].startswith("> **A PLAN, NOT A RESULT")
    assert "second-hand" in report
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert (summary["kind"], summary["verdict"], summary["validated"]) == ("plan", "not-validated", [])
    assert summary["best"]["tar"]["estimated_evidence"] == "stand-in"
    for point in summary["front"]:
        assert point["tar"]["evidence"] == point["speedup"]["evidence"] == "stand-in"
        assert point["round_s"]["evidence"] == point["break_even"]["evidence"] == "extrapolated"
        assert point["stand_in"]
    records = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert all(record["outcome"]["burst"]["evidence"] == "measured" for record in records)
    assert_scheduled(out, summary, "stand-in")
    artifact = out / "artifact"
    names = {path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.is_file()}
    assert names == {"manifest.json", "PLAN.md", "hf_config/config.json"}
    for command in (["generate", str(artifact), "--prompt", "x"], ["bench", str(artifact)], ["verify", str(artifact)]):
        assert "is a plan for" in error_line(autotune(*command))


def test_a_served_target_is_known_by_its_traces(tmp_path: Path, target: Path, prompts: Path) -> None:
    traces = tmp_path / "traces.safetensors"
    recorded = autotune(
        "traces", "--out", str(traces), "--target", str(target), "--prompts", str(prompts), "--max-new-tokens", "12"
    )
    assert recorded.returncode == 0, recorded.stderr
    table = tmp_path / "latency.json"
    table.write_text('{"verify_s": {"1": 0.1, "2": 0.1, "3": 0.1}, "device": "elsewhere"}')
    away, out = config_alone(tmp_path / "away", target), tmp_path / "run"
    words = [
        "--target",
        str(away),
        "--source",
        str(target),
        "--layers",
        "1",
        "--heads",
        "8",
        "--traces",
        str(traces),
        "--target-latency",
        str(table),
    ]
    done = autotune("run", "--out", str(out), "--trials", "1", "--lookahead", "1:2", *words, *SMALL, *ONE_SHAPE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("NOT VALIDATED: ")
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert (summary["kind"], summary["validated"]) == ("served", [])
    assert "latency.json" in summary["baseline"]["source"]
    assert summary["best"]["speedup"]["measured"] is None
    manifest = json.loads((out / "artifact" / "manifest.json").read_text())
    assert (manifest["kind"], manifest["target"]["fingerprint"]) == ("unvalidated", None)
    assert manifest["lookahead"] == summary["best"]["lookahead"] > 0
    assert manifest["figures"]["speedup_measured"] is None
    verified = autotune("verify", str(out / "artifact"), "--target", str(target), "--prompts", str(prompts))
    assert verified.returncode == 0, verified.stderr
    assert "0 differ elsewhere" in verified.stdout


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_whole_run_of_a_checkpoint_of_transformers(tmp_path: Path, prompts: Path, family: str) -> None:
    model, out = tmp_path / "model", tmp_path / "run"
    save_grown(model, family, layers=10, hidden=512, ffn=1408)
    words = ["--target", str(model), "--prompts", str(prompts), "--out", str(out), "--max-new-tokens", "12"]
    space = ["--layers", "1", "--heads", "8", "--ffn", "1408", "--lookahead", "2,4", "--precision", "fp32"]
    done = autotune("run", *words, *space, "--trials", "1", "--batch", "3", *SMALL)
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert (summary["kind"], summary["verdict"], summary["banner"]) == ("whole", "speculate", [])
    assert [draft["mismatches"] for draft in summary["validated"]] == [0]
    assert_scheduled(out, summary, "estimated")
    verified = autotune("verify", str(out / "artifact"), "--prompts", str(prompts), "--max-new-tokens", "12")
    assert verified.returncode == 0, verified.stderr
    assert "0 differ elsewhere" in verified.stdout
    config = json.loads((out / "artifact" / "checkpoint" / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == (family, 1)
