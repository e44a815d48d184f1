"""The report to read: a RunSummary as Markdown, the verdict first."""

import shlex
from collections.abc import Iterable, Sequence

from autotune.candidate import Drafting
from autotune.reports.summary import DraftSummary, FailureSummary, FrontSummary, RunSummary, Verdict

_FRONT_ROWS = 25
_UNKNOWN = "–"

_DEFINITIONS = """\
* **Round**: one burst of k drafted tokens and one verification of k + 1 positions by the target.
* **Tokens per round**, TAR(k): emitted tokens per round, the target's own token counted, so 1 … k + 1, pooled over all
  prompts. vLLM calls it *mean acceptance length*. Accepted drafted tokens per round are TAR − 1.
* **Predicted tokens/s**: estimated tokens per round divided by burst + verification + overhead seconds.
* **Speed-up**: tokens/s of the pair divided by tokens/s of the target alone on the same device.
* **Program**: compiler and precision. *burst*: the k draft steps of a round are one program; otherwise each is a call,
  which was measured to be at least as fast.
* **Evidence**: *measured* with a clock or by counting decoded tokens; *estimated* from measured parts, or by the proxy
  from recorded traces; *extrapolated* beyond what was measured; *stand-in* measured on something of the same size.
* **k = 0**: the target alone. It is always in the race, and nothing slower is recommended.
* Ranges in brackets are intervals of the figure before them."""


def markdown(summary: RunSummary) -> str:
    """The text of `report.md`; `pareto.png` is expected beside it."""
    parts = [
        f"# Draft search for {_inline(summary.target)}",
        f"**{_inline(summary.sentence)}**",
        *_warnings(summary),
        "![Round time against tokens per round of every candidate](pareto.png)",
        *_decoded(summary),
        *_round_times(summary),
        *_front(summary.front),
        *_failures(summary.failures),
        "## The run",
        _run_table(summary),
        "## Definitions",
        _DEFINITIONS,
        "## Reproduce",
        _reproduce(summary),
    ]
    return "\n\n".join(parts) + "\n"


def _warnings(summary: RunSummary) -> Iterable[str]:
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
    for draft in summary.validated:
        if draft.mismatches:
            yield f"{draft.name} altered the target's greedy output for {draft.mismatches} prompts: it never ships."


def _decoded(summary: RunSummary) -> Iterable[str]:
    if not summary.validated:
        return
    yield "## Decoded for real"
    yield (
        "The best predictions, finished by a last training and decoded with the target on held-out prompts. Estimated "
        "and predicted figures were made anew right before, from the finished drafts and fresh latency tables; the "
        "front below shows what the search predicted of the unfinished ones."
    )
    rows = [
        [
            _chosen(draft, summary),
            str(draft.lookahead),
            _program(draft),
            _count(draft.parameters),
            _number(draft.tar.estimated, draft.tar.estimated_interval, 2),
            _number(draft.tar.measured, draft.tar.measured_interval, 2),
            _error(draft.tar.estimated, draft.tar.measured),
            _number(draft.tokens_per_s.predicted, None, 0),
            _number(draft.tokens_per_s.measured, draft.tokens_per_s.measured_interval, 0),
            _error(draft.tokens_per_s.predicted, draft.tokens_per_s.measured),
            _times(draft.speedup.measured, draft.speedup.measured_interval),
        ]
        for draft in summary.validated
    ]
    base = summary.baseline
    rows.append(
        ["the target alone", "0", "", "", "", "1", "", "", _number(base.tokens_per_s, base.interval, 0), "", "1.00×"]
    )
    yield _table(
        [
            "draft",
            "k",
            "program",
            "parameters",
            "TAR estimated",
            "TAR measured",
            "error",
            "tokens/s predicted",
            "tokens/s measured",
            "error",
            "speed-up measured",
        ],
        rows,
    )


def _round_times(summary: RunSummary) -> Iterable[str]:
    rows = [
        [
            draft.name,
            str(draft.lookahead),
            str(times.rounds),
            f"{1e3 * times.round_s:.3f}",
            *(f"{part_s / times.round_s:.1%}" for part_s in (times.burst_s, times.verify_s, times.overhead_s)),
        ]
        for draft in summary.validated
        if (times := draft.round) is not None
    ]
    if rows:
        yield "## Where a round's time goes"
        yield (
            f"Measured means. A plain step of the target alone takes {1e3 * summary.baseline.step_s:.3f} ms. The "
            f"predictions assumed {1e3 * summary.overhead_s:.3f} ms of overhead a round."
        )
        yield _table(["draft", "k", "rounds", "round (ms)", "draft burst", "verification", "overhead"], rows)


