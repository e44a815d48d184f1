import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.artifact import MANIFEST_FILE
from autotune.batch_bench import BatchContest, bench_batch, run_batch_contest
from autotune.bench import BenchRequest
from autotune.errors import BadRequest
from autotune.runtime.batch_decode import BatchDecoder
from autotune.sampling import SamplingSettings
from tests.support.artifacts import artifact_of_demo
from tests.support.sessions import BatchOf, PairwiseSession, near_table, random_table

TABLE = random_table(1)
CONTEST = BatchContest(
    target="",
    draft=None,
    single_target="",
    schedules=(),
    prompts=((1,), (2, 3), (4, 5, 6)),
    max_new_tokens=12,
    sampling=SamplingSettings(),
    eos_ids=(),
    seed=0,
    threads=1,
    repeats=3,
)


def decoders() -> list[BatchDecoder]:
    target, draft = (
        BatchOf([PairwiseSession(table) for _ in range(2)], (1,)) for table in (TABLE, near_table(TABLE, 9, 0.3))
    )
    return [BatchDecoder(target, None, 0), BatchDecoder(target, draft, 3)]


def test_all_decode_all_prompts_in_every_turn() -> None:
    tallies = run_batch_contest(decoders(), PairwiseSession(TABLE), CONTEST)
    assert [len(turns) for turns in tallies.turns] == [3, 3]
    assert all(each.tokens == 36 for turns in tallies.turns for each in turns)
    assert all(each.tokens_per_round == 1 for each in tallies.turns[0])
    assert all(each.tokens_per_round > 1.2 for each in tallies.turns[1])
    assert tallies.near_ties == tallies.mismatches == (0, 0)


def test_an_output_that_is_not_the_single_targets_is_counted() -> None:
    assert run_batch_contest(decoders(), PairwiseSession(random_table(2)), CONTEST).mismatches == (3, 3)
    level = random_table(2) * np.float32(1e-9)
    assert run_batch_contest(decoders(), PairwiseSession(level), CONTEST).near_ties == (3, 3)
    drawn = replace(CONTEST, sampling=SamplingSettings(1.0))
    assert run_batch_contest(decoders(), PairwiseSession(random_table(2)), drawn).mismatches == (0, 0)


def test_an_artifact_at_a_batch_beside_what_its_schedule_says(tmp_path: Path) -> None:
    artifact = artifact_of_demo(tmp_path / "artifact", schedule=((1, 1, 3), (2, 2, 0), (3, 3, 2)))
    manifest = json.loads((artifact / MANIFEST_FILE).read_text())
    figure = {"value": 1.25, "evidence": "measured", "low": 1.2, "high": 1.3}
    manifest["batches"] = [
        {"batch": 3, "lookahead": 2, "largest_lookahead": 4, "tokens_per_s": figure, "speedup": figure}
    ]
    (artifact / MANIFEST_FILE).write_text(json.dumps(manifest))
    request = BenchRequest(artifact, count=4, max_new_tokens=12, repeats=2, threads=1)
    result = bench_batch(request, 3)
    assert (result.batch, result.schedule, result.prompts, result.mismatches) == (3, (3, 0, 2), 4, 0)
    assert result.tokens_per_round > 1
    assert result.speedup.low is not None
    assert result.speedup.value > 0
    assert 1 < result.sequences_at_once <= 3
    assert result.speedup_predicted is not None
    assert result.speedup_predicted.value == 1.25
    fixed = bench_batch(request, 3, lookahead=1)
    assert (fixed.schedule, fixed.speedup_predicted) == ((1, 1, 1), None)
    with pytest.raises(BadRequest, match="4 prompts cannot fill a batch of 5"):
        bench_batch(request, 5, lookahead=1)
    with pytest.raises(BadRequest, match="there is no pair to measure; --lookahead measures one"):
        bench_batch(request, 3, lookahead=0)
