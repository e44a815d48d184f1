"""What a run was made of, as a table of the Markdown report."""

from autotune.reports.categories import objective_rows
from autotune.reports.cells import mebibytes, speed, table
from autotune.reports.refined import refinement_rows
from autotune.reports.summary import RunSummary


def run_table(summary: RunSummary) -> str:
    """The table of the section *The run*."""
    rows = [
        ["target", f"{summary.target} ({summary.target_precision})"],
        ["drafts pruned from", summary.source],
        ["device", summary.device],
        [
            "target alone",
            f"{speed(summary.baseline.tokens_per_s, summary.baseline.interval)} tokens/s ({summary.baseline.evidence})",
        ],
        *_latency_rows(summary),
        *objective_rows(summary),
        ["shapes evaluated", str(summary.shapes_evaluated)],
        ["trials", str(summary.trials)],
        ["builds screened out, not compiled", str(summary.screened)],
        ["builds that failed", str(summary.failed)],
        ["builds ruled out by limits", str(summary.ruled_out)],
        ["builds whose latencies were known", _known(summary)],
        *refinement_rows(summary.refinement),
        ["wall time", f"{summary.wall_s:.0f} s"],
    ]
    return table(["", ""], rows)


def _latency_rows(summary: RunSummary) -> list[list[str]]:
    """Where the target's latency comes from, and what the caches take."""
    rows = []
    if summary.baseline.source:
        rows.append(["the target's latency", summary.baseline.source])
    if summary.context_tokens is not None:
        caches = f"{summary.context_tokens} tokens"
        if summary.target_kv_bytes is not None:
            caches += f"; the target's cache takes {mebibytes(summary.target_kv_bytes)}"
        best = next((point for point in summary.front if point.name == summary.best.name), None)
        if best and best.kv_bytes is not None:
            caches += f", the best draft's {mebibytes(best.kv_bytes)}"
        rows.append(["context", caches])
    if summary.threads is not None:
        threads = f"{summary.threads} thread{'s' if summary.threads > 1 else ''}"
        rows.append(["drafts were measured", f"behind {summary.measured_context_tokens} tokens, with {threads}"])
    return rows


def _known(summary: RunSummary) -> str:
    """How many builds were not measured anew, and how old their latencies are."""
    since = f" (measured since {summary.known_since})" if summary.known_since else ""
    return f"{summary.known}{since}"
