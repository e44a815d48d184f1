"""The JSON Schema of `summary.json`, made from `RunSummary`; `summary.schema.json` in this package is its text.

    python -m autotune.reports.schema

writes that file anew, which a change of the dataclasses asks for.
"""

import ast
import inspect
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from autotune.reports import facts, figure_summaries, summary
from autotune.reports.summary import SCHEMA_VERSION, RunSummary

SCHEMA_FILE = "summary.schema.json"
_TITLE = "summary.json of an autotune run"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def summary_schema() -> dict[str, Any]:
    """The schema: numbers that are not known are null, and keys that later versions add are allowed."""
    made = TypeAdapter(RunSummary).json_schema(mode="serialization")
    schema = {"$schema": _DIALECT, **made, "title": _TITLE}
    schema["properties"]["schema_version"] = {"const": SCHEMA_VERSION, "type": "integer"}
    words = _field_words()
    for name, definition in [("RunSummary", schema), *schema["$defs"].items()]:
        for field, text in words.get(name, {}).items():
            definition.get("properties", {}).get(field, {})["description"] = text
    return schema


def published_schema() -> dict[str, Any]:
    """The schema as this package ships it."""
    text = files("autotune.reports").joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def schema_text() -> str:
    """The text of the file."""
    return json.dumps(summary_schema(), indent=2, ensure_ascii=False) + "\n"


def _field_words() -> dict[str, dict[str, str]]:
    """By class and field: the string below the field, which is its documentation."""
    words: dict[str, dict[str, str]] = {}
    for module in (summary, figure_summaries, facts):
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.ClassDef):
                words[node.name] = {
                    field.target.id: inspect.cleandoc(text.value.value)
                    for field, text in zip(node.body, node.body[1:], strict=False)
                    if isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                    and isinstance(text.value.value, str)
                }
    return words


def main() -> None:
    """Write the file."""
    Path(str(files("autotune.reports").joinpath(SCHEMA_FILE))).write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
