"""The commented configuration file and its schema: complete, true, and what the package ships."""

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
from jsonschema import Draft202012Validator

from autotune.config import TuneConfig, key_names, make_config
from autotune.config_file import SCHEMA_FILE, schema, schema_text, template, write_template
from autotune.errors import BadRequest
from autotune.run_settings import SECTIONS, SETTINGS, section_of

SETTING = re.compile(r"^#([a-z][a-z-]*) = ", re.MULTILINE)
EXAMPLE = re.compile(r"^#   ([a-z][a-z-]*) = ", re.MULTILINE)


def uncommented(pattern: re.Pattern[str]) -> str:
    """The lines that match, as settings."""
    lines = [line for line in template().splitlines() if pattern.match(line)]
    return "\n".join(line.lstrip("# ") for line in lines)


def valid(document: dict[str, Any]) -> bool:
    return Draft202012Validator(schema()).is_valid(document)


def test_uncommented_settings_are_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "tune.toml").write_text(uncommented(SETTING))
    assert make_config({}, tmp_path / "tune.toml") == TuneConfig()
    assert valid(tomllib.loads(uncommented(SETTING)))


def test_as_written_it_sets_nothing(tmp_path: Path) -> None:
    write_template(tmp_path / "tune.toml", replace=False)
    assert tomllib.loads((tmp_path / "tune.toml").read_text()) == {}
    assert make_config({}, tmp_path / "tune.toml") == TuneConfig()


def test_every_key_is_there_once() -> None:
    assert sorted(SETTING.findall(template()) + EXAMPLE.findall(template())) == sorted(key_names())
    assert {key.replace("_", "-") for key in SETTINGS} == set(key_names()) == set(schema()["properties"])
    assert sum(map(len, SECTIONS.values())) == len(SETTINGS)
    assert section_of("kv_heads") == "Search space"


def test_examples_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "tune.toml").write_text(uncommented(EXAMPLE))
    config = make_config({}, tmp_path / "tune.toml")
    assert config.max_parameters == 1_300_000_000
    assert valid(tomllib.loads(uncommented(EXAMPLE)))


@pytest.mark.parametrize("key", [key for key, setting in SETTINGS.items() if not setting.example])
def test_defaults_in_words_are_the_defaults(key: str) -> None:
    field = "validate_top" if key == "validate" else key
    assert getattr(make_config({key: SETTINGS[key].default}), field) == getattr(TuneConfig(), field)


def test_the_schema_is_named_in_the_first_line_and_shipped() -> None:
    first = template().splitlines()[0]
    assert first.startswith("#:schema file:///")
    named = Path(url2pathname(urlparse(first.removeprefix("#:schema ")).path))
    assert named == SCHEMA_FILE
    assert named.read_text(encoding="utf-8") == schema_text(), "autotune init --schema > autotune/config.schema.json"


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())
    assert all(described["description"] for described in schema()["properties"].values())
    assert "null" not in schema_text()


@pytest.mark.parametrize(
    "document",
    [
        {"time-budget": "1h30m", "max-memory": "2 GiB", "max-parameters": "1.3B", "recover_tokens": 500_000},
        {"time_budget": 600, "max-latency": "20us", "batch": "1,4", "precision": "fp32,int8"},
        {"batch": [1, 4], "precision": ["fp32", "int8"], "backend": ["tvm"], "category-weights": {"code": 2}},
        {"proxy": "recovered", "target-precision": "int8", "category-weights": "code=2"},
    ],
)
def test_the_schema_admits_what_can_be_read(tmp_path: Path, document: dict[str, Any]) -> None:
    assert valid(document)
    make_config(document)


@pytest.mark.parametrize(
    "document",
    [
        {"time-budget": "soon"},
        {"max-memory": "lots"},
        {"max-parameters": "1.3X"},
        {"batch": [0]},
        {"precision": ["int3"]},
        {"proxy": "magic"},
        {"sampler": "tpee"},
        {"trails": 3},
        {"trials": "3 or 4"},
        {"seed": -1},
    ],
)
def test_the_schema_refuses_what_cannot_be_read(document: dict[str, Any]) -> None:
    assert not valid(document)
    with pytest.raises(BadRequest):
        make_config(document)


def test_a_file_is_replaced_only_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "tune.toml"
    file.write_text("trials = 3\n")
    with pytest.raises(BadRequest, match="exists: choose another name, or add --force"):
        write_template(file, replace=False)
    assert file.read_text() == "trials = 3\n"
    write_template(file, replace=True)
    assert file.read_text() == template()


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "no" / "tune.toml"):
        with pytest.raises(BadRequest, match=r"(cannot write|exists)"):
            write_template(file, replace=True)
