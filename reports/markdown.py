"""The report to read: a RunSummary as Markdown, the verdict first."""

import shlex
from collections.abc import Iterable, Sequence
from typing import TypeGuard

from autotune.reports.adaptive import adaptive
from autotune.reports.categories import by_category, objective_definition
from autotune.reports.cells import count, figure, inline, mebibytes, milliseconds, number, speed, table, times
from autotune.reports.decoded import decoded, program
from autotune.reports.facts import PublishedTar
from autotune.reports.model_free import without_model
from autotune.reports.refined import front_basis, refinement_definition
from autotune.reports.run_table import run_table
from autotune.reports.summary import (
    FailureSummary,
    RunSummary,
    ScreenedSummary,
    ShapeSummary,
    TuningSummary,
    Verdict,
)
from autotune.results import RunKind

_FRONT_ROWS = 25
_SCREENED_ROWS = 25
_TITLES = {
    RunKind.WHOLE: "Draft search",
    RunKind.SERVED: "Draft search, not validated,",
    RunKind.PLAN: "Plan of a draft",
}

_SLICED_BATCHES = (
    " The target's weights are not here: n positions of each of b sequences are taken to be verified in the time in "
    "which its slices verify b · n positions of one."
)
_ASSUMED_BATCHES = {
    RunKind.WHOLE: "",
    RunKind.SERVED: _SLICED_BATCHES,
    RunKind.PLAN: f"{_SLICED_BATCHES} Which k pays follows from a stand-in's tokens per round.",
}

_DEFINITIONS = """\
* **Round**: one burst of k drafted tokens and one verification of k + 1 positions by the target.
* **Tokens per round**, TAR(k): emitted tokens per round, the target's own token counted, so 1 … k + 1, pooled over all
  prompts. vLLM calls it *mean acceptance length*. Accepted drafted tokens per round are TAR − 1.
* **TAR proxy → finished → measured**: what the search estimated of the unfinished draft, what is estimated of the
  finished one, and what it had while it decoded held-out prompts.
* **Predicted tokens/s**: estimated tokens per round divided by burst + verification + overhead seconds.
* **Speed-up**: tokens/s of the pair divided by tokens/s of the target alone on the same device.
* **Program**: compiler and precision. *burst*: the k draft steps of a round are one program; otherwise each is a call,
  which was measured to be at least as fast.
* **Evidence**: *measured* with a clock or by counting decoded tokens; *estimated* from measured parts, or by the proxy
  from recorded traces; *extrapolated* beyond what was measured; *stand-in* known of another
  family's drafts of the same relative shape only.
* **k = 0**: the target alone. It is always in the race, and nothing slower is recommended.
* Ranges in brackets are intervals of the figure before them."""


def markdown(summary: RunSummary) -> str:
    """The text of `report.md`; `pareto.png` is expected beside it."""
    parts = [
        f"# {_TITLES[summary.kind]} for {inline(summary.target)}",
        *banner(summary),
        f"**{inline(summary.sentence)}**",
        *warnings(summary),
        "![Round time against tokens per round of every candidate](pareto.png)",
        *decoded(summary),
        *by_category(summary),
        *round_times(summary),
        *tuning(summary.kernel_tuning),
        *adaptive(summary.adaptive),
        *without_model(summary),
        *front(summary),
        *published(summary.published),
        *screened(summary.screened_builds),
        *failures(summary.failures),
        *batches(summary),
        "## The run",
        run_table(summary),
        "## Definitions",
        definitions(summary),
        "## Reproduce",
        reproduce(summary),
    ]
    return "\n\n".join(parts) + "\n"


def banner(summary: RunSummary) -> Iterable[str]:
    """What must be read first, set apart."""
    if summary.banner:
        first, *rest = map(inline, summary.banner)
        yield "\n>\n".join([f"> **{first}**", *(f"> {line}" for line in rest)])


def warnings(summary: RunSummary) -> Iterable[str]:
    """What a reader must know before relying on the figures, a sentence each."""
    if summary.interrupted:
        yield "The run was interrupted; this is what was known by then. `--resume` continues it."
    if summary.looping_share:
        yield (
            f"{summary.looping_share:.0%} of the target's continuations loop (repeat themselves). Loops are easy to "
            "draft, so acceptance on text that does not loop is lower."
        )
    differing = sum(draft.divergences or 0 for draft in summary.validated)
    if differing:
        yield (
            f"{differing} greedy outputs differ from the target's own, each first where the target's two best logits "
            "were level within numerical noise."
        )
    if summary.verdict is Verdict.SPECULATE and _is_trimmed(summary.best.shape):
        yield (
            f"{summary.best.name} proposes only the {summary.best.shape.draft_vocab} tokens that are most frequent in "
            "the training traces. The artifact's `checkpoint/`, for other engines, has the whole vocabulary: its steps "
            "take longer, and more of its tokens may be accepted."
        )
    for draft in summary.validated:
        if draft.mismatches:
            yield f"{draft.name} altered the target's greedy output for {draft.mismatches} prompts: it never ships."


