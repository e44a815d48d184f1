"""Progress in the terminal: a live display where there is one, plain lines elsewhere.  Everything goes to stderr."""

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from autotune.progress import SearchStatus
from autotune.results import Evidence, Figure, Measured, Rejected, Score, Screened, TrialRecord

_PLAIN_EVERY_S = 15.0
"""How often a plain log repeats that a phase is still under way."""


class TerminalObserver:
    """Shows a run's progress; use it as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
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
        self._warnings = _Warnings(self._console)
        self._task: TaskID | None = None
        self._title = ""
        self._began_s = self._told_s = time.monotonic()

    def __enter__(self) -> "TerminalObserver":
        logging.getLogger("autotune").addHandler(self._warnings)
        if self._live:
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("autotune").removeHandler(self._warnings)
        if self._live:
            self._display.stop()

    def phase(self, title: str) -> None:
        """Begin a phase; on a terminal the one before leaves a line with its time."""
        now_s = time.monotonic()
        if self._live:
            if self._task is not None:
                self._console.print(f"[green]✓[/] {self._title} [dim]{now_s - self._began_s:.1f} s[/]")
                self._display.remove_task(self._task)
            self._task = self._display.add_task(title, total=1.0, status="")
        else:
            self._console.print(f"{title} …", soft_wrap=True)
        self._title, self._began_s, self._told_s = title, now_s, now_s

    def progress(self, fraction: float) -> None:
        """Move the bar, or now and then print a line."""
        if self._live and self._task is not None:
            self._display.update(self._task, completed=fraction)
        elif time.monotonic() - self._told_s > _PLAIN_EVERY_S:
            self._told_s = time.monotonic()
            self._console.print(f"  {self._title}: {fraction:.0%}")

    def trial(self, record: TrialRecord, status: SearchStatus) -> None:
        """Print the trial, and where the search stands."""
        self._console.print(_trial_line(record, status), soft_wrap=True)
        if self._live and self._task is not None:
            left = f"{status.evaluated}/{status.planned}, front {status.front_size}, {_clock(status.left_s)} left"
            self._display.update(self._task, completed=status.evaluated / status.planned, status=left)

    def note(self, text: str) -> None:
        """Print the note."""
        self._console.print(f"  {text}", markup=False, soft_wrap=True)


class _Warnings(logging.Handler):
    """Prints the library's warnings, one line each."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's message."""
        self._console.print(f"warning: {record.getMessage()}", markup=False, soft_wrap=True)


def _trial_line(record: TrialRecord, status: SearchStatus) -> str:
    count = f"{status.evaluated:>{len(str(status.planned))}}/{status.planned}"
    head = f"  {count} {record.build.shape!s:<22} {record.build.precision.value:<4} {record.build.backend}"
    if isinstance(record.outcome, Rejected):
        detail = " ".join(record.outcome.detail.split())
        return f"{head} [red]{record.outcome.reason.value}[/]: {escape(detail)}"
    best = f"best {describe_score(*status.best)} · " if status.best else ""
    known = "known · " if isinstance(record.outcome, Measured) and record.outcome.latency_date else ""
    search = f"[dim]{known}{best}front {status.front_size} · {_clock(status.left_s)} left[/]"
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


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
