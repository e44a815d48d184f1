"""`index.html`: everything a run came to, in one file that needs no network and asks nobody."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autotune.reports.adaptive import adaptive
from autotune.reports.categories import by_category
from autotune.reports.cells import speed
from autotune.reports.charts.rendering import chart_script
from autotune.reports.charts.theme import DARK, LIGHT, NO_TRIAL
from autotune.reports.charts.what_if import WhatIf, what_if
from autotune.reports.decoded import decoded
from autotune.reports.facts import RunFacts
from autotune.reports.markdown import (
    batches,
    definitions,
    failures,
    front,
    published,
    reproduce,
    round_times,
    screened,
    tuning,
    warnings,
)
from autotune.reports.model_free import without_model
from autotune.reports.page.drawings import Drawing, drawings
from autotune.reports.page.embedding import asset, columns, content_hash, script_json
from autotune.reports.page.key_figures import KeyFigure, key_figures
from autotune.reports.page.prose import as_html, without_heading
from autotune.reports.reading_floor import ReadingFloor, reading_floor
from autotune.reports.run_table import run_table
from autotune.reports.summary import FailureSummary, RunSummary, Verdict
from autotune.reports.trial_rows import TrialRow, trial_rows
from autotune.results import RunKind

PAGE_FILE = "index.html"
_MOST_STDERRS = 30
"""Failures whose worker's last words are in the page; `trials.jsonl` has all."""
_MOST_STDERR_CHARACTERS = 2_000
_FILTERS = ("backend", "precision", "state", "reason")
_COLUMNS = (
    ("trial", "trial", True),
    ("draft", "draft", False),
    ("backend", "backend", False),
    ("precision", "precision", False),
    ("state", "state", False),
    ("layers", "layers", True),
    ("parameters", "parameters, M", True),
    ("k", "k", True),
    ("tokens", "tokens per round", True),
    ("round", "round, ms", True),
    ("speed", "tokens/s", True),
    ("speedup", "speed-up", True),
    ("evidence", "evidence", False),
    ("reason", "reason", False),
)


@dataclass(frozen=True)
class PageContent:
    """What the template fills in; HTML only where it says so."""

    summary: RunSummary
    title: str
    good: bool
    """Whether the run advises to speculate."""
    figures: Sequence[KeyFigure]
    warnings: Markup
    drawings: dict[str, Drawing]
    rows: Sequence[TrialRow]
    columns: Sequence[tuple[str, str, bool]]
    """Keys and headings of the table of builds, and whether they are numbers."""
    choices: dict[str, Sequence[str]]
    """By what can be filtered, and to which values."""
    stderrs: Sequence[FailureSummary]
    sections: dict[str, Markup]
    """Sections of `report.md` as HTML, by key; an empty one has nothing to say."""
    what_if: WhatIf | None
    floor: ReadingFloor | None


def report_page(facts: RunFacts, summary: RunSummary) -> str:
    """The page's HTML."""
    supposed = what_if(facts)
    drawn = {drawing.key: drawing for drawing in drawings(facts)}
    rows = trial_rows(facts)
    sortable = [_sortable(row) for row in rows]
    content = PageContent(
        summary=summary,
        title=f"{'Plan of a draft' if summary.kind is RunKind.PLAN else 'Draft search'} for {summary.target}",
        good=summary.verdict is Verdict.SPECULATE,
        figures=key_figures(summary),
        warnings=as_html(warnings(summary)),
        drawings=drawn,
        rows=rows,
        columns=_COLUMNS,
        choices={name: sorted({str(row[name]) for row in sortable} - {""}) for name in _FILTERS},
        stderrs=[_shortened(each) for each in summary.failures if each.stderr.strip()][:_MOST_STDERRS],
        sections=_sections(summary),
        what_if=supposed,
        floor=reading_floor(facts),
    )
    data = {
        "inks": {"light": LIGHT, "dark": DARK},
        "noTrial": NO_TRIAL,
        "charts": {key: drawing.spec for key, drawing in drawn.items()},
        "data": {key: {name: columns(each) for name, each in drawing.data.items()} for key, drawing in drawn.items()},
        "trials": columns(sortable),
        "whatIf": asdict(supposed) if supposed else None,
    }
    library, script, style = chart_script(), asset("report.js"), asset("report.css")
    return (
        _environment()
        .get_template("report.html")
        .render(
            page=content,
            data=Markup(script_json(data)),
            library=Markup(library),
            script=Markup(script),
            style=Markup(style),
            script_hashes=" ".join(map(content_hash, (library, script))),
            style_hash=content_hash(style),
        )
    )


def _sections(summary: RunSummary) -> dict[str, Markup]:
    blocks = {
        "decoded": without_heading(decoded(summary)),
        "round_times": without_heading(round_times(summary)),
        "categories": by_category(summary),
        "tuning": tuning(summary.kernel_tuning),
        "adaptive": adaptive(summary.adaptive),
        "model_free": without_model(summary),
        "front": front(summary),
        "published": published(summary.published),
        "screened": screened(summary.screened_builds),
        "failures": failures(summary.failures),
        "batches": batches(summary),
        "run": [run_table(summary)],
        "definitions": [definitions(summary)],
        "reproduce": [reproduce(summary)],
    }
    return {key: as_html(block) for key, block in blocks.items()}


def _sortable(row: TrialRow) -> dict[str, str | float | int | bool | None]:
    """What the table is sorted and filtered by, column by column."""
    best = row.best
    return {
        "trial": row.record.number,
        "state": row.state,
        "draft": str(row.record.build.shape),
        "backend": row.record.build.backend,
        "precision": row.record.build.precision.value,
        "layers": row.record.build.shape.layers,
        "parameters": row.record.parameters,
        "k": best.lookahead if best else None,
        "tokens": best.tokens if best else None,
        "round": best.round_s if best else None,
        "speed": best.tokens_per_s if best else None,
        "speedup": best.speedup if best else None,
        "evidence": best.evidence.value if best else "",
        "reason": row.reason,
    }


def _shortened(failure: FailureSummary) -> FailureSummary:
    return replace(failure, stderr=failure.stderr[-_MOST_STDERR_CHARACTERS:])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("autotune.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["speed"] = speed
    return environment
