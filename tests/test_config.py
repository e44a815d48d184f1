import inspect
from pathlib import Path
from typing import Any, get_args

import pytest

from autotune.candidate import Precision
from autotune.cli_run import run
from autotune.config import TuneConfig, make_config
from autotune.errors import BadRequest
from autotune.objective import ObjectiveKind
from autotune.proxy.loss_choice import Loss
from autotune.samplers import SamplerName
from autotune.sampling import SamplingSettings


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "tune.toml"


def test_defaults() -> None:
    config = make_config({})
    assert (config.target, config.source, config.proxy, config.device) == ("demo", None, "elastic", "cpu")
    assert config.backend == ("onnxruntime", "tvm")
    assert (config.elastic_budget, config.finish, config.validate_top) == (120.0, 30.0, 3)
    assert config.lookahead == "0:8"
    assert config == TuneConfig()


def test_flags_win_over_the_file_and_the_file_over_defaults(toml: Path) -> None:
    toml.write_text('trials = 7\nseed = 5\ntime-budget = "2m"\nmax_new_tokens = 10\n')
    config = make_config({"trials": 3, "seed": None}, toml)
    assert (config.trials, config.seed, config.time_budget, config.max_new_tokens) == (3, 5, 120.0, 10)
    assert config.validate_top == 3


def test_names_may_be_written_with_dashes_or_underscores(toml: Path) -> None:
    toml.write_text('kv-heads = "1:2"\ndraft_vocab = "full,512"\nelastic_budget = "30s"\nvalidate = 2\n')
    config = make_config({"max-memory": "2GiB"}, toml)
    assert (config.kv_heads, config.elastic_budget, config.validate_top) == ("1:2", 30.0, 2)
    assert config.max_memory == 2 << 30
    assert config.ranges.kv_heads == "1:2"
    assert config.ranges.draft_vocab == "full,512"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("max_memory", "512MiB", 512 << 20),
        ("worker_memory", "2 GB", 2 * 10**9),
        ("max_parameters", "1.3B", 1_300_000_000),
        ("recover_tokens", "500k", 500_000),
        ("max_latency", "20ms", 0.02),
        ("build_timeout", "1h30m", 5400.0),
    ],
)
def test_quantities_are_written_with_units(key: str, text: object, value: float) -> None:
    assert getattr(make_config({key: text}), key) == pytest.approx(value)


@pytest.mark.parametrize("written", ["fp32,int8", "fp32, int8", ["fp32", "int8"]])
def test_lists_are_written_with_commas_or_as_lists(written: object) -> None:
    assert make_config({"precision": written}).precision == (Precision.FP32, Precision.INT8)


def test_sampling() -> None:
    config = make_config({"temperature": 0.7, "top_k": 5, "top_p": 0.9})
    assert config.sampling == SamplingSettings(0.7, 5, 0.9)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"trials": 0}, "--trials 0: .*greater than or equal to 1"),
        ({"trials": "many"}, "--trials many: .*valid integer"),
        ({"time_budget": "soon"}, "--time-budget soon: 'soon' is not a duration"),
        ({"time_budget": "-1"}, "--time-budget -1: .*greater than or equal to 0"),
        ({"time_budget": "inf"}, "--time-budget inf: .*finite"),
        ({"elastic_budget": "nan"}, "--elastic-budget nan: .*"),
        ({"max_latency": "0ms"}, "--max-latency 0ms: .*greater than 0"),
        ({"run_timeout": 0}, "--run-timeout 0.*: .*greater than 0"),
        ({"precision": "int3"}, r"--precision int3: did you mean int8 or int4\? choose from: fp32, "),
        ({"precision": "fp32,,int8"}, "--precision"),
        ({"precision": []}, "--precision"),
        (
            {"proxy": "magic"},
            "--proxy magic: unknown proxy 'magic'; choose from: pruned, recovered, elastic, learned-mask",
        ),
        ({"max_memory": "lots"}, "--max-memory lots: 'lots' is not a size; write 2GiB"),
        ({"max_parameters": "some"}, "--max-parameters some: 'some' is not a count; write a whole number, 500k"),
        ({"max_memory": "0"}, "--max-memory 0: .*greater than 0"),
        ({"temperature": -1}, "--temperature -1: .*greater than or equal to 0"),
        ({"top_p": 0}, "--top-p 0: .*greater than 0"),
        ({"validate": 0}, "--validate 0: .*greater than or equal to 1"),
        ({"layers": 5}, "--layers 5: .*valid string"),
        ({"draft_vocab": 512}, "--draft-vocab 512: .*valid string"),
        ({"threads": 0}, "--threads 0"),
        ({"seed": -1}, "--seed -1: .*greater than or equal to 0"),
        ({"resume": "perhaps"}, "--resume perhaps: .*valid boolean"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        make_config(flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["layer", "validate_top", "run"])
def test_an_unknown_key_is_refused_with_those_that_are_known(toml: Path, key: str) -> None:
    toml.write_text(f"{key} = 3\n")
    with pytest.raises(BadRequest, match="unknown configuration key") as caught:
        make_config({}, toml)
    assert repr(key.replace("_", "-")) in str(caught.value)
    assert "kv-heads" in str(caught.value)
    assert "validate," in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"trials = ", b"\xff\xfe", b"trials = 1\ntrials = 2\n"])
