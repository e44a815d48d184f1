from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from autotune import contest
from autotune.candidate import Precision
from autotune.compile.sandbox import Limits, Phase
from autotune.contest import (
    ContestRequest,
    contest_job,
    differs_at_near_tie,
    hold_contest,
    run_contest,
)
from autotune.results import Rejected, RejectReason
from autotune.runtime import pairing
from autotune.runtime.decode import Decoder
from autotune.runtime.drafter import ModelDrafter
from autotune.runtime.pairing import Pairing
from autotune.runtime.session import Tokens
from autotune.sampling import SamplingSettings
from tests.support.sessions import VOCAB, PairwiseSession, TrimmedSession, near_table, random_table

REQUEST = ContestRequest(
    target="target",
    contenders=(Pairing("a", 2), Pairing("b", 4)),
    prompts=((1, 2), (3,), (4, 5, 6)),
    max_new_tokens=20,
    sampling=SamplingSettings(),
    eos_ids=(),
    seed=0,
    threads=1,
    repeats=2,
)
TABLE = random_table(0)


class LiesWhenVerifying(PairwiseSession):
    """Gives other arg-max tokens for several positions at once than for one: its logits stay the target's."""

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        chosen = super().greedy(tokens, start)
        return chosen if len(tokens) == 1 else (chosen + 1) % VOCAB


def decoders(target: PairwiseSession, *drafts: tuple[NDArray[np.float32], int]) -> list[Decoder]:
    pairs = [Decoder(target, ModelDrafter(PairwiseSession(table)), lookahead) for table, lookahead in drafts]
    return [Decoder(target, None, 0), *pairs]


def test_a_lossless_pair_counts_no_difference() -> None:
    wrong, near = random_table(99), near_table(TABLE, 1, 0.5)
    result = run_contest(decoders(PairwiseSession(TABLE), (TABLE, 4), (near, 3), (wrong, 2)), REQUEST)
    assert [(tally.near_ties, tally.mismatches) for tally in result.tallies] == [(0, 0)] * 4
    alone, perfect, good, poor = (tally.pooled() for tally in result.tallies)
    assert alone.tokens == perfect.tokens == good.tokens == poor.tokens == 3 * 20 * 2
    assert alone.tokens_per_round == 1.0
    assert perfect.tokens_per_round == 5.0
    assert 1.0 <= poor.tokens_per_round < good.tokens_per_round < 4.0


def test_a_trimmed_draft_counts_no_difference() -> None:
    target = PairwiseSession(TABLE)
    draft = TrimmedSession(PairwiseSession(TABLE), np.array([0, 1, 3, 5]))
    result = run_contest([Decoder(target, None, 0), Decoder(target, ModelDrafter(draft), 3)], REQUEST)
    alone, pair = result.tallies
    assert (pair.near_ties, pair.mismatches) == (0, 0)
    assert 1.0 <= pair.pooled().tokens_per_round < 4.0
    assert pair.pooled().tokens == alone.pooled().tokens


def test_statistics_are_kept_per_prompt_over_all_repeats() -> None:
    result = run_contest(decoders(PairwiseSession(TABLE), (TABLE, 4)), replace(REQUEST, repeats=3))
    for tally in result.tallies:
        assert [statistics.tokens for statistics in tally.statistics] == [60, 60, 60]
        assert all(statistics.decode_s > statistics.verify_s > 0 for statistics in tally.statistics)


def test_a_pair_that_alters_the_output_counts_a_mismatch_per_prompt() -> None:
    result = run_contest(decoders(LiesWhenVerifying(TABLE), (TABLE, 3)), REQUEST)
    alone, pair = result.tallies
    assert (alone.near_ties, alone.mismatches) == (0, 0)
    assert (pair.near_ties, pair.mismatches) == (0, len(REQUEST.prompts))


