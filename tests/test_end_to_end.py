"""The real command line on the demo target, small budgets: search, resume, interrupt, ship, generate, verify."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autotune.targets import demo_folder
from tests.support.runs import SMALL, autotune, command

pytestmark = pytest.mark.slow

ONE_COMPILER = ["--backend", "onnxruntime"]
"""Of runs that are about something else: a second compiler doubles what they take."""


def test_a_run_leaves_what_the_contract_names(finished: Path) -> None:
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*")}
    assert {"run.json", "study.db", "trials.jsonl", "artifact/manifest.json"} <= names
    assert {
        f"report/{name}"
        for name in ("index.html", "summary.json", "report.md", "trials.csv", "pareto.png", "pareto.svg")
    } <= names
    assert "work" not in names
    summary = json.loads((finished / "report" / "summary.json").read_text())
    assert {"target", "device", "baseline", "best", "front", "trials", "failed", "wall_s"} <= summary.keys()
    assert summary["shapes_evaluated"] == summary["trials"] == 4
    categories = {"class", "docstring", "function"}
    assert [{each["category"] for each in draft["categories"]} for draft in summary["validated"]] == [categories] * 2
    assert summary["failed"] == 0
    best = summary["best"]
    assert {"lookahead", "backend", "precision", "parameters", "tar", "tokens_per_s", "speedup"} <= best.keys()
    assert len(summary["validated"]) == 2
    for draft in summary["validated"]:
        assert draft["tar"]["measured"] > 1
        assert draft["tokens_per_s"]["measured"] > 0


def test_each_build_is_evaluated_once(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "trials.jsonl").read_text().splitlines()]
    builds = [json.dumps(record["build"], sort_keys=True) for record in records]
    assert len(builds) == len(set(builds)) == 4
    assert [record["number"] for record in records] == [0, 1, 2, 3]


def test_the_folder_is_not_overwritten(finished: Path, prompts: Path) -> None:
    before = (finished / "trials.jsonl").read_bytes()
    refused = autotune("run", "--out", str(finished), "--prompts", str(prompts), "--trials", "4", *SMALL)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    assert (finished / "trials.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def pair_artifact(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with a draft: the run's own or, where this machine's verdict is another, one made by hand."""
    if json.loads((finished / "artifact" / "manifest.json").read_text())["draft"]:
        return finished / "artifact"
    from tests.support.artifacts import artifact_of_demo

    return artifact_of_demo(tmp_path_factory.mktemp("pair") / "artifact")