def definitions(summary: RunSummary) -> str:
    """What the words and the figures mean."""
    return (
        _DEFINITIONS
        + refinement_definition(summary.refinement)
        + objective_definition(summary)
        + _trimmed_definition(summary)
    )


def _is_trimmed(shape: ShapeSummary | None) -> TypeGuard[ShapeSummary]:
    return shape is not None and shape.draft_vocab is not None


def _trimmed_definition(summary: RunSummary) -> str:
    shapes = [point.shape for point in summary.front] + [draft.shape for draft in summary.validated]
    if not any(_is_trimmed(shape) for shape in shapes):
        return ""
    return (
        "\n* **…V** at the end of a draft's name: a trimmed vocabulary, the number of tokens it can propose. Where the "
        "target writes another one, nothing is accepted; estimated and measured tokens per round account for it."
    )


def round_times(summary: RunSummary) -> Iterable[str]:
    """The section *Where a round's time goes*; nothing where no draft was decoded."""
    rows = [
        [
            draft.name,
            str(draft.lookahead),
            str(spent.rounds),
            f"{1e3 * spent.round_s:.3f}",
            *(f"{part_s / spent.round_s:.1%}" for part_s in (spent.burst_s, spent.verify_s, spent.overhead_s)),
        ]
        for draft in summary.validated
        if (spent := draft.round) is not None
    ]
    if rows:
        yield "## Where a round's time goes"
        yield (
            f"Measured means. A plain step of the target alone takes {1e3 * summary.baseline.step_s:.3f} ms. The "
            f"predictions assumed {1e3 * summary.overhead_s:.3f} ms of overhead a round."
        )
        yield table(["draft", "k", "rounds", "round (ms)", "draft burst", "verification", "overhead"], rows)


def tuning(tuning: TuningSummary | None) -> Iterable[str]:
    """The section *Tuned kernels*; nothing where it was not asked for."""
    if tuning is None:
        return
    yield "## Tuned kernels"
    ratio = ""
    if tuning.speedup is not None:
        ratio = (
            f" A burst of the untuned program takes {times(tuning.speedup.value, tuning.speedup.interval)} as long "
            f"as one of the tuned program ({tuning.speedup.evidence} in pairs); all other figures here are the untuned "
            "program's."
        )
    yield (
        f"{'Kept' if tuning.kept else 'Not kept'}: {inline(tuning.detail)}; {tuning.tried} schedules tried in "
        f"{tuning.seconds:.0f} s.{ratio}"
    )
    if tuning.schedules:
        yield table(["matrix", "schedule found"], [list(item) for item in tuning.schedules.items()])


def front(summary: RunSummary) -> Iterable[str]:
    """The section *Pareto front*; nothing where it is empty."""
    if not summary.front:
        return
    yield "## Pareto front"
    ordered = sorted(summary.front, key=lambda point: -(point.tokens_per_s.value or 0.0))
    shown = ordered[:_FRONT_ROWS]
    rest = "" if len(shown) == len(ordered) else f" The best {len(shown)} of {len(ordered)}; all are in `summary.json`."
    first = ordered[0]
    yield (
        "Candidates that no other beats in both round time and tokens per round, fastest first: tokens per round are "
        f"{first.tar.evidence}, round times {first.round_s.evidence}, tokens/s {first.tokens_per_s.evidence}.{rest}"
        + front_basis(summary.refinement)
    )
    stand_ins = any(point.stand_in for point in shown)
    if stand_ins:
        yield (
            "**Pays from** is the break-even: tokens per round at which a draft is just as fast as the target alone. "
            "**Best other** is what it would need to be as fast as the fastest draft of another shape, if that one's "
            "stand-in were true. Compare both with what is assumed; drafts with the same stand-in cannot be told apart "
            "by what is assumed of them."
        )
    yield table(
        [
            "draft",
            "k",
            "program",
            "parameters",
            *(["TAR assumed (stand-in)", "stand-in"] if stand_ins else ["TAR"]),
            "pays from",
            *(["best other"] if stand_ins else []),
            "round (ms)",
            "tokens/s",
            "speed-up",
            "trial",
        ],
        [
            [
                point.name,
                str(point.lookahead),
                program(point),
                count(point.parameters),
                number(point.tar.value, point.tar.interval, 2),
                *([point.stand_in or ""] if stand_ins else []),
                figure(point.break_even, 2),
                *([figure(point.to_match_best, 2)] if stand_ins else []),
                milliseconds(point.round_s),
                speed(point.tokens_per_s.value),
                times(point.speedup.value, point.speedup.interval if stand_ins else None),
                str(point.trial),
            ]
            for point in shown
        ],
    )


