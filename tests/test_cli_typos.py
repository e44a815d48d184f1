"""Words that nothing is called by: one line that says what was probably meant, exit code 2."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import Autotune, error_line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rum"], "error: No such command 'rum'. Did you mean 'run'? (see `autotune --help`)"),
        (["db", "lst"], "error: No such command 'lst'. Did you mean 'list'? (see `autotune db --help`)"),
        (["fly"], "error: No such command 'fly'. (see `autotune --help`)"),
        (["doctor", "--jsn"], "error: No such option: --jsn: did you mean --json? (see `autotune doctor --help`)"),
        (["run", "--max-latancy", "1ms"], "error: No such option: --max-latancy: did you mean --max-latency"),
        (["verify"], "error: Missing argument 'artifact'. (see `autotune verify --help`)"),
        (["run", "--trials", "x"], "error: Invalid value for '--trials': "),
        (["db", "list", "--kind", "brust"], "unknown kind of entry 'brust': did you mean burst? choose from: burst, "),
        (["db", "prune", "--older-than", "soon"], "'--older-than': 'soon' is not a duration; write 30s, 2m"),
        (["serve", "x", "--max-body", "lots"], "'--max-body': 'lots' is not a size; write 2GiB"),
        (["serve", "x", "--shutdown-timeout", "-1s"], "'-1s' is not a duration"),
        (["paper", "--elastic-budget", "inf"], "'inf' is not a duration: it must be finite and not negative"),
        (["paper", "--device", "cdua"], "unknown device 'cdua': did you mean cuda? choose from: cpu, cuda"),
        (["paper", "--backend", "tmv"], "unknown backend 'tmv': did you mean tvm? choose from: onnxruntime, tvm"),
        (["paper", "--precision", "fp23"], "unknown precision 'fp23': did you mean fp32"),
        (["traces", "--out", "t", "--with", "transformer"], "--with transformer: did you mean transformers? give one"),
        (["targets", "show", "llama65b"], "unknown target 'llama65b': did you mean llama-65b"),
    ],
)
def test_what_was_meant_is_said(autotune: Autotune, words: list[str], message: str) -> None:
    assert message in error_line(autotune(*words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--sampler", "nsga3"],
            "error: --sampler nsga3: did you mean nsga2? choose from: auto, tpe, nsga2, gp, random",
        ),
        (["--objective", "worse"], "--objective worse: did you mean worst? choose from: mean, worst, weighted"),
        (["--loss", "kltv"], "--loss kltv: did you mean kl+tv"),
        (["--proxy", "elastc"], "unknown proxy 'elastc': did you mean elastic? choose from: pruned, "),
        (["--backend", "onnxrutime"], "unknown backend 'onnxrutime': did you mean onnxruntime? choose from: "),
        (["--target-backend", "tmv"], "unknown backend 'tmv': did you mean tvm?"),
        (["--device", "cdua"], "unknown device 'cdua': did you mean cuda?"),
        (["--target", "dmo"], "unknown target 'dmo': did you mean demo?"),
        (["--source", "llama65b"], "unknown target 'llama65b': did you mean llama-65b"),
    ],
)
def test_what_was_meant_by_a_setting_is_said(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_latancy = 3", "tune.toml: unknown configuration key 'max-latancy': did you mean max-latency"),
        ("xyzzy = 3", "tune.toml: unknown configuration key 'xyzzy'; choose from: adaptive-k, api-key, backend"),
        ('sampler = "tpee"', "tune.toml: sampler = 'tpee': did you mean tpe? choose from: auto, tpe"),
        ('time-budget = "soon"', "tune.toml: time-budget = 'soon': 'soon' is not a duration"),
        ("trials = 0", "tune.toml: trials = 0: Input should be greater than or equal to 1"),
    ],
)
def test_a_file_is_named_with_its_key(refused: Callable[..., str], tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tune.toml").write_text(content)
    assert message in refused("--config", tmp_path / "tune.toml")


def test_a_flag_is_named_where_it_wins_over_the_file(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "tune.toml").write_text("trials = 5")
    assert "--trials 0: " in refused("--config", tmp_path / "tune.toml", "--trials", 0)