def _front(front: Sequence[FrontSummary]) -> Iterable[str]:
    if not front:
        return
    yield "## Pareto front"
    ordered = sorted(front, key=lambda point: -(point.tokens_per_s.value or 0.0))
    shown = ordered[:_FRONT_ROWS]
    rest = "" if len(shown) == len(ordered) else f" The best {len(shown)} of {len(ordered)}; all are in `summary.json`."
    first = ordered[0]
    yield (
        "Candidates that no other beats in both round time and tokens per round, fastest first: tokens per round are "
        f"{first.tar.evidence}, round times {first.round_s.evidence}, tokens/s {first.tokens_per_s.evidence}.{rest}"
    )
    yield _table(
        ["draft", "k", "program", "parameters", "TAR", "round (ms)", "tokens/s", "speed-up", "trial"],
        [
            [
                point.name,
                str(point.lookahead),
                _program(point),
                _count(point.parameters),
                _number(point.tar.value, point.tar.interval, 2),
                _number(None if point.round_s.value is None else 1e3 * point.round_s.value, None, 3),
                _number(point.tokens_per_s.value, None, 0),
                _times(point.speedup.value, None),
                str(point.trial),
            ]
            for point in shown
        ],
    )


def _failures(failures: Sequence[FailureSummary]) -> Iterable[str]:
    if failures:
        yield "## Builds without a score"
        yield "A build that fails is a result too; what its worker wrote is in `trials.jsonl`."
        yield _table(
            ["trial", "build", "reason", "detail"],
            [[str(each.trial), each.name, each.reason, each.detail] for each in failures],
        )


def _run_table(summary: RunSummary) -> str:
    rows = [
        ["target", summary.target],
        ["drafts pruned from", summary.source],
        ["device", summary.device],
        [
            "target alone",
            f"{_number(summary.baseline.tokens_per_s, summary.baseline.interval, 0)} tokens/s"
            f" ({summary.baseline.evidence})",
        ],
        ["shapes evaluated", str(summary.shapes_evaluated)],
        ["trials", str(summary.trials)],
        ["builds that failed", str(summary.failed)],
        ["builds ruled out by limits", str(summary.ruled_out)],
        ["wall time", f"{summary.wall_s:.0f} s"],
    ]
    return _table(["", ""], rows)


def _reproduce(summary: RunSummary) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    lines = [f"Seed {summary.seed}." + (f" Versions: {_inline(versions)}." if versions else "")]
    if summary.command:
        lines.append(f"```\n{shlex.join(summary.command)}\n```")
    return "\n\n".join(lines)


def _program(draft: DraftSummary | FrontSummary) -> str:
    """Compiler and precision, and whether its bursts are one program."""
    burst = ", burst" if draft.drafting == Drafting.BURST else ""
    return f"{draft.backend} {draft.precision}{burst}"


def _chosen(draft: DraftSummary, summary: RunSummary) -> str:
    return f"{draft.name} ← chosen" if summary.verdict is Verdict.SPECULATE and draft == summary.best else draft.name


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; its cells may hold any text."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return _inline(text).replace("|", "\\|")


def _inline(text: str) -> str:
    """Text on one line that Markdown does not take for markup."""
    one_line = " ".join(text.split())
    for mark in "\\`*_<>[]":
        one_line = one_line.replace(mark, "\\" + mark)
    return one_line


def _number(value: float | None, interval: tuple[float, float] | None, digits: int) -> str:
    if value is None:
        return _UNKNOWN
    text = f"{value:,.{digits}f}"
    return text if interval is None else f"{text} ({interval[0]:,.{digits}f} … {interval[1]:,.{digits}f})"


def _times(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.2f}×" + ("" if interval is None else f" ({interval[0]:.2f} … {interval[1]:.2f})")


def _error(expected: float | None, measured: float | None) -> str:
    """How far the expectation was off, as a share of the measured figure."""
    return _UNKNOWN if expected is None or not measured else f"{expected / measured - 1.0:+.1%}"


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:,.2f} M"