def test_sampled_outputs_are_not_compared() -> None:
    sampled = replace(REQUEST, sampling=SamplingSettings(1.0))
    result = run_contest(decoders(PairwiseSession(TABLE), (near_table(TABLE, 1, 0.5), 3)), sampled)
    assert [(tally.near_ties, tally.mismatches) for tally in result.tallies] == [(0, 0)] * 2


def test_a_sampled_prompt_is_drawn_anew_in_every_repeat() -> None:
    sampled = replace(REQUEST, sampling=SamplingSettings(1.0), prompts=((1, 2),), repeats=1)
    near = near_table(TABLE, 1, 0.5)

    def emitted(repeats: int, seed: int) -> NDArray[np.int64]:
        request = replace(sampled, repeats=repeats, seed=seed)
        counts = run_contest(decoders(PairwiseSession(TABLE), (near, 3)), request).tallies[1].pooled().emitted
        return np.pad(counts, (0, 4 - len(counts)))

    assert not np.array_equal(emitted(1, 0), emitted(1, 1))
    np.testing.assert_array_equal(emitted(1, 0) + emitted(1, 1), emitted(2, 0))


class Spy(Decoder):
    """Writes its name on a list whenever it decodes."""

    def __init__(self, name: str, order: list[str]) -> None:
        super().__init__(PairwiseSession(TABLE), None, 0)
        self.name, self.order = name, order

    def decode(self, request: Any) -> Any:
        self.order.append(self.name + str(request.prompt[0]))
        return super().decode(request)


def test_the_order_rotates_with_the_prompt_and_turns_with_the_repeat() -> None:
    order: list[str] = []
    run_contest([Spy(name, order) for name in "ABC"], replace(REQUEST, prompts=((1,), (2,), (3,), (4,))))
    warm_up, *rest = order
    assert warm_up == "A1"
    assert " ".join(rest) == (
        "A1 B1 C1 B2 C2 A2 C3 A3 B3 A4 B4 C4 "  # each contender is first, second and third in turn …
        "C1 B1 A1 A2 C2 B2 B3 A3 C3 C4 B4 A4"  # … and the other way round
    )


def test_two_contenders_take_turns() -> None:
    order: list[str] = []
    run_contest([Spy(name, order) for name in "AB"], replace(REQUEST, prompts=((1,), (2,))))
    assert "".join(name[0] for name in order[1:]) == "ABBA" + "BAAB"


def test_every_prompt_of_every_repeat_has_its_own_seed_and_all_contenders_share_it() -> None:
    seeds: dict[str, set[int]] = {"A": set(), "B": set()}

    class SeedSpy(Spy):
        def decode(self, request: Any) -> Any:
            seeds[self.name].add(request.seed)
            return super().decode(request)

    run_contest([SeedSpy(name, []) for name in "AB"], replace(REQUEST, seed=7))
    assert seeds["A"] == seeds["B"] == set(range(7, 7 + 2 * 3))


def test_eos_ends_an_output() -> None:
    alone = run_contest(decoders(PairwiseSession(TABLE)), replace(REQUEST, repeats=1)).tallies[0]
    ended = run_contest(decoders(PairwiseSession(TABLE)), replace(REQUEST, repeats=1, eos_ids=(0, 1, 2))).tallies[0]
    assert ended.pooled().tokens < alone.pooled().tokens


def level_session(gap: float, first: float = 4.0) -> PairwiseSession:
    """After (1, 2), tokens 3 and 5 lead by far: 3 with the logit `first`, 5 `gap` behind it."""
    table = np.zeros((VOCAB,) * 3, np.float32)
    table[1, 2, 3], table[1, 2, 5] = first, first - gap
    return PairwiseSession(table)


