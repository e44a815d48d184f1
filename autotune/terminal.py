"""Progress in the terminal: a live display where there is one, plain lines elsewhere.  Everything goes to stderr."""

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from autotune.log_lines import LogLines, stderr_console
from autotune.progress import SearchStatus
from autotune.results import Evidence, Figure, Measured, Rejected, Score, Screened, TrialRecord
from autotune.time_left import TimeLeft, time_left_text

logger = logging.getLogger(__name__)

_LEAST_SHARE, _LEAST_S = 0.1, 5.0
"""What must be done of a phase, and the time it must have taken, before what is left of it can be told."""
_PLAIN_EVERY_S = 15.0
"""How often a plain log repeats that a phase is still under way."""


class TerminalObserver:
    """Shows a run's progress; use it as a context manager.  How much it tells is the level of the package's log."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or stderr_console()
        self._quiet = not logger.isEnabledFor(logging.WARNING)
        self._live = self._console.is_interactive and not self._quiet
        self._display = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}"),
            console=self._console,
            transient=True,
        )
        self._log = LogLines(self._console)
        self._other_lines: list[LogLines] = []
        self._task: TaskID | None = None
        self._title = ""
        self._began_s = self._told_s = time.monotonic()

    def __enter__(self) -> "TerminalObserver":
        package = logging.getLogger("autotune")
        self._other_lines = [handler for handler in package.handlers if isinstance(handler, LogLines)]
        for handler in self._other_lines:  # two consoles would write over each other
            package.removeHandler(handler)
        package.addHandler(self._log)
        if self._live:
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        package = logging.getLogger("autotune")
        package.removeHandler(self._log)
        for handler in self._other_lines:
            package.addHandler(handler)
        if self._live:
            self._display.stop()

    def phase(self, title: str) -> None:
        """Begin a phase; on a terminal the one before leaves a line with its time."""
        now_s = time.monotonic()
        if self._live:
            if self._task is not None:
                self._console.print(f"[green]✓[/] {escape(self._title)} [dim]{now_s - self._began_s:.1f} s[/]")
                self._display.remove_task(self._task)
            self._task = self._display.add_task(escape(title), total=1.0, status="")
        elif not self._quiet:
            self._console.print(f"{title} …", markup=False, soft_wrap=True)
        self._title, self._began_s, self._told_s = title, now_s, now_s

    def progress(self, fraction: float) -> None:
        """Move the bar, or now and then print a line."""
        now_s = time.monotonic()
        if self._live and self._task is not None:
            self._display.update(self._task, completed=fraction, status=_phase_left(fraction, now_s - self._began_s))
        elif now_s - self._told_s > _PLAIN_EVERY_S and not self._quiet:
            self._told_s = now_s
            left = _phase_left(fraction, now_s - self._began_s)
            self._console.print(f"  {self._title}: {fraction:.0%}{', ' + left if left else ''}", markup=False)

    def trial(self, record: TrialRecord, status: SearchStatus) -> None:
        """Print the trial, and where the search stands."""
        if self._quiet:
            return
        self._console.print(_trial_line(record, status), soft_wrap=True)
        if isinstance(record.outcome, Rejected) and record.outcome.stderr:
            logger.debug("stderr of %s: %s", record.build, record.outcome.stderr)
        if self._live and self._task is not None:
            left = f"{status.evaluated}/{status.planned}, front {status.front_size}, {time_left_text(status.left)}"
            self._display.update(self._task, completed=status.evaluated / status.planned, status=left)

    def note(self, text: str) -> None:
        """Print the note."""
        if not self._quiet:
            self._console.print(f"  {text}", markup=False, soft_wrap=True)


def _phase_left(fraction: float, elapsed_s: float) -> str:
    """What is left of a phase at its pace so far; empty while that says nothing."""
    if fraction >= 1 or fraction < _LEAST_SHARE or elapsed_s < _LEAST_S:
        return ""
    rest_s = elapsed_s * (1 - fraction) / fraction
    return time_left_text(TimeLeft(rest_s, rest_s))


def _trial_line(record: TrialRecord, status: SearchStatus) -> str:
    count = f"{status.evaluated:>{len(str(status.planned))}}/{status.planned}"
    head = f"  {count} {record.build.shape!s:<22} {record.build.precision.value:<4} {record.build.backend}"
    if isinstance(record.outcome, Rejected):
        detail = " ".join(record.outcome.detail.split())
        return f"{head} [red]{record.outcome.reason.value}[/]: {escape(detail)}"
    best = f"best {describe_score(*status.best)} · " if status.best else ""
    known = "known · " if isinstance(record.outcome, Measured) and record.outcome.latency_date else ""
    search = f"[dim]{known}{best}front {status.front_size} · {time_left_text(status.left)}[/]"
    if isinstance(record.outcome, Screened):
        return f"{head} screened: {_forecast(record.outcome)}  {search}"
    fastest = max(record.outcome.scores, key=lambda score: score.tokens_per_s.value)
    return f"{head} k={fastest.lookahead} {_speed(fastest)}  {search}"


def describe_score(record: TrialRecord, score: Score) -> str:
    """A draft and its predicted speed-up in a few words."""
    return f"{record.build.shape} k={score.lookahead} {score.speedup.value:.2f}×"


def _forecast(screened: Screened) -> str:
    """Why a build was not compiled, in a few words: its fastest lookahead at the optimistic end of the prediction."""
    best = screened.best()
    why = f"adds {screened.gain:.2%} to the front at most" if best.rival else "over the limit of round latency"
    most = f"{_tokens(best.tokens_per_round)} ≥ {best.shortest_round_s * 1e3:.2f} ms"
    return f"k={best.lookahead} {most}, {why}"


def _speed(score: Score) -> str:
    return f"{_tokens(score.tokens_per_round)} {score.round_s.value * 1e3:6.2f} ms {score.speedup.value:5.2f}×"


def _tokens(per_round: Figure) -> str:
    assumed = " (stand-in)" if per_round.evidence is Evidence.STAND_IN else ""
    return f"{per_round.value:.2f} tokens/round{assumed}"