def published(published: Sequence[PublishedTar]) -> Iterable[str]:
    """The section *Published elsewhere*; nothing where there is none."""
    if published:
        yield "## Published elsewhere"
        yield "Figures of others, on other machines and text. They are shown to compare with; no figure here uses them."
        yield table(
            ["target", "draft", "shape", "TAR", "from"],
            [[each.target, each.draft, each.shape, f"{each.tokens_per_round:.2f}", each.origin] for each in published],
        )


def screened(screened: Sequence[ScreenedSummary]) -> Iterable[str]:
    """The section *Builds screened out*; nothing where there are none."""
    if not screened:
        return
    yield "## Builds screened out"
    ordered = sorted(screened, key=lambda each: -_optimistic(each))
    shown = ordered[:_SCREENED_ROWS]
    rest = "" if len(shown) == len(ordered) else f" The nearest {len(shown)} of {len(ordered)} are shown."
    yield (
        "Builds that were not compiled: their tokens per round were estimated as everyone's, and their burst times "
        "predicted from those measured before. Even with every burst faster by the margin, none would have been the "
        "fastest, and none would have added more than `gain` to the area that the front dominates. Burst times "
        f"are {shown[0].forecasts[0].burst_s.evidence}, speed-ups {shown[0].best_speedup.evidence}; a row shows the "
        f"fastest lookahead, `summary.json` has all.{rest}"
    )
    yield table(
        [
            "trial",
            "draft",
            "program",
            "k",
            "TAR",
            "burst (ms)",
            "margin",
            "speed-up, at best",
            "gain, at most",
            "beside trial",
        ],
        [_screened_row(each) for each in shown],
    )


def _screened_row(each: ScreenedSummary) -> list[str]:
    best = next(forecast for forecast in each.forecasts if forecast.lookahead == each.best_lookahead)
    return [
        str(each.trial),
        each.name,
        f"{each.backend} {each.precision}",
        str(each.best_lookahead),
        number(best.tar.value, best.tar.interval, 2),
        number(None if best.burst_s.value is None else 1e3 * best.burst_s.value, None, 3),
        f"{each.margin:.1%}",
        times(_optimistic(each), None),
        f"{each.gain:.2%}",
        "over a limit" if best.rival_trial is None else f"{best.rival_trial}, k = {best.rival_lookahead}",
    ]


def _optimistic(each: ScreenedSummary) -> float:
    """Speed-up of the fastest lookahead if every burst were faster by the margin."""
    return each.best_speedup.interval[1] if each.best_speedup.interval else 0.0


def failures(failures: Sequence[FailureSummary]) -> Iterable[str]:
    """The section *Builds without a score*; nothing where there are none."""
    if failures:
        yield "## Builds without a score"
        yield "A build that fails is a result too; what its worker wrote is in `trials.jsonl`."
        yield table(
            ["trial", "build", "reason", "detail"],
            [[str(each.trial), each.name, each.reason, each.detail] for each in failures],
        )


def batches(summary: RunSummary) -> Iterable[str]:
    """The section *Batches*; nothing where only single sequences were asked for."""
    if not summary.batches:
        return
    yield "## Batches"
    yield (
        "The lookahead with the most tokens/s when several sequences are decoded at once, and the largest still "
        "faster than the target alone. Caches are those of all sequences at the run's context. "
        "Programs for several sequences are ONNX Runtime's, whatever compiled the pair."
        + _ASSUMED_BATCHES[summary.kind]
    )
    yield table(
        ["batch", "best k", "largest k that pays", "tokens/s of all", "speed-up", "target's cache", "draft's cache"],
        [
            [
                str(each.batch),
                str(each.lookahead),
                str(each.largest_lookahead),
                f"{speed(each.tokens_per_s.value, each.tokens_per_s.interval)} ({each.tokens_per_s.evidence})",
                times(each.speedup.value, each.speedup.interval),
                mebibytes(each.target_kv_bytes),
                mebibytes(each.draft_kv_bytes),
            ]
            for each in summary.batches
        ],
    )


def reproduce(summary: RunSummary) -> str:
    """The command, the seed and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    lines = [f"Seed {summary.seed}." + (f" Versions: {inline(versions)}." if versions else "")]
    if summary.command:
        lines.append(f"```\n{shlex.join(summary.command)}\n```")
    return "\n\n".join(lines)
