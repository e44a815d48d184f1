"""A run as its folder keeps it: what a report is made from, read back without measuring anything again.

`facts.json` holds the `RunFacts` without the builds, which are in `trials.jsonl` and `refined.jsonl` already.  A run
writes it before its search, so that one that is under way or was killed can be read as well, and again at its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from autotune.errors import BadRequest
from autotune.json_file import read_json
from autotune.pareto import pareto_front
from autotune.refinement import Refined
from autotune.reports.facts import RunFacts
from autotune.results import Score, TrialRecord
from autotune.score import rescored
from autotune.store import RunFolder

FACTS_SCHEMA = 1
"""Raised when a key changes its meaning or vanishes; new keys with defaults do not raise it."""


@with_config(ConfigDict(ser_json_inf_nan="constants"))
@dataclass(frozen=True)
class _Saved:
    schema_version: int
    facts: RunFacts


_SAVED = TypeAdapter(_Saved)


def save_facts(folder: RunFolder, facts: RunFacts) -> None:
    """Keep the facts in the run's folder, the records excepted."""
    folder.write_facts(_SAVED.dump_json(_Saved(FACTS_SCHEMA, replace(facts, records=(), front=()))) + b"\n")


def read_run(path: Path) -> RunFacts:
    """The facts of the run in this folder, with the builds it has evaluated so far.

    Raises BadRequest, in one line, if there is no run, or it is damaged or of another version.
    """
    folder = RunFolder.existing(path)
    facts = _read_facts(folder)
    records = folder.records()
    if _was_refined(facts):
        records = with_refined(records, folder.refined(), facts)
    return replace(facts, records=records, front=front_of(records))


def front_of(records: Sequence[TrialRecord]) -> list[tuple[TrialRecord, Score]]:
    """The Pareto front of the records' scores."""
    return pareto_front([(record, score) for record in records for score in record.scores], lambda item: item[1])


def with_refined(records: Sequence[TrialRecord], refined: Sequence[Refined], facts: RunFacts) -> list[TrialRecord]:
    """The records with what their builds came to on most traces."""
    latest: dict[str, Refined] = {}
    for entry in refined:
        if entry.build not in latest or entry.traces > latest[entry.build].traces:
            latest[entry.build] = entry
    return [
        rescored(record, latest[key].outcome, facts.latency, facts.objective)
        if (key := record.build.key()) in latest
        else record
        for record in records
    ]


def _was_refined(facts: RunFacts) -> bool:
    """Whether the run's builds were compared after the refinement; one that was stopped before compares as searched."""
    return facts.refinement is not None and any(level.builds for level in facts.refinement.levels[1:])


def _read_facts(folder: RunFolder) -> RunFacts:
    if not folder.facts_file.is_file():
        raise BadRequest(
            f"{folder.path} has no facts.json: its run was stopped before the search began, or is of an earlier "
            "version of autotune; `autotune run … --resume` with its settings writes it"
        )
    content: dict[str, Any] = read_json(folder.facts_file)
    version = content.get("schema_version")
    if version != FACTS_SCHEMA:
        raise BadRequest(
            f"{folder.facts_file} is of schema {version}, this version of autotune reads schema {FACTS_SCHEMA}: use "
            "the version that wrote it, or `autotune run … --resume` to write it anew"
        )
    try:
        return _SAVED.validate_python(content).facts
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{folder.facts_file} is damaged: {where}: {first['msg']}") from None
