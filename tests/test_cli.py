import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from autotune import cli, run
from autotune.errors import Interrupted, TrainingDiverged

COMMANDS = ("run", "traces", "generate", "bench", "verify", "doctor", "targets", "db")
HEAVY = {"torch", "transformers", "optuna", "onnx", "onnxruntime", "tvm", "altair", "vl_convert", "sqlalchemy"}


class Exit(NamedTuple):
    code: int
    out: str
    err: str


Autotune = Callable[..., Exit]


@pytest.fixture
def autotune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Autotune]:
    """The command, run in this process."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*words: object) -> Exit:
        monkeypatch.setattr(sys, "argv", ["autotune", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        return Exit(code if isinstance(code, int) else 0, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def refused(autotune: Autotune, tmp_path: Path) -> Callable[..., str]:
    """The message of `autotune run` with bad flags: one line, exit code 2, and nothing written."""

    def call(*words: object, target: object = "demo", out: Path = tmp_path / "out") -> str:
        before = sorted(tmp_path.rglob("*"))
        done = autotune("run", "--target", target, "--out", out, *words)
        assert sorted(tmp_path.rglob("*")) == before
        return error_line(done)

    return call


def error_line(done: Exit, code: int = 2) -> str:
    assert done.code == code, done
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line


def test_help_loads_nothing_heavy() -> None:
    """Of the command and of all its sub-commands, in a fresh process."""
    program = f"""
import json, sys
from autotune.cli import app
for words in [[], *([name] for name in {COMMANDS})]:
    try:
        app([*words, "--help"])
    except SystemExit as stop:
        assert not stop.code, words
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    root = Path(cli.__file__).parents[1]
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert not {name.partition(".")[0] for name in json.loads(shown.stderr.splitlines()[-1])} & HEAVY
    assert shown.stdout.count("Usage:") == 1 + len(COMMANDS)
    for flag in ("--lookahead", "--elastic-budget", "--max-memory", "--repeats", "--json", "--stop"):
        assert flag in shown.stdout


def test_version(autotune: Autotune) -> None:
    done = autotune("--version")
    assert (done.code, done.out) == (0, f"autotune {version('draft-autotune')}\n")


def test_the_package_runs_as_a_module() -> None:
    root = Path(cli.__file__).parents[1]
    shown = subprocess.run(
        [sys.executable, "-m", "autotune", "--version"], capture_output=True, text=True, check=True, cwd=root
    )
    assert shown.stdout.startswith("autotune ")


@pytest.mark.parametrize(
    "words", [["--no-such-flag"], ["run", "--no-such-flag"], ["fly"], ["verify"], ["run", "--trials", "x"]]
)
def test_usage_errors(autotune: Autotune, words: list[str]) -> None:
    done = autotune(*words)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


def test_targets(autotune: Autotune) -> None:
    done = autotune("targets")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[:3]] == ["name", "demo", "llama-65b"]


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
        (["--precision", "int3"], "--precision int3: Input should be 'fp32', 'fp16', 'bf16', 'int8' or 'int4'"),
        (["--device", "tpu"], "unknown device 'tpu'; this version knows: cpu, cuda"),
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
        (["--train-device", "tpu"], "--train-device tpu: Input should be 'auto', 'cpu' or 'cuda'"),
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
    [("trails = 4", "unknown configuration key 'trails'; known keys: "), ("trials = ", "cannot be read: ")],
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


@pytest.mark.parametrize("command", [["generate", "--prompt", "x"], ["bench"], ["verify"]])
def test_a_folder_that_is_no_artifact(autotune: Autotune, tmp_path: Path, command: list[str]) -> None:
    name, *words = command
    assert "is not an artifact: it has no readable manifest.json" in error_line(autotune(name, tmp_path, *words))
    assert "is not an artifact" in error_line(autotune(name, tmp_path / "nowhere", *words))
    (tmp_path / "manifest.json").write_text('{"schema_version": 99}')
    assert "newer than the 2 known here: upgrade" in error_line(autotune(name, tmp_path, *words))