def test_a_file_that_is_no_toml_is_refused_in_one_line(toml: Path, content: bytes) -> None:
    toml.write_bytes(content)
    with pytest.raises(BadRequest, match="cannot be read") as caught:
        make_config({}, toml)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_a_folder_is_refused(toml: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="does not exist"):
        make_config({}, toml)
    with pytest.raises(BadRequest, match="cannot be read"):
        make_config({}, tmp_path)


def test_traces_are_a_file_or_a_servers_url() -> None:
    file, served, none = make_config({"traces": Path("t.st")}), make_config({"traces": "http://h/v1"}), make_config({})
    assert (file.traces_file, file.traces_url) == (Path("t.st"), None)
    assert (served.traces_file, served.traces_url) == (None, "http://h/v1")
    assert (none.traces_file, none.traces_url) == (None, None)


def test_the_servers_key_is_never_written() -> None:
    config = make_config({"traces": "http://h/v1", "api_key": "sesame"})
    assert config.api_key is not None
    assert config.api_key.get_secret_value() == "sesame"
    assert "sesame" not in repr(config) + config.model_dump_json() + str(config.model_dump())


def test_every_flag_of_the_command_is_a_key() -> None:
    flags = set(inspect.signature(run).parameters) - {"config", "as_json"}
    keys = {field.alias or name for name, field in TuneConfig.model_fields.items()}
    assert flags == keys


def test_a_targets_latency_is_described() -> None:
    config = make_config({"target_tp": 4, "collective-latency": "20us", "target_latency": "table.json"})
    assert (config.target_tp, config.collective_latency) == (4, pytest.approx(20e-6))
    assert config.target_latency == Path("table.json")


def test_at_least_one_device_holds_the_target() -> None:
    with pytest.raises(BadRequest, match="--target-tp 0"):
        make_config({"target_tp": 0})


def test_weights_of_categories_are_written_with_commas_or_as_a_table(toml: Path) -> None:
    toml.write_text('objective = "weighted"\n[category-weights]\n"a, b=c" = 2\ncode = 0.5\n')
    assert make_config({}, toml).category_weights == {"a, b=c": 2.0, "code": 0.5}
    assert make_config({"category_weights": " code = 2,a=b=1 "}).category_weights == {"code": 2.0, "a=b": 1.0}
    assert make_config({}).category_weights is None


def test_what_can_be_chosen_by_name_is_what_there_is() -> None:
    def choices(field: str) -> set[str]:
        return set(get_args(TuneConfig.model_fields[field].annotation))

    assert choices("loss") == {"auto", *Loss}
    assert choices("sampler") == set(get_args(SamplerName))
    assert choices("objective") == set(ObjectiveKind)
