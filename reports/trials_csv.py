"""`trials.csv`: every build at every lookahead, for spreadsheets and data frames."""

import csv
from collections.abc import Iterator
from dataclasses import asdict
from io import StringIO

from autotune.reports.facts import RunFacts
from autotune.reports.trial_rows import reason_word, state_word
from autotune.results import Figure, Rejected, Score, Screened, TrialRecord

CSV_FILE = "trials.csv"
_SHAPE = ("layers", "heads", "kv_heads", "head_dim", "hidden", "ffn", "vocab", "draft_vocab")
_FIGURES = ("tokens_per_round", "round_s", "tokens_per_s", "speedup")
COLUMNS = (
    *("trial", "state", "reason", "detail", "backend", "precision", *_SHAPE, "parameters", "wall_s"),
    *("lookahead", "on_front"),
    *(f"{name}{part}" for name in _FIGURES for part in ("", "_low", "_high", "_evidence")),
)
_FORMULA_STARTS = ("=", "+", "-", "@")

_Cell = str | int | float | None


def trials_csv(facts: RunFacts) -> str:
    """A line for every build and lookahead, and one without figures for a build that has none.

    Seconds, tokens and counts; what is not known is empty.  Words that a spreadsheet would take for a formula begin
    with an apostrophe.
    """
    front = {(record.number, score.lookahead) for record, score in facts.front}
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in facts.records:
        build = _build_cells(record)
        for lookahead, figures in _lines(record):
            on_front = int((record.number, lookahead) in front)
            cells = [cell for figure in figures for cell in _figure_cells(figure)]
            writer.writerow([_safe(cell) for cell in (*build, lookahead, on_front, *cells)])
    return text.getvalue()


def _build_cells(record: TrialRecord) -> list[_Cell]:
    shape = asdict(record.build.shape)
    detail = record.outcome.detail if isinstance(record.outcome, Rejected) else ""
    return [
        record.number,
        state_word(record),
        reason_word(record),
        " ".join(detail.split()),
        record.build.backend,
        record.build.precision.value,
        *(shape[name] for name in _SHAPE),
        record.parameters,
        record.wall_s,
    ]


def _lines(record: TrialRecord) -> Iterator[tuple[int | None, tuple[Figure | None, ...]]]:
    """The lookaheads of a build, each with its figures in the order of the columns."""
    if isinstance(record.outcome, Screened):
        for forecast in record.outcome.forecasts:
            yield forecast.lookahead, (forecast.tokens_per_round, forecast.round_s, None, None)
    elif record.scores:
        for score in record.scores:
            yield score.lookahead, _figures(score)
    else:
        yield None, (None,) * len(_FIGURES)


def _figures(score: Score) -> tuple[Figure, ...]:
    return score.tokens_per_round, score.round_s, score.tokens_per_s, score.speedup


def _figure_cells(figure: Figure | None) -> list[_Cell]:
    return [None] * 4 if figure is None else [figure.value, figure.low, figure.high, figure.evidence.value]


def _safe(cell: _Cell) -> _Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