def test_a_checkpoint_cut_short_is_refused_before_anything_is_written(
    autotune: Autotune, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "is corrupt or cut short" in error_line(autotune("run", "--target", copy, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_benchmark_cannot_be_written_over_a_folder(autotune: Autotune, tmp_path: Path) -> None:
    assert "is a folder: name a file" in error_line(autotune("bench", tmp_path, "--out", tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate"], "give either --prompt TEXT or --prompts FILE"),
        (["generate", "--prompt", "x", "--prompts", "file"], "give either --prompt TEXT or --prompts FILE"),
        (["generate", "--prompt", "x", "--batch", "4"], "are for several prompts: give --prompts FILE"),
        (["generate", "--prompt", "x", "--lookahead", "0"], "are for several prompts: give --prompts FILE"),
        (["generate", "--prompts", "/nowhere"], "prompts file /nowhere does not exist"),
        (["generate", "--prompts", "x", "--out", "/nowhere/out"], "the folder /nowhere does not exist"),
        (["bench", "--lookahead", "2"], "--lookahead is for a batch: give --batch"),
    ],
)
def test_options_of_batches_that_do_not_fit(autotune: Autotune, tmp_path: Path, words: list[str], message: str) -> None:
    assert message in error_line(autotune(words[0], tmp_path, *words[1:]))


def test_traces_of_what_is_not_there(autotune: Autotune, tmp_path: Path) -> None:
    out = tmp_path / "t.safetensors"
    assert "unknown target" in error_line_after_phase(autotune("traces", "--out", out, "--target", "nowhere"))
    assert "does not exist" in error_line_after_phase(autotune("traces", "--out", out, "--prompts", tmp_path / "p"))
    assert "temperature" in error_line_after_phase(autotune("traces", "--out", out, "--temperature", "-1"))
    assert not list(tmp_path.iterdir())


def error_line_after_phase(done: Exit) -> str:
    lines = [line for line in done.err.splitlines() if not line.endswith("…")]
    return error_line(done._replace(err="\n".join(lines)))


def test_a_report_of_a_benchmark_that_could_not_be_written(autotune: Autotune, tmp_path: Path) -> None:
    done = autotune("bench", tmp_path, "--out", tmp_path / "no" / "bench.json")
    assert "the folder" in error_line(done)
    assert "does not exist" in error_line(done)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Interrupted("stopped; --resume continues the run"), 130, "stopped; --resume continues the run"),
        (TrainingDiverged("the loss\nbecame NaN"), 2, "the loss became NaN"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/trials.jsonl"), 2, "/x/trials.jsonl: No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "/x: Permission denied"),
    ],
)
def test_expected_failures_are_one_line(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str
) -> None:
    monkeypatch.setattr(run, "tune", raising(error))
    assert message in error_line(autotune("run"), code)


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


def test_an_interrupt_ends_with_130(autotune: Autotune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "tune", raising(KeyboardInterrupt()))
    done = autotune("run")
    assert done.code == 130
    assert "Traceback" not in done.err


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "tune", raising(OSError(errno.ENOTCONN, "what?")))
    monkeypatch.setattr(sys, "argv", ["autotune", "run"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(OSError, match="what"):
        cli.main()


def test_a_termination_signal_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        cli._interrupt(signal.SIGTERM, None)


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


def test_a_prompt_of_an_argument_or_of_stdin_must_be_text() -> None:
    script = "import sys; from autotune.cli import main; sys.argv[0] = 'autotune'; main()"
    root = Path(cli.__file__).parents[1]
    for prompt, given in ((b"caf\xe9", b""), (b"-", b"caf\xe9")):
        words: list[bytes | str] = [sys.executable, "-c", script, "generate", "/nowhere", "--prompt", prompt]
        done = subprocess.run(words, input=given, capture_output=True, check=False, cwd=root)
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
        assert b"error: the prompt is not UTF-8" in done.stderr


@pytest.mark.parametrize(("flag", "value"), [("--elastic-budget", "1ms"), ("--finish", "1ms")])
def test_a_training_budget_too_small_for_one_step(refused: Callable[..., str], flag: str, value: str) -> None:
    assert f"{flag} is less than one training step: give at least" in refused(flag, value)


def test_traces_that_could_not_be_written_are_not_recorded(autotune: Autotune, tmp_path: Path) -> None:
    for out in (Path("/proc/traces.safetensors"), tmp_path):
        done = autotune("traces", "--out", out)
        assert f"cannot write {out}: " in error_line_after_phase(done)
        assert "%" not in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "m"), "--model and --api-key are those of an --endpoint"),
        (("--endpoint", "http://h/v1", "--with", "transformers"), "--endpoint and --with exclude each other"),
        (("--endpoint", "nonsense"), "'nonsense' is not an endpoint: give the base URL"),
        (("--endpoint", "http://me:pass@h/v1"), "must hold no credentials"),
        (("--with", "vllm"), "--with vllm: give one of autotune, transformers"),
    ],
)
def test_bad_ways_to_record_traces(autotune: Autotune, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    out = tmp_path / "traces.safetensors"
    assert message in error_line(autotune("traces", "--out", out, *words))
    assert not out.exists()


def test_a_servers_name_without_a_server_is_refused(refused: Callable[..., str]) -> None:
    assert "give its URL with --traces" in refused("--model", "served")
    assert "is not an endpoint" in refused("--traces", "ftp://host/v1")
