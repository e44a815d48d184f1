"""A plan's commands are ones that this program and the hub's take."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.artifact import ArtifactKind, verify_artifact, verify_runnable
from autotune.candidate import Build, Precision
from autotune.cli import app
from autotune.config import TuneConfig, make_config
from autotune.errors import ArtifactError
from autotune.families import describe_config
from autotune.families.checkpoint import read_config
from autotune.plan import plan_commands, plan_text
from autotune.presets import presets
from autotune.request import Request, resolve
from autotune.results import Evidence, Figure, Measured, Score
from autotune.search_space.space import make_space
from autotune.ship import ship_plan
from tests.support.figures import measured, record

SCORE = Score(
    lookahead=5,
    tokens_per_round=Figure(2.5, Evidence.STAND_IN, 2.4, 2.6),
    round_s=Figure(31.0, Evidence.EXTRAPOLATED, 30.0, 32.0),
    tokens_per_s=Figure(0.08, Evidence.STAND_IN),
    speedup=Figure(2.1, Evidence.STAND_IN, 2.0, 2.2),
    break_even=Figure(1.19, Evidence.EXTRAPOLATED, 1.1, 1.3),
)


@pytest.fixture(scope="module")
def request_65b() -> Request:
    return resolve(make_config({"target": "llama-65b", "temperature": 0.7, "context": 2048, "backend": "onnxruntime"}))


def build_of(request: Request, **sizes: int) -> Build:
    return Build(replace(request.source.shape, layers=5, **sizes), "onnxruntime", Precision.INT8)


def flags_of(command: str) -> dict[str, str]:
    words = shlex.split(command)
    return dict(zip((word.removeprefix("--") for word in words[2::2]), words[3::2], strict=True))


def test_the_command_that_finishes_the_job_asks_for_the_very_draft(request_65b: Request) -> None:
    _, _, finish, _ = plan_commands(request_65b, build_of(request_65b), SCORE)
    assert finish.startswith("autotune run ")
    config: TuneConfig = make_config(flags_of(finish))
    assert (config.target, config.context, config.sampling.temperature) == ("llama-65b", 2048, 0.7)
    assert (config.ranges.layers, config.ranges.heads, config.ranges.ffn) == ("5", "32", "11008")
    assert (config.lookahead, config.draft_vocab, config.precision) == ("5", "full", (Precision.INT8,))
    trimmed = plan_commands(request_65b, build_of(request_65b, draft_vocab=8000), SCORE)[2]
    assert make_config(flags_of(trimmed)).draft_vocab == "8000"


@pytest.mark.parametrize("name", presets().models)
def test_of_every_preset_the_last_command_leaves_the_very_draft(name: str) -> None:
    request = resolve(make_config({"target": name, "backend": "onnxruntime"}))
    for shape in (request.space.smallest, request.space.deepest):
        build = Build(shape, "onnxruntime", request.precision[0])
        config = make_config(flags_of(plan_commands(request, build, SCORE)[2]))
        assert config.precision is not None
        space = make_space(request.source.shape, config.ranges, config.backend, config.precision)
        assert space.size == 1
        assert shape in space


def test_every_command_takes_the_flags_it_is_given(request_65b: Request) -> None:
    commands = plan_commands(request_65b, build_of(request_65b), SCORE)
    assert commands[0] == "hf download huggyllama/llama-7b --local-dir ./source"
    for command in commands[1:]:
        name, *words = shlex.split(command)[1:]
        shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300"}).output
        for word in words:
            assert not word.startswith("--") or word in shown, word


def test_a_source_of_pickled_weights_is_converted() -> None:
    request = resolve(make_config({"target": "opt-66b", "backend": "onnxruntime"}))
    build = Build(replace(request.source.shape, layers=5), "onnxruntime", Precision.INT8)
    fetch, record, finish, _ = plan_commands(request, build, SCORE)
    assert fetch.startswith("python -c ")
    assert "'facebook/opt-6.7b'" in fetch
    assert "--target ./opt-6.7b-safetensors " in record  # the repository has no tokenizer.json either
    assert flags_of(finish)["source"] == "./opt-6.7b-safetensors"


def test_the_text_says_what_is_known_and_how(request_65b: Request) -> None:
    text = plan_text(request_65b, build_of(request_65b), SCORE)
    assert "**This is a plan, not a result.**" in text
    assert "31000.00 (extrapolated, 30000.00 … 32000.00) ms" in text
    assert "pays from 1.19 (extrapolated, 1.10 … 1.30) tokens per round" in text
    assert "2.50 (stand-in, 2.40 … 2.60) tokens per round are assumed" in text


def test_a_source_in_a_folder_is_not_fetched(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a source"
    folder.mkdir()
    shutil.copy(tiny_checkpoint / "config.json", folder)
    flags = {"target": str(folder), "source": str(folder), "lookahead": "1:3", "backend": "onnxruntime"}
    request = resolve(make_config({**flags, "batch": "1,4", "threads": 2}))
    fetch, record_, finish, _ = plan_commands(request, build_of(request), SCORE)
    assert fetch == ""
    assert f"--target '{folder.resolve()}' --endpoint" in record_
    config = make_config(flags_of(finish))
    assert (config.source, config.batch, config.threads) == (str(folder.resolve()), (1, 4), 2)
    text = plan_text(request, build_of(request), SCORE)
    assert "hf download" not in text
    assert "beside its `config.json`" in text
    assert config.traces is None  # the target is the very model, and whole then
    assert "--target-latency" not in text


def test_a_table_is_asked_for_where_there_is_none(request_65b: Request, tmp_path: Path) -> None:
    build = build_of(request_65b)
    assert "measured where it is served, and nothing" in plan_text(request_65b, build, SCORE)
    for change, expected in (
        ({"batch": (1, 4)}, "measured where it is served, instead of `--batch`, and nothing"),
        ({"target_latency": tmp_path / "table.json"}, None),
    ):
        changed = replace(request_65b, config=request_65b.config.model_copy(update=change))
        text = plan_text(changed, build, SCORE)
        assert expected in text if expected else "Add `--target-latency" not in text


class Bench:
    """What shipping a plan needs of a workbench."""

    threads = 1

    def __init__(self, request: Request) -> None:
        self.request = request


def test_a_plan_ships_without_weights(request_65b: Request, tmp_path: Path) -> None:
    outcome = measured(0.5, 0.001)
    assert isinstance(outcome, Measured)
    chosen = record(0, outcome, build_of(request_65b, draft_vocab=8000)), SCORE
    manifest = ship_plan(Bench(request_65b), chosen, tmp_path / "plan", {})  # type: ignore[arg-type]
    assert (manifest.kind, manifest.lookahead) == (ArtifactKind.PLAN, 5)
    assert verify_artifact(tmp_path / "plan") == manifest
    assert manifest.target.fingerprint is manifest.target.tokenizer_fingerprint is None
    assert manifest.figures is not None
    assert manifest.figures.speedup_measured is None
    config = read_config(tmp_path / "plan" / "hf_config")
    shape, _ = describe_config(config, tmp_path)
    assert shape == build_of(request_65b).shape
    with pytest.raises(ArtifactError, match=r"is a plan for llama-65b, with no weights to run: PLAN\.md"):
        verify_runnable(tmp_path / "plan")
