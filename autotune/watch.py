"""A run seen from outside while it is under way: its folder is read, nothing in it is touched."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotune.cli_units import seconds_text
from autotune.errors import BadRequest
from autotune.pareto import best_by_speed
from autotune.reports.verdict import sentence
from autotune.results import Rejected, Score, TrialRecord, TrialState
from autotune.saved_run import front_of, read_run
from autotune.store import RunFolder

_FASTEST_SHOWN = 8
_PACE_BUILDS = 10
"""Builds, the latest ones, by which the remaining time is judged."""


@dataclass(frozen=True)
class Snapshot:
    """Where a run stands."""

    folder: Path
    target: str
    device: str
    evaluated: int
    planned: int | None
    by_state: dict[str, int]
    failures: dict[str, int]
    """Failed builds by reason."""
    front: tuple[tuple[TrialRecord, Score], ...]
    """The fastest first."""
    under_way: bool
    left_s: float | None
    """Rough seconds until the search is done, at the pace of the latest builds; None if that cannot be said."""
    sentence: str | None
    """The verdict of a run that ended."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "folder": str(self.folder),
            "target": self.target,
            "device": self.device,
            "evaluated": self.evaluated,
            "planned": self.planned,
            "by_state": self.by_state,
            "failures": self.failures,
            "under_way": self.under_way,
            "left_s": self.left_s,
            "sentence": self.sentence,
            "front": [
                {
                    "build": str(record.build),
                    "lookahead": score.lookahead,
                    "round_s": score.round_s.value,
                    "tokens_per_round": score.tokens_per_round.value,
                    "speedup": score.speedup.value,
                }
                for record, score in self.front
            ],
        }


def take_snapshot(path: Path) -> Snapshot:
    """Where the run in this folder stands; BadRequest if there is none.

    A run that has not begun to search yet, as it records traces or trains, has no builds to show.
    """
    folder = RunFolder.existing(path)
    under_way = folder.in_use
    facts = read_run(path) if folder.facts_file.is_file() else None
    records = list(facts.records) if facts else folder.records()
    states = Counter(record.state for record in records)
    planned = facts.planned_trials if facts else None
    return Snapshot(
        folder=path,
        target=facts.target if facts else "not known yet",
        device=facts.device if facts else "not known yet",
        evaluated=len(records),
        planned=planned,
        by_state={state.value: states[state] for state in TrialState},
        failures=_failures(records),
        front=tuple(best_by_speed(front_of(records), lambda point: point[1])),
        under_way=under_way,
        left_s=_left_s(records, planned) if under_way else None,
        sentence=None if under_way or facts is None else sentence(facts),
    )


def watch(path: Path, console: Console, every_s: float, sleep: Callable[[float], None] = time.sleep) -> Snapshot:
    """Show the run until it ends: a live view on a terminal, a line whenever something changed elsewhere.

    Returns the last snapshot.
    """
    shown = take_snapshot(path)
    if not console.is_terminal:
        return _tell(path, shown, console, every_s, sleep)
    with Live(view(shown), console=console, auto_refresh=False) as live:
        while shown.under_way:
            sleep(every_s)
            shown = _again(path, shown)
            live.update(view(shown), refresh=True)
    return shown


def view(snapshot: Snapshot) -> RenderableType:
    """What a terminal shows of it."""
    head = Text.assemble((str(snapshot.folder), "bold"), f"  {snapshot.target} on {snapshot.device}")
    parts: list[RenderableType] = [head]
    if snapshot.planned:
        parts.append(ProgressBar(snapshot.planned, min(snapshot.evaluated, snapshot.planned), width=48))
    parts.append(Text(line(snapshot)))
    if snapshot.failures:
        told = ", ".join(f"{count} {reason}" for reason, count in snapshot.failures.items())
        parts.append(Text(f"failed: {told}", style="red"))
    if snapshot.front:
        parts.append(_table(snapshot))
    if snapshot.sentence:
        parts.append(Text(snapshot.sentence, style="bold"))
    return Group(*parts)


def line(snapshot: Snapshot) -> str:
    """Where it stands, in one line."""
    of = f"/{snapshot.planned}" if snapshot.planned else ""
    states = ", ".join(f"{count} {state}" for state, count in snapshot.by_state.items() if count)
    parts = [f"{snapshot.evaluated}{of} builds" + (f" ({states})" if states else "")]
    parts.append(f"front {len(snapshot.front)}")
    if snapshot.front:
        record, score = snapshot.front[0]
        parts.append(f"best {record.build} k={score.lookahead} {score.speedup.value:.2f}×")
    if snapshot.left_s is not None:
        parts.append(f"about {seconds_text(snapshot.left_s)} of search left")
    parts.append("under way" if snapshot.under_way else "not under way")
    return " · ".join(parts)


def _tell(path: Path, shown: Snapshot, console: Console, every_s: float, sleep: Callable[[float], None]) -> Snapshot:
    told = ""
    while True:
        if (now := line(shown)) != told:
            console.print(now, markup=False, highlight=False, soft_wrap=True)
            told = now
        if not shown.under_way:
            break
        sleep(every_s)
        shown = _again(path, shown)
    if shown.sentence:
        console.print(shown.sentence, markup=False, highlight=False, soft_wrap=True)
    return shown


def _again(path: Path, before: Snapshot) -> Snapshot:
    """The next snapshot; the last one, ended, if the folder has gone meanwhile."""
    try:
        return take_snapshot(path)
    except BadRequest:
        if path.exists():
            raise
        return Snapshot(**{**vars(before), "under_way": False, "left_s": None, "sentence": "the folder is gone"})


def _failures(records: list[TrialRecord]) -> dict[str, int]:
    failed = (record for record in records if isinstance(record.outcome, Rejected) and not record.ruled_out)
    reasons = Counter(record.outcome.reason.value for record in failed if isinstance(record.outcome, Rejected))
    return dict(reasons.most_common())


def _left_s(records: list[TrialRecord], planned: int | None) -> float | None:
    latest = [record.wall_s for record in records[-_PACE_BUILDS:]]
    if planned is None or not latest:
        return None
    return max(planned - len(records), 0) * sum(latest) / len(latest)


def _table(snapshot: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("draft", "k", "tokens/round", "round ms", "speed-up"):
        table.add_column(heading, justify="left" if heading == "draft" else "right")
    for record, score in snapshot.front[:_FASTEST_SHOWN]:
        table.add_row(
            str(record.build),
            str(score.lookahead),
            f"{score.tokens_per_round.value:.2f}",
            f"{score.round_s.value * 1e3:.3f}",
            f"{score.speedup.value:.2f}×",
        )
    if len(snapshot.front) > _FASTEST_SHOWN:
        table.caption = f"the fastest {_FASTEST_SHOWN} of {len(snapshot.front)} on the front, as predicted"
    return table