def test_the_pair_runs_without_torch_optuna_or_a_compiler_and_is_lossless(pair_artifact: Path) -> None:
    script = """
import sys
from autotune import Pair
pair = Pair.open(sys.argv[1], "demo")
text = "def read_lines(path):\\n"
paired, alone = pair.generate(text, 60), pair.alone().generate(text, 60)
assert paired.tokens == alone.tokens and paired.text == alone.text
assert paired.statistics.rounds < alone.statistics.rounds == 60
sampled = pair.generate(text, 40, temperature=0.8, top_k=20, top_p=0.9, seed=3)
assert sampled.tokens == pair.generate(text, 40, temperature=0.8, top_k=20, top_p=0.9, seed=3).tokens
assert "".join(pair.stream(text, 60)) == paired.text
stopped = pair.generate(text, 60, stop=[paired.text[10:14]])
assert stopped.text == paired.text[: paired.text.index(paired.text[10:14])]
with pair, pair.alone() as other:
    assert other.generate(text, 5).tokens == paired.tokens[:5]
pair.close()
heavy = {"torch", "optuna", "onnx", "transformers", "tvm", "altair", "vl_convert"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(pair_artifact)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_what_the_run_ships_decodes_losslessly_whatever_it_is(finished: Path, prompts: Path) -> None:
    verified = autotune("verify", str(finished / "artifact"), "--prompts", str(prompts), "--count", "3")
    assert verified.returncode == 0, verified.stderr
    manifest = json.loads((finished / "artifact" / "manifest.json").read_text())
    # Where the verdict is not to speculate, there is nothing to hold against the target.
    outputs = 3 if manifest["draft"] or manifest["model_free"] else 0
    assert f"files intact; of {outputs} greedy outputs" in verified.stdout


def test_generate_bench_and_verify(pair_artifact: Path, prompts: Path) -> None:
    generated = autotune("generate", str(pair_artifact), "--prompt", "import os\n", "--max-new-tokens", "20")
    assert generated.returncode == 0, generated.stderr
    assert "20 tokens in" in generated.stderr
    verified = autotune("verify", str(pair_artifact), "--prompts", str(prompts), "--count", "4")
    assert verified.returncode == 0, verified.stderr
    assert "files intact; of 4 greedy outputs" in verified.stdout
    bench = autotune(
        "bench",
        str(pair_artifact),
        "--prompts",
        str(prompts),
        "--count",
        "3",
        "--repeats",
        "2",
        "--max-new-tokens",
        "16",
    )
    assert bench.returncode == 0, bench.stderr
    figures = json.loads(bench.stdout)
    assert figures["speedup"]["low"] <= figures["speedup"]["value"] <= figures["speedup"]["high"]
    assert figures["mismatches"] == 0


def test_a_file_of_prompts_is_continued_in_a_batch(pair_artifact: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    words = ("--prompts", str(prompts), "--batch", "4", "--lookahead", "2", "--max-new-tokens", "12")
    done = autotune("generate", str(pair_artifact), *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "30 prompts, " in done.stderr
    asked, answers = ([json.loads(line) for line in path.read_text().splitlines()] for path in (prompts, out))
    assert [each["prompt"] for each in answers] == [each["prompt"] for each in asked]
    assert all(len(each["tokens"]) == 12 and each["rounds"] <= 12 for each in answers)
    printed = autotune("generate", str(pair_artifact), *words)
    assert printed.stdout == out.read_text()
    bench = autotune("bench", str(pair_artifact), *words, "--count", "5", "--repeats", "2")
    assert bench.returncode == 0, bench.stderr
    figures = json.loads(bench.stdout)
    assert (figures["batch"], figures["schedule"], figures["mismatches"]) == (4, [2] * 4, 0)


def test_a_trimmed_draft_is_searched_and_decodes_losslessly(tmp_path: Path, prompts: Path) -> None:
    out = tmp_path / "run"
    words = ["--out", str(out), "--prompts", str(prompts), "--trials", "2", *SMALL, *ONE_COMPILER]
    shape = ["--layers", "1", "--heads", "4", "--ffn", "352", "--draft-vocab", "full,512"]
    done = autotune("run", *words, *shape, "--temperature", "0.7", "--validate", "1")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert [record["build"]["shape"]["draft_vocab"] for record in records] == [None, 512]
    assert all(record["outcome"]["scores"] for record in records), records
    # The verdict may be k = 0, so a trimmed pair is made by hand.
    from tests.support.artifacts import artifact_of_demo

    artifact = artifact_of_demo(tmp_path / "artifact", token_ids=np.arange(512))
    program = json.loads((artifact / "draft" / "program.json").read_text())
    assert program["token_ids"] == list(range(512))
    verified = autotune("verify", str(artifact), "--prompts", str(prompts), "--count", "4")
    assert verified.returncode == 0, verified.stderr
    assert "0 differ elsewhere" in verified.stdout
    generated = autotune("generate", str(artifact), "--prompt", "import os\n", "--temperature", "0.8")
    assert generated.returncode == 0, generated.stderr


def test_a_quantised_target_is_compiled_by_tvm_and_verified_against_itself(tmp_path: Path, prompts: Path) -> None:
    out = tmp_path / "run"
    words = ["--out", str(out), "--prompts", str(prompts), "--trials", "1", "--validate", "1", *SMALL]
    done = autotune("run", *words, "--backend", "tvm", "--target-precision", "int8")
    assert done.returncode == 0, done.stderr
    assert "the target is compiled in int8 (as asked): the pair's output is that program's" in done.stderr
    made_for = json.loads((out / "artifact" / "manifest.json").read_text())["target"]
    assert (made_for["backend"], made_for["precision"]) == ("tvm", "int8")
    verified = autotune("verify", str(out / "artifact"), "--prompts", str(prompts), "--count", "3")
    assert verified.returncode == 0, verified.stderr
    batch = autotune("generate", str(out / "artifact"), "--prompts", str(prompts), "--batch", "2")
    assert batch.returncode == 2
    assert "has an int8 target" in batch.stderr


def test_a_changed_byte_is_refused(pair_artifact: Path, tmp_path: Path) -> None:
    copy = tmp_path / "artifact"
    shutil.copytree(pair_artifact, copy)
    weights = copy / "draft" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    for words in (("verify", str(copy)), ("generate", str(copy), "--prompt", "x"), ("bench", str(copy))):
        refused = autotune(*words)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: ")
        assert "draft/weights.bin was changed" in refused.stderr


def test_a_killed_run_resumes_with_nothing_lost_or_repeated(tmp_path: Path, prompts: Path) -> None:
    out = tmp_path / "run"
    words = [
        "run",
        "--out",
        str(out),
        "--prompts",
        str(prompts),
        "--trials",
        "6",
        "--no-database",
        *SMALL,
        *ONE_COMPILER,
    ]
    with subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _wait_for_trials(out, 2, process)
        process.send_signal(signal.SIGKILL)
    before = (out / "trials.jsonl").read_text().splitlines()
    done = autotune(*words, "--resume")
    assert done.returncode == 0, done.stderr
    after = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert [json.dumps(json.loads(line)) for line in before] == [json.dumps(record) for record in after[: len(before)]]
    assert len({json.dumps(record["build"]) for record in after}) == len(after) == 6


def test_an_interrupted_run_reports_and_can_be_resumed(tmp_path: Path, prompts: Path) -> None:
    out = tmp_path / "run"
    words = [
        "run",
        "--out",
        str(out),
        "--prompts",
        str(prompts),
        "--trials",
        "8",
        "--no-database",
        *SMALL,
        *ONE_COMPILER,
    ]
    # As from a terminal, even where the tests themselves run in the background, where shells have SIGINT ignored.
    with subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    ) as process:
        _wait_for_trials(out, 1, process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1].startswith("error: stopped; the report is in")
    assert "Traceback" not in stderr
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert summary["interrupted"]
    assert summary["best"]["tokens_per_s"]["measured"] is None
    assert not (out / "artifact").exists()


def test_a_second_run_compiles_and_measures_nothing(finished: Path, tmp_path: Path, prompts: Path) -> None:
    """The build limit is too short for any build, so every build with a score was known; none was begun."""
    out = tmp_path / "run"
    words = ["--out", str(out), "--prompts", str(prompts), "--trials", "4", "--build-timeout", "1ms", *SMALL]
    done = autotune("run", *words)
    assert "none of the finalists could be compiled" in done.stderr  # they are always built anew
    first, second = (
        [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()] for folder in (finished, out)
    )
    assert [record["build"] for record in second] == [record["build"] for record in first]
    for before, after in zip(first, second, strict=True):
        assert after["outcome"]["latency_date"]
        assert after["outcome"]["acceptance_date"]
        assert after["outcome"]["scores"] == before["outcome"]["scores"]
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert summary["known"] == 4
    assert summary["known_since"]
    assert "builds whose latencies were known | 4 (measured since 20" in (out / "report" / "report.md").read_text()
    assert json.loads((out / "target.json").read_text())["date"]
    listed = json.loads(autotune("db", "list", "--json", "--kind", "burst").stdout)
    assert {entry["shape"] for entry in listed if entry["fits"]} >= {f"{n}L-4H-352F-128D" for n in (1, 2)}


def test_impossible_constraints_end_with_3_and_a_report(tmp_path: Path, prompts: Path) -> None:
    out = tmp_path / "run"
    words = [
        "--out",
        str(out),
        "--prompts",
        str(prompts),
        "--trials",
        "3",
        "--max-memory",
        "64KiB",
        *SMALL,
        *ONE_COMPILER,
    ]
    done = autotune("run", *words)
    assert done.returncode == 3, done.stderr
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert summary["ruled_out"] == summary["trials"] == 8  # all shapes, at one precision by one compiler
    assert summary["failed"] == 0
    assert "memory" in (out / "report" / "report.md").read_text()


def test_traces_can_be_recorded_and_used(tmp_path: Path, prompts: Path) -> None:
    file, out = tmp_path / "traces.safetensors", tmp_path / "run"
    recorded = autotune("traces", "--prompts", str(prompts), "--max-new-tokens", "24", "--out", str(file))
    assert recorded.returncode == 0, recorded.stderr
    assert "30 traces" in recorded.stdout
    words = ["--out", str(out), "--traces", str(file), "--trials", "1", *SMALL, *ONE_COMPILER]
    done = autotune("run", *words, "--proxy", "recovered", "--recover-tokens", "1024")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Recovering ") == 1


def test_what_stands_on_the_front_is_scored_on_all_traces_where_the_search_had_a_part(tmp_path: Path) -> None:
    lines = (demo_folder() / "prompts.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "many.jsonl").write_text("".join(lines[::2]))
    out = tmp_path / "run"
    words = ["--out", str(out), "--prompts", str(tmp_path / "many.jsonl"), "--trials", "4", *SMALL, *ONE_COMPILER]
    less = ["--validate", "1", "--finish", "0", "--max-new-tokens", "8"]
    done = autotune("run", *words, *less)
    assert done.returncode == 0, done.stderr
    searched, refined = (
        [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        for name in ("trials", "refined")
    )
    summary = json.loads((out / "report" / "summary.json").read_text())
    first, last = summary["refinement"]["levels"]
    assert {len(record["outcome"]["acceptance"]["tokens"]) for record in searched} == {first["traces"]}
    assert {entry["traces"] for entry in refined} == {last["traces"]}
    assert last["builds"] == len(refined) >= len({(point["name"], point["trial"]) for point in summary["front"]})
    assert first["builds"] + last["builds"] == 4
    (draft,) = summary["validated"]  # not trained any further, so it is the very draft that was refined
    assert draft["tar"]["proxy"] == pytest.approx(draft["tar"]["estimated"], rel=1e-5)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _wait_for_trials(out: Path, count: int, process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Until the run has written so many trials; fails if it ends before."""
    trials = out / "trials.jsonl"
    deadline = time.monotonic() + 240
    while not trials.exists() or trials.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline, "the run is too slow"
        time.sleep(0.05)
