import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from autotune.reports.facts import RunFacts
from autotune.reports.schema import published_schema, summary_schema
from autotune.reports.summarise import summarise
from autotune.results import RunKind, TrialRecord
from tests.support.figures import BUILD, screened

MakeFacts = Callable[..., RunFacts]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = published_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def written(facts: RunFacts) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(summarise(facts).to_json())
    return summary


def test_the_published_schema_is_up_to_date() -> None:
    assert published_schema() == json.loads(json.dumps(summary_schema())), "run python -m autotune.reports.schema"


def test_fields_are_described(validator: jsonschema.Draft202012Validator) -> None:
    properties = validator.schema["properties"]
    assert properties["trials"]["description"].startswith("Builds evaluated;")
    assert validator.schema["$defs"]["FrontSummary"]["properties"]["kv_bytes"]["description"]


def test_summaries_of_all_kinds_of_runs_keep_the_schema(
    validator: jsonschema.Draft202012Validator, make_facts: MakeFacts
) -> None:
    facts = make_facts()
    extra = TrialRecord(40, BUILD, BUILD.shape.parameters, 0.1, screened())
    runs = [
        facts,
        replace(facts, records=[*facts.records, extra]),
        replace(facts, validated=[], chosen=None, interrupted=True, looping_share=None),
        replace(facts, records=[], front=[], validated=[], chosen=None),
        *(replace(facts, kind=kind, validated=[], chosen=None) for kind in RunKind),
    ]
    for run in runs:
        assert [error.message for error in validator.iter_errors(written(run))] == []


def test_a_real_summary_keeps_the_schema(validator: jsonschema.Draft202012Validator) -> None:
    demo = json.loads((ROOT / "docs" / "demo" / "summary.json").read_text())
    assert [error.message for error in validator.iter_errors(demo)] == []


@pytest.mark.parametrize(
    ("key", "value"), [("verdict", "perhaps"), ("trials", "many"), ("schema_version", 2), ("sentence", None)]
)
def test_what_is_no_summary_is_refused(
    validator: jsonschema.Draft202012Validator, make_facts: MakeFacts, key: str, value: object
) -> None:
    assert not validator.is_valid({**written(make_facts(builds=3)), key: value})


def test_a_missing_key_is_refused(validator: jsonschema.Draft202012Validator, make_facts: MakeFacts) -> None:
    summary = written(make_facts(builds=3))
    del summary["baseline"]
    assert not validator.is_valid(summary)
