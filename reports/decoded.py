"""The report's section on the drafts that decoded, and how programs are named in tables."""

from collections.abc import Iterable

from autotune.candidate import Drafting
from autotune.reports.cells import count, error, number, table, times
from autotune.reports.summary import DraftSummary, FrontSummary, RunSummary, Verdict


def decoded(summary: RunSummary) -> Iterable[str]:
    """The section *Decoded for real*; nothing where no draft was decoded."""
    if not summary.validated:
        return
    yield "## Decoded for real"
    yield (
        "The best predictions, finished by a last training and decoded with the target on held-out prompts. Tokens "
        "per round (TAR): as the search estimated them of the unfinished draft by the proxy, as estimated of the "
        "finished one, and as measured. The finished draft's and the predicted speed were estimated right before, from "
        "the finished drafts and fresh latency tables; the front below is what the search predicted."
    )
    rows = [
        [
            _chosen(draft, summary),
            str(draft.lookahead),
            program(draft),
            count(draft.parameters),
            number(draft.tar.proxy, draft.tar.proxy_interval, 2),
            number(draft.tar.estimated, draft.tar.estimated_interval, 2),
            number(draft.tar.measured, draft.tar.measured_interval, 2),
            error(draft.tar.estimated, draft.tar.measured),
            number(draft.tokens_per_s.predicted, None, 0),
            number(draft.tokens_per_s.measured, draft.tokens_per_s.measured_interval, 0),
            error(draft.tokens_per_s.predicted, draft.tokens_per_s.measured),
            times(draft.speedup.measured, draft.speedup.measured_interval),
        ]
        for draft in summary.validated
    ]
    base = summary.baseline
    rows.append(
        ["the target alone", "0", "", "", "", "", "1", "", "", number(base.tokens_per_s, base.interval, 0), "", "1.00×"]
    )
    yield table(
        [
            "draft",
            "k",
            "program",
            "parameters",
            "TAR proxy",
            "TAR finished",
            "TAR measured",
            "error",
            "tokens/s predicted",
            "tokens/s measured",
            "error",
            "speed-up measured",
        ],
        rows,
    )


def program(draft: DraftSummary | FrontSummary) -> str:
    """Compiler and precision, and whether its bursts are one program."""
    burst = ", burst" if draft.drafting == Drafting.BURST else ""
    return f"{draft.backend} {draft.precision}{burst}"


def _chosen(draft: DraftSummary, summary: RunSummary) -> str:
    return f"{draft.name} ← chosen" if summary.verdict is Verdict.SPECULATE and draft == summary.best else draft.name
