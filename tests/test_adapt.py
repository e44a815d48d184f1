"""Whether adaptive lookahead ships, with a made-up estimate and contest; and its job, with fakes and for real."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from autotune.adapt import Steps, describe, judge
from autotune.adaptive_job import (
    AdaptiveFinding,
    AdaptiveRequest,
    Text,
    find_adaptive,
    measure_latencies,
    observe,
    texts_of,
)
from autotune.adaptive_results import AdaptiveEstimate
from autotune.compile.base import CompileSettings, build_program
from autotune.compile.sandbox import Limits
from autotune.contest import ContestRequest, ContestResult, Tally, contest_job
from autotune.number_formats import Precision
from autotune.results import Evidence, Figure, MeasureSettings, Rejected, RejectReason
from autotune.runtime.decode import Statistics
from autotune.runtime.pairing import Pairing
from autotune.sampling import SamplingSettings, distribution
from autotune.traces import Trace
from tests.support.conformance import SHAPES
from tests.support.models import tiny_weights
from tests.support.sessions import VOCAB, PairwiseSession, TrimmedSession, random_table
from tests.support.stopping import plan_of

MEASURING = MeasureSettings(context_tokens=8, threads=1, min_time_s=0.0, min_samples=3, warmup_runs=1)
TEXTS = (Text((1, 2), (3, 4, 5), (0.0,) * 3), Text((2,), (1, 1), (0.0,) * 2))
REQUEST = AdaptiveRequest("target", "draft", TEXTS, 2, 6, MEASURING, SamplingSettings(), 1e-6)
PLAN = plan_of(6)


def figure(value: float) -> Figure:
    return Figure(value, Evidence.ESTIMATED, value - 0.02, value + 0.02)


def finding(gain: float) -> AdaptiveFinding:
    return AdaptiveFinding(PLAN, AdaptiveEstimate(3, figure(100.0), figure(100.0 * gain), figure(gain), 2.9, 3.1))


def contest(fixed_s: list[float], adaptive_s: list[float], mismatches: int = 0) -> ContestResult:
    """Forty tokens a prompt, in these seconds."""

    def tally(seconds: list[float], mismatches: int = 0) -> Tally:
        return Tally(tuple(Statistics(tokens=40, rounds=20, decode_s=each) for each in seconds), 0, mismatches)

    return ContestResult((tally([2 * each for each in fixed_s]), tally(fixed_s), tally(adaptive_s, mismatches)))


SECONDS = [1.0, 1.1, 0.9, 1.2, 1.0, 1.05]
FASTER = [each / (1.06 + 0.002 * n) for n, each in enumerate(SECONDS)]
UNEVEN = [each * (1.2 if n % 2 else 0.82) for n, each in enumerate(SECONDS)]


def test_what_decodes_faster_beyond_the_noise_ships() -> None:
    plan, outcome = judge(REQUEST, Steps(lambda _: finding(1.05), lambda _: contest(SECONDS, FASTER)))
    assert plan is PLAN
    assert outcome.kept
    assert outcome.measured is not None
    assert outcome.measured.value == pytest.approx(sum(SECONDS) / sum(FASTER))
    assert outcome.measured.evidence is Evidence.MEASURED
    assert outcome.tokens_per_s is not None
    assert outcome.tokens_per_s.value == pytest.approx(240 / sum(FASTER))
    assert "estimated 1.050 (1.030 … 1.070), measured 1.06" in describe(outcome)
    assert "; kept: faster" in describe(outcome)


@pytest.mark.parametrize(
    ("found", "decoded", "why"),
    [
        (finding(1.009), None, "no gain is to be expected"),
        (finding(1.05), contest(SECONDS, SECONDS), "not faster beyond the noise"),
        (finding(1.05), contest(FASTER, SECONDS), "not faster beyond the noise"),
        (finding(1.05), contest(SECONDS, UNEVEN), "not faster beyond the noise"),
        (finding(1.05), contest(SECONDS, FASTER, mismatches=2), "altered the output of 2 prompts"),
        (finding(1.05), Rejected(RejectReason.CRASHED, "died of SIGSEGV"), "decoding failed: crashed, died of SIGSEGV"),
        (Rejected(RejectReason.RUN_TIMEOUT, "killed after 60 s"), None, "could not be estimated: run-timeout, killed"),
    ],
)
def test_anything_else_leaves_the_fixed_lookahead(
    found: AdaptiveFinding | Rejected, decoded: ContestResult | Rejected | None, why: str
) -> None:
    def decode(_: object) -> ContestResult | Rejected:
        assert decoded is not None, "nothing was to be decoded"
        return decoded

    plan, outcome = judge(REQUEST, Steps(lambda _: found, decode))
    assert plan is None
    assert not outcome.kept
    assert why in describe(outcome)
    assert "not kept" in describe(outcome)


def test_one_trace_is_not_enough() -> None:
    def find(_: object) -> AdaptiveFinding:
        raise AssertionError("asked")

    plan, outcome = judge(replace(REQUEST, texts=TEXTS[:1]), Steps(find, lambda _: contest(SECONDS, FASTER)))
    assert plan is None
    assert "two traces" in outcome.detail
    assert outcome.estimated is None


@pytest.mark.parametrize("kept", [None, [1, 4, 5]])
@pytest.mark.parametrize("sampling", [SamplingSettings(), SamplingSettings(0.7, top_k=3)])
def test_a_text_is_observed_in_one_pass(sampling: SamplingSettings, kept: list[int] | None) -> None:
    table, prompt = random_table(5), (3, 1)
    whole = PairwiseSession(table)
    draft = whole if kept is None else TrimmedSession(whole, np.array(kept))
    continuation = tuple(np.random.default_rng(0).integers(VOCAB, size=80).tolist())
    logprobs = tuple(np.random.default_rng(1).uniform(-3, 0, 80).tolist())
    observed = observe(draft, Text(prompt, continuation, logprobs), sampling)
    text = [*prompt, *continuation]
    for place, (token, logprob) in enumerate(zip(continuation, logprobs, strict=True)):
        logits = table[text[place], text[place + 1]][slice(None) if kept is None else kept]
        q = distribution(logits, SamplingSettings(1.0) if sampling.greedy else sampling)
        tokens = list(range(VOCAB)) if kept is None else kept
        assert observed.confidence[place] == pytest.approx(q.max())
        if sampling.greedy:
            assert observed.acceptance[place] == (tokens[int(logits.argmax())] == token)
        else:
            drawn = q[tokens.index(token)] if token in tokens else 0.0
            assert observed.acceptance[place] == pytest.approx(min(1.0, drawn / np.exp(logprob)))


def test_a_text_longer_than_the_drafts_context_is_cut() -> None:
    draft = PairwiseSession(random_table(5), capacity_tokens=10)
    observed = observe(draft, Text((1, 2, 3), (4,) * 20, (0.0,) * 20), SamplingSettings())
    assert len(observed.acceptance) == len(observed.confidence) == 8


def test_latencies_are_of_every_length() -> None:
    target, draft = PairwiseSession(random_table(0)), PairwiseSession(random_table(1))
    latencies = measure_latencies(target, draft, replace(REQUEST, max_lookahead=4))
    assert (len(latencies.burst_s), len(latencies.stopping_s), len(latencies.verify_s)) == (4, 4, 5)
    assert min(latencies.burst_s + latencies.stopping_s + latencies.verify_s) > 0
    assert latencies.overhead_s == REQUEST.overhead_s


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny program, which is its own target too."""
    folder = tmp_path_factory.mktemp("program") / "program"
    build_program("onnxruntime", tiny_weights(SHAPES["grouped"]), CompileSettings(Precision.FP32, 64), folder)
    return str(folder)


