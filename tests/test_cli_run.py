"""`autotune run`: through the command line, in this process."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune import run
from tests.support.command_line import Autotune, error_line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "9:3"], "--layers 9:3: the range is empty"),
        (["--layers", "many"], "--layers many: write low:high"),
        (["--layers", "99"], "--layers 99: the source has only"),
        (["--ffn", "0:64"], "--ffn 0:64: write low:high"),
        (["--lookahead", "0"], "--lookahead 0 alone leaves nothing to search"),
        (["--lookahead", "1:4000"], "--lookahead 1:4000: such bursts do not fit into the context"),
        (["--backend", "gcc"], "unknown backend 'gcc'; choose from: onnxruntime"),
        (["--backend", "tvm", "--precision", "fp16"], "backend tvm has no fp16 on cpu; use --precision fp32"),
        (
            ["--precision", "int3"],
            "--precision int3: did you mean int8 or int4? choose from: fp32, fp16, bf16, int8, int4",
        ),
        (["--device", "tpu"], "unknown device 'tpu': did you mean cpu? choose from: cpu, cuda"),
        (["--tune-kernels", "soon"], "'soon' is not a duration; write 30s"),
        (["--tune-kernels", "5m", "--backend", "onnxruntime"], "--tune-kernels tunes TVM programs"),
        (
            ["--proxy", "magic"],
            "--proxy magic: unknown proxy 'magic'; choose from: pruned, recovered, elastic, learned-mask",
        ),
        (
            ["--proxy", "learned-mask", "--recover-tokens", "511"],
            "--recover-tokens 511 is less than one training step: give at least 512",
        ),
        (["--train-device", "tpu"], "--train-device tpu: did you mean cpu? choose from: auto, cpu, cuda"),
        (["--train-processes", "0"], "--train-processes 0: Input should be greater than or equal to 1"),
        (["--time-budget", "soon"], "'soon' is not a duration; write 30s"),
        (["--max-memory", "lots"], "--max-memory lots: "),
        (["--temperature", "-1"], "--temperature -1.0: "),
        (["--trials", "0"], "--trials 0: "),
        (["--source", "nowhere"], "unknown target 'nowhere'"),
        (["--prompts", "nowhere.txt"], "prompts file nowhere.txt does not exist"),
        (["--traces", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["--config", "nowhere.toml"], "configuration file nowhere.toml does not exist"),
        (
            ["--objective", "weighted", "--category-weights", "poems=1"],
            "no category 'poems'; the workload has class (202), docstring (503), function (1295)",
        ),
        (["--category-weights", "class=1"], "are those of --objective weighted"),
    ],
)
def test_a_bad_request_is_one_line(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused(*words)


def test_a_training_on_a_gpu_that_is_not_there(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--train-device cuda: torch" in refused("--train-device", "cuda")


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("nowhere", "`autotune targets` lists the known names. Or give a folder"),
        ("llama-56b", "did you mean llama-65b"),
        ("/dev/null", "there is no such folder"),
    ],
)
def test_an_unknown_target(refused: Callable[..., str], target: str, hint: str) -> None:
    assert f"unknown target {target!r}: {hint}" in refused(target=target)


def test_a_folder_that_is_no_checkpoint(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "has no config.json" in refused(target=tmp_path)


def test_heads_that_do_not_divide(refused: Callable[..., str], tiny_checkpoint: Path) -> None:
    message = refused("--heads", "3:3", target=tiny_checkpoint)
    assert "--heads 3:3: the heads do not divide into groups of at most 2" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"caf\xe9\n", "is not UTF-8: byte 3 is wrong"),
        (b"one\ntwo\n", "3 different prompts are needed"),
        (b"one\ntwo\nthree\n" + b"long " * 5000, r"p.txt:4 has"),
    ],
)
def test_prompts_that_cannot_be_used(refused: Callable[..., str], tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "p.txt").write_bytes(content)
    assert message in refused("--prompts", tmp_path / "p.txt")


def test_malformed_json_prompts(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    assert "line 2 is not valid JSON" in refused("--prompts", tmp_path / "p.jsonl")


def test_a_file_that_holds_no_traces(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(b"\x10" * 100)
    assert "is corrupt or cut short" in refused("--traces", tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [("trails = 4", "tune.toml: unknown configuration key 'trails': did you mean"), ("trials = ", "cannot be read: ")],
)
def test_configuration_files_that_cannot_be_used(
    refused: Callable[..., str], tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "tune.toml").write_text(content)
    assert message in refused("--config", tmp_path / "tune.toml")


def test_a_flag_mends_what_the_file_says(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "tune.toml").write_text('layers = "9:3"\ntarget = "nowhere"\n')
    assert "9:3" in refused("--config", tmp_path / "tune.toml")
    assert "--layers 5:4" in refused("--config", tmp_path / "tune.toml", "--layers", "5:4")


def test_an_output_folder_that_is_not_free(refused: Callable[..., str], tmp_path: Path) -> None:
    for name, file, message in (
        ("full", "photo.jpg", "is not empty and holds no run: choose another --out"),
        ("run", "run.json", "holds a run already: add --resume"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text('{"schema_version": 1, "seed": 0}')
        assert message in refused(out=tmp_path / name)
    assert "holds a different run (differs in: backend, " in refused("--resume", out=tmp_path / "run")


def test_an_output_folder_that_cannot_be_written(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/out")):
        assert f"cannot write the output folder {out}: " in refused(out=out)


def test_a_checkpoint_cut_short_is_refused_before_anything_is_written(
    autotune: Autotune, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "is corrupt or cut short" in error_line(autotune("run", "--target", copy, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("feasible", "code"), [(True, 0), (False, 3)])
def test_the_exit_code_says_whether_anything_was_feasible(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch, feasible: bool, code: int
) -> None:
    class Summary:
        sentence = "Do not speculate."
        banner = ()
        kind = "whole"

    given: list[Any] = []

    def tune(config: Any, observer: Any) -> run.TuneResult:
        given.append(config)
        return run.TuneResult(
            Summary(), Path("r"), Path("r/report"), Path("r/artifact") if feasible else None, feasible
        )

    monkeypatch.setattr(run, "tune", tune)
    words = ["--trials", 3, "--kv-heads", "1:2", "--validate", 2, "--precision", "fp32,int8", "--no-database"]
    done = autotune("run", *words, "--resume")
    assert done.code == code
    shipped = ["artifact: r/artifact"] if feasible else []
    assert done.out.splitlines() == ["Do not speculate.", "report: r/report/report.md", *shipped]
    (config,) = given
    assert (config.trials, config.kv_heads, config.validate_top, config.resume) == (3, "1:2", 2, True)
    assert [precision.value for precision in config.precision] == ["fp32", "int8"]
    assert not config.database


@pytest.mark.parametrize(("flag", "value"), [("--elastic-budget", "1ms"), ("--finish", "1ms")])
def test_a_training_budget_too_small_for_one_step(refused: Callable[..., str], flag: str, value: str) -> None:
    assert f"{flag} is less than one training step: give at least" in refused(flag, value)


def test_a_servers_name_without_a_server_is_refused(refused: Callable[..., str]) -> None:
    assert "give its URL with --traces" in refused("--model", "served")
    assert "is not an endpoint" in refused("--traces", "ftp://host/v1")
