"""Whether the winner's lookahead is chosen round by round: estimated along traces, then decoded both ways.

It ships only if it decodes faster than the fixed lookahead beyond the noise, so that it is never worse than that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from autotune.adaptive_job import AdaptiveFinding, AdaptiveRequest, find_adaptive, texts_of
from autotune.adaptive_results import AdaptiveOutcome
from autotune.compile.sandbox import Limits
from autotune.contest import ContestRequest, ContestResult, hold_contest
from autotune.devices import device_lock
from autotune.finalists import Finalist
from autotune.objective import MEAN, Objective
from autotune.progress import Observer
from autotune.results import Rejected
from autotune.runtime.pairing import Pairing
from autotune.stopping import AdaptivePlan
from autotune.tallies import speed, speedup
from autotune.workbench import Workbench

REPEATS = 4
"""Times that each held-out prompt is decoded both ways: the gain is a few percent, if any."""
LEAST_ESTIMATE = 1.01
"""An estimated gain below this is not worth decoding for."""
MOST_TEXTS = 512


@dataclass(frozen=True)
class Steps:
    """What the decision consists of; each may fail without harm."""

    find: Callable[[AdaptiveRequest], AdaptiveFinding | Rejected]
    decode: Callable[[AdaptivePlan], ContestResult | Rejected]
    """The target alone, the fixed lookahead and the plan on the held-out prompts."""


def adapt_winner(
    bench: Workbench, finalist: Finalist, observer: Observer
) -> tuple[AdaptivePlan | None, AdaptiveOutcome]:
    """The plan that ships with the winner, if any, and what adaptive lookahead came to."""
    observer.phase("Estimating what an adaptive lookahead gains")
    request, text, threads = bench.request, bench.own_text, bench.threads
    lock, run_limits, score = device_lock(request.device.kind), bench.evaluator.limits.run, finalist.score
    traces = text.traces.estimate.items
    count = min(len(traces), MOST_TEXTS)
    texts = texts_of([traces[index * len(traces) // count] for index in range(count)])
    prompts = tuple(tuple(prompt.tolist()) for prompt in text.traces.validate)
    new_tokens = request.config.max_new_tokens
    # Twenty times what the target alone would take is far beyond any honest round.
    decoding_s = 20 * bench.latency.step_s * new_tokens * len(prompts) * REPEATS * 3

    def decode(plan: AdaptivePlan) -> ContestResult | Rejected:
        observer.phase("Decoding with a fixed and an adaptive lookahead in turn")
        program, lookahead = str(finalist.program), score.lookahead
        contest = ContestRequest(
            target=str(bench.program),
            contenders=(Pairing(program, lookahead), Pairing(program, plan.most, adaptive=plan)),
            prompts=prompts,
            max_new_tokens=new_tokens,
            sampling=request.config.sampling,
            eos_ids=request.whole_target.eos_ids,
            seed=request.config.seed,
            threads=threads,
            repeats=REPEATS,
        )
        return hold_contest(contest, replace(run_limits, time_s=run_limits.time_s + decoding_s), lock)

    asked = AdaptiveRequest(
        target=str(bench.program),
        draft=str(finalist.program),
        texts=texts,
        lookahead=score.lookahead,
        max_lookahead=max(bench.evaluator.lookaheads),
        measuring=bench.evaluator.measuring,
        sampling=request.config.sampling,
        overhead_s=bench.latency.overhead_s,
        seed=request.config.seed,
    )
    patience = Limits(4 * run_limits.time_s, run_limits.memory_bytes, run_limits.queue_s)
    steps = Steps(lambda each: find_adaptive(each, patience, lock), decode)
    plan, outcome = judge(asked, steps, request.objective, text.traces.validate_categories)
    observer.note(describe(outcome))
    return plan, outcome


def judge(
    request: AdaptiveRequest, steps: Steps, objective: Objective = MEAN, categories: Sequence[str] = ()
) -> tuple[AdaptivePlan | None, AdaptiveOutcome]:
    """The plan, if decoding with it is faster beyond the noise and alters nothing, and what it came to.

    The estimate is of all text together; what is measured goes by the objective.  categories: `[prompts]`.
    """
    if len(request.texts) < 2 or request.max_lookahead < 1:
        return None, AdaptiveOutcome(False, "two traces at least are needed to estimate it")
    found = steps.find(request)
    if isinstance(found, Rejected):
        return None, AdaptiveOutcome(False, f"it could not be estimated: {found.reason.value}, {found.detail}")
    outcome = AdaptiveOutcome(False, "no gain is to be expected", found.estimate, request.lookahead)
    if found.estimate.gain.value < LEAST_ESTIMATE:
        return None, outcome
    result = steps.decode(found.plan)
    if isinstance(result, Rejected):
        return None, replace(outcome, detail=f"decoding failed: {result.reason.value}, {result.detail}")
    _, fixed, adaptive = result.tallies
    outcome = replace(
        outcome,
        measured=speedup(adaptive, fixed, objective, categories),
        fixed_tokens_per_s=speed(fixed, objective, categories),
        tokens_per_s=speed(adaptive, objective, categories),
    )
    assert outcome.measured is not None
    if adaptive.mismatches:
        return None, replace(outcome, detail=f"it altered the output of {adaptive.mismatches} prompts")
    if outcome.measured.low is None or outcome.measured.low <= 1.0:
        return None, replace(outcome, detail="not faster beyond the noise")
    return found.plan, replace(outcome, kept=True, detail="faster when decoded in turn")


def describe(outcome: AdaptiveOutcome) -> str:
    """What adaptive lookahead came to, in one line."""
    estimated = outcome.estimated.gain if outcome.estimated else None
    figures = {"estimated": estimated, "measured": outcome.measured}
    words = [
        f"{name} {gain.value:.3f} ({gain.low:.3f} … {gain.high:.3f})"
        for name, gain in figures.items()
        if gain is not None
    ]
    told = f" {', '.join(words)} times the tokens/s of the best fixed k;" if words else ""
    return f"adaptive k:{told} {'kept' if outcome.kept else 'not kept'}: {outcome.detail}"
