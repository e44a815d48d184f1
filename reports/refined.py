"""What a report says of the traces that tokens per round rest on, where these were refined level by level."""

from autotune.refinement import Refinement
from autotune.reports.summary import LevelSummary, RefinementSummary


def refinement_summary(refinement: Refinement | None) -> RefinementSummary | None:
    """The levels of a run, and what was spent on them."""
    if refinement is None:
        return None
    levels = tuple(LevelSummary(level.traces, level.tokens, level.builds) for level in refinement.levels)
    return RefinementSummary(levels, refinement.spent_tokens, refinement.whole_tokens)


def front_basis(refined: RefinementSummary | None) -> str:
    """On which traces the front rests, a sentence behind another; empty where no level was refined."""
    if refined is None:
        return ""
    first, last = refined.levels[0], refined.levels[-1]
    if not any(level.builds for level in refined.levels[1:]):
        return f" Tokens per round rest on {first.traces} of {last.traces} estimation traces: they were not refined."
    below = " Builds that were found to be dominated on fewer keep those figures, as dots in the picture."
    settled = any(level.builds for level in refined.levels[:-1])
    return f" Tokens per round rest on all {last.traces} estimation traces.{below if settled else ''}"


def refinement_rows(refined: RefinementSummary | None) -> list[list[str]]:
    """Rows of the run's table."""
    if refined is None or not refined.whole_tokens:
        return []
    builds = ", ".join(f"{level.builds} on {level.traces}" for level in refined.levels)
    share = refined.spent_tokens / refined.whole_tokens
    return [
        ["builds by estimation traces", builds],
        ["trace tokens scored", f"{refined.spent_tokens:,}, {share:.0%} of what all builds on all traces take"],
    ]


def refinement_definition(refined: RefinementSummary | None) -> str:
    """A line of the definitions."""
    if refined is None:
        return ""
    return (
        "\n* **Builds by estimation traces**: the search scores every build on the first few of the target's traces. "
        "Those that stand on the front, or may be finalists by a bootstrap that compares drafts on the same traces, "
        "are then scored on more. Latencies stay as they were measured."
    )