def test_a_finding_is_made_in_a_worker_and_decodes(program: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    vocab = SHAPES["grouped"].vocab
    texts = tuple(
        Text(tuple(rng.integers(vocab, size=4).tolist()), tuple(rng.integers(vocab, size=12).tolist()), (0.0,) * 12)
        for _ in range(4)
    )
    request = replace(REQUEST, target=program, draft=program, texts=texts, max_lookahead=3)
    found = find_adaptive(request, Limits(time_s=60), FileLock(tmp_path / "lock"))
    assert isinstance(found, AdaptiveFinding), found
    assert found.plan.most == 3
    assert found.plan.lookahead == request.lookahead
    assert found.estimate.gain.evidence is Evidence.ESTIMATED

    asked = ContestRequest(
        target=program,
        contenders=(Pairing(program, 2), Pairing(program, 3, found.plan)),
        prompts=((1, 2), (3,)),
        max_new_tokens=20,
        sampling=SamplingSettings(),
        eos_ids=(),
        seed=0,
        threads=1,
        repeats=1,
    )
    tallies = contest_job(asdict(asked))["tallies"]
    assert [sum(each["tokens"] for each in tally["statistics"]) for tally in tallies] == [40, 40, 40]
    assert [tally["mismatches"] for tally in tallies] == [0, 0, 0]


def test_texts_hold_what_traces_do() -> None:
    trace = Trace(
        np.array([1, 2], np.int32),
        np.array([3, 4], np.int32),
        np.array([-0.5, -1.0], np.float32),
        np.full(4, -1, np.int32),
        "code",
    )
    assert texts_of([trace]) == (Text((1, 2), (3, 4), (-0.5, -1.0)),)
