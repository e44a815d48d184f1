"""The configuration file for people and for editors: a commented TOML with every key, and its JSON Schema."""

import json
from importlib.resources import files
from pathlib import Path
from textwrap import wrap
from typing import Any

from autotune.config import TuneConfig
from autotune.errors import BadRequest
from autotune.run_settings import SECTIONS, SETTINGS, Setting

SCHEMA_FILE = Path(str(files("autotune"))) / "config.schema.json"
"""The schema as shipped, which `autotune init` names in what it writes."""

_WIDTH = 100
_BARE = (bool, int, float)
_QUANTITIES = frozenset({"time_budget", "elastic_budget", "finish", "tune_kernels", "build_timeout", "run_timeout"})
"""Durations with a default: numbers of seconds inside, written with their unit."""


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file; keys as users write them, meanings as `--help` gives them.

    Every value is described as TOML can hold it, so null is none of them.
    """
    described = TuneConfig.model_json_schema(mode="validation")
    properties, spelled = {}, []
    for key, raw in described["properties"].items():
        setting, name = SETTINGS[key], key.replace("_", "-")
        properties[name] = {**_plain(raw, described["$defs"]), "description": setting.help}
        if setting.example:
            properties[name]["examples"] = [_example(setting)]
        if name != key:
            spelled.append(key)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "autotune run",
        "description": "The settings of `autotune run --config FILE`.",
        "type": "object",
        "properties": properties,
        "patternProperties": {f"^({'|'.join(spelled)})$": {"description": "the key written with underscores"}},
        "additionalProperties": False,
    }


def schema_text() -> str:
    """The schema as `config.schema.json` has it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def template() -> str:
    """A configuration file in which every setting is explained and commented out; uncommented, it has the defaults."""
    lines = [
        f"#:schema {SCHEMA_FILE.as_uri()}",
        "",
        "# Settings of `autotune run --config FILE`; flags win over this file.",
        "# A line such as #trials = 64 is a setting at its default: remove the # to change it.",
    ]
    for title, settings in SECTIONS.items():
        lines += ["", f"# ---- {title} " + "-" * (_WIDTH - 8 - len(title))]
        for key, setting in settings.items():
            lines += ["", *_comment(setting), *_assignment(key, setting)]
    return "\n".join(lines) + "\n"


def write_template(file: Path, *, replace: bool) -> None:
    """Write the template; BadRequest if the file is there and is not to be replaced, or cannot be written."""
    try:
        with file.open("w" if replace else "x", encoding="utf-8") as opened:
            opened.write(template())
    except FileExistsError:
        raise BadRequest(f"{file} exists: choose another name, or add --force to replace it") from None
    except OSError as error:
        raise BadRequest(f"cannot write {file}: {error.strerror or error}") from None


def _comment(setting: Setting) -> list[str]:
    return [f"# {line}" for line in wrap(f"{setting.meaning}.", _WIDTH - 2, break_long_words=False)]


def _assignment(key: str, setting: Setting) -> list[str]:
    """The setting at its default, or, where that is none, an example which a # alone does not hide."""
    field, name = TuneConfig.model_fields["validate_top" if key == "validate" else key], key.replace("_", "-")
    if field.default is not None:
        bare = isinstance(field.default, _BARE) and key not in _QUANTITIES
        return [f"#{name} = {setting.default if bare else json.dumps(setting.default, ensure_ascii=False)}"]
    default = f"Default: {setting.default}; for" if setting.default else "For"
    return [f"# {default} example:", f"#   {name} = {json.dumps(_example(setting), ensure_ascii=False)}"]


def _example(setting: Setting) -> str | int:
    return int(setting.example) if setting.example.isdigit() else setting.example


def _plain(described: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """What pydantic says of a value, without null, references, titles, and limits it knows no keyword for."""
    if "$ref" in described:
        referred = definitions[described["$ref"].rpartition("/")[2]]
        return {key: value for key, value in referred.items() if key not in ("title", "description")}
    kept = {key: value for key, value in described.items() if key not in ("title", "gt", "ge")}
    if kept.get("default", ...) is None:
        del kept["default"]
    if "anyOf" not in kept:
        return kept
    forms: list[dict[str, Any]] = []
    for form in (_plain(each, definitions) for each in kept.pop("anyOf")):
        forms += form.get("anyOf", [form])
    forms = [form for form in forms if form != {"type": "null"}]
    return {**kept, **(forms[0] if len(forms) == 1 else {"anyOf": forms})}