@pytest.mark.parametrize(
    ("gap", "output", "verdict"),
    [
        (0.0, [3, 0], None),
        (0.0, [5, 0], True),
        (0.0003, [5, 0], True),
        (0.0003, [5, 6], True),
        (0.0006, [5, 0], False),
        (2.0, [5, 0], False),
        (0.0, [4, 0], False),
        (0.0, [3], False),
        (0.0, [3, 0, 0], False),
        (0.0, [], False),
    ],
)
def test_only_the_first_difference_decides_and_only_a_level_one_is_forgiven(
    gap: float, output: list[int], verdict: bool | None
) -> None:
    assert differs_at_near_tie(level_session(gap), (1, 2), [3, 0], output) is verdict


@pytest.mark.parametrize(
    ("precision", "gap", "verdict"),
    [
        (Precision.FP16, 0.03, True),
        (Precision.FP16, 0.04, False),
        (Precision.BF16, 0.2, True),
        (Precision.BF16, 0.3, False),
    ],
)
def test_what_is_level_depends_on_the_targets_precision(precision: Precision, gap: float, verdict: bool) -> None:
    session = level_session(gap)
    session.program = replace(session.program, precision=precision)
    assert differs_at_near_tie(session, (1, 2), [3, 0], [5, 0]) is verdict


def test_a_near_tie_is_relative_to_the_logits() -> None:
    assert differs_at_near_tie(level_session(0.005, first=100.0), (1, 2), [3], [5]) is True
    assert differs_at_near_tie(level_session(0.005, first=0.1), (1, 2), [3], [5]) is False


def test_a_later_difference_is_judged_behind_what_was_equal() -> None:
    table = np.zeros((VOCAB,) * 3, np.float32)
    table[2, 3, 6], table[2, 3, 4] = 4.0, 4.0
    session = PairwiseSession(table)
    assert differs_at_near_tie(session, (1, 2), [3, 4, 0], [3, 6, 0]) is True
    assert differs_at_near_tie(session, (1, 2), [3, 4, 0], [3, 5, 0]) is False


def test_a_near_tie_is_counted_as_such() -> None:
    class Undecided(PairwiseSession):
        """Takes the other one of two equal logits whenever it computes several positions."""

        def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
            logits = self.logits(tokens, start)
            last_maximum = logits.shape[-1] - 1 - logits[:, ::-1].argmax(-1)
            return logits.argmax(-1) if len(tokens) == 1 else last_maximum

    table = random_table(0)
    table[..., 3] = table[..., 5] = table.max() + 1
    result = run_contest(decoders(Undecided(table), (table, 3)), REQUEST)
    assert (result.tallies[1].near_ties, result.tallies[1].mismatches) == (len(REQUEST.prompts), 0)


def test_the_job_opens_the_target_once_and_speaks_json(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def open_session(folder: Path, threads: int) -> PairwiseSession:
        calls.append((str(folder), threads))
        return PairwiseSession(TABLE)

    monkeypatch.setattr(contest, "open_session", open_session)
    monkeypatch.setattr(pairing, "open_session", open_session)
    answer = contest_job(asdict(replace(REQUEST, threads=2)))
    assert calls == [("target", 2), ("a", 2), ("b", 2)]
    monkeypatch.setattr(contest, "run_sandboxed", lambda *_, **__: answer)
    result = hold_contest(REQUEST, Limits(1.0), FileLock("unused"))
    assert [tally.pooled().tokens for tally in result.tallies] == [120, 120, 120]


def test_the_contest_is_held_in_a_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits, lock = Limits(5.0), FileLock(tmp_path / "lock")
    rejected = Rejected(RejectReason.RUN_TIMEOUT, "killed after 5 s")

    def sandbox(entry: str, request: Mapping[str, Any], phase: Phase, *given: object, **named: object) -> Rejected:
        assert entry == "autotune.contest:contest_job"
        assert request == asdict(REQUEST)
        assert (phase, given, named) == (Phase.RUN, (limits,), {"threads": 1, "lock": lock})
        return rejected

    monkeypatch.setattr(contest, "run_sandboxed", sandbox)
    assert hold_contest(REQUEST, limits, lock) is rejected
