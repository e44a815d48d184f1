"""A run that was saved is read as it was."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from autotune.errors import BadRequest
from autotune.refinement import Level, Refined, Refinement
from autotune.reports.facts import RunFacts
from autotune.results import Evidence, Measured, Rejected, RejectReason
from autotune.saved_run import FACTS_SCHEMA, read_run
from autotune.store import RunFolder
from tests.support.facts import synthetic_facts
from tests.support.figures import constant_acceptance, measured, record, target_latency
from tests.support.saved_runs import save_run


def test_a_run_is_read_as_it_was_saved(tmp_path: Path) -> None:
    facts = synthetic_facts(builds=20)
    read = read_run(save_run(tmp_path, facts))
    assert {(each.number, score.lookahead) for each, score in read.front} == {
        (each.number, score.lookahead) for each, score in facts.front
    }
    as_json = TypeAdapter(RunFacts).dump_json
    assert as_json(replace(read, front=())) == as_json(replace(facts, front=()))
    assert list(read.records) == list(facts.records)


def test_the_records_are_kept_once(tmp_path: Path) -> None:
    folder = save_run(tmp_path, synthetic_facts(builds=20))
    content = json.loads((folder / "facts.json").read_text())
    assert content["schema_version"] == FACTS_SCHEMA
    assert (content["facts"]["records"], content["facts"]["front"]) == ([], [])


def test_builds_that_were_refined_have_their_latest_tokens_per_round(tmp_path: Path) -> None:
    facts = replace(
        synthetic_facts(builds=0, validated=0, choose=False),
        latency=target_latency(),
        records=[record(0, measured(0.4, 0.001))],
        refinement=Refinement((Level(1, 100, 0), Level(2, 200, 0), Level(4, 400, 1))),
    )
    folder = RunFolder(save_run(tmp_path, facts))
    (build,) = {each.build for each in facts.records}
    for traces, kept in ((4, 0.6), (2, 0.5)):
        folder.append_refined(Refined(build.key(), traces, constant_acceptance(kept)))
    (read,) = read_run(tmp_path).records
    assert isinstance(read.outcome, Measured)
    assert read.outcome.acceptance == constant_acceptance(0.6)
    assert [score.tokens_per_round.value for score in read.scores] == pytest.approx([1.6, 2.2, 2.8, 3.4])
    assert [score.round_s for score in read.scores] == [score.round_s for score in facts.records[0].scores]


def test_a_run_that_was_stopped_before_it_was_refined_compares_as_it_searched(tmp_path: Path) -> None:
    facts = replace(
        synthetic_facts(builds=0, validated=0, choose=False),
        latency=target_latency(),
        records=[record(0, measured(0.4, 0.001))],
        refinement=Refinement((Level(1, 100, 1), Level(4, 400, 0))),
    )
    RunFolder(save_run(tmp_path, facts)).append_refined(
        Refined(facts.records[0].build.key(), 4, constant_acceptance(0.6))
    )
    assert list(read_run(tmp_path).records) == list(facts.records)


def test_a_build_that_could_not_be_refined_has_no_score(tmp_path: Path) -> None:
    facts = replace(
        synthetic_facts(builds=0, validated=0, choose=False),
        records=[record(0, measured(0.4, 0.001))],
        refinement=Refinement((Level(1, 100, 0), Level(4, 400, 1))),
    )
    lost = Rejected(RejectReason.NOT_A_NUMBER, "the logits are not finite")
    RunFolder(save_run(tmp_path, facts)).append_refined(Refined(facts.records[0].build.key(), 4, lost))
    (read,) = read_run(tmp_path).records
    assert read.outcome == lost
    assert not read_run(tmp_path).front


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    save_run(tmp_path, synthetic_facts(builds=5))
    with (tmp_path / "trials.jsonl").open("ab") as file:
        file.write(b'{"number": 5, "build": {"sha')
    assert [each.number for each in read_run(tmp_path).records] == [0, 1, 2, 3, 4]


def test_a_read_only_folder_is_read(tmp_path: Path) -> None:
    save_run(tmp_path, synthetic_facts(builds=5))
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    for each in (*tmp_path.iterdir(), tmp_path):
        each.chmod(0o555 if each.is_dir() else 0o444)
    try:
        assert len(read_run(tmp_path).records) == 5
    finally:
        tmp_path.chmod(0o755)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"schema_version": 0, "facts": {}}', "is of schema 0, this version of autotune reads schema 1"),
        ('{"schema_version": 2, "facts": {}}', "is of schema 2, this version of autotune reads schema 1"),
        ('{"schema_version": 1, "facts": {"target": 3}}', "is damaged: facts"),
        ("{", "is not valid JSON"),
        ("[]", "must hold a JSON object"),
    ],
)
def test_facts_of_other_versions_and_damage_are_refused_in_one_line(tmp_path: Path, content: str, why: str) -> None:
    save_run(tmp_path, synthetic_facts(builds=2))
    (tmp_path / "facts.json").write_text(content)
    with pytest.raises(BadRequest, match=why) as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_without_facts_is_refused_with_the_way_on(tmp_path: Path) -> None:
    save_run(tmp_path, synthetic_facts(builds=2))
    (tmp_path / "facts.json").unlink()
    with pytest.raises(BadRequest, match=r"has no facts\.json: .*--resume"):
        read_run(tmp_path)


def test_evidence_survives(tmp_path: Path) -> None:
    read = read_run(save_run(tmp_path, synthetic_facts(builds=3)))
    assert read.baseline.evidence is Evidence.MEASURED
