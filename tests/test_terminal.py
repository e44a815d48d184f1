import logging
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from autotune import terminal
from autotune.log_lines import LogLines
from autotune.progress import SearchStatus
from autotune.results import Evidence, Outcome, Rejected, RejectReason
from autotune.terminal import TerminalObserver, describe_score
from autotune.time_left import TimeLeft
from tests.support.figures import measured, record, screened

BEST = record(3, measured(0.8, 0.001))
STATUS = SearchStatus(
    evaluated=7, planned=48, rejected=1, front_size=4, best=(BEST, BEST.scores[0]), left=TimeLeft(75.0, 130.0)
)


class Screen:
    """A console of 80 columns whose output can be read."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        self.file = StringIO()
        self.console = Console(file=self.file, width=80, force_terminal=is_terminal, highlight=False)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


@pytest.fixture
def screen() -> Screen:
    return Screen()


def shown(screen: Screen, outcome: Outcome, status: SearchStatus = STATUS) -> str:
    with TerminalObserver(screen.console) as observer:
        observer.trial(record(6, outcome), status)
    (line,) = screen.lines
    return line


def test_a_measured_trial_is_one_plain_line(screen: Screen) -> None:
    line = shown(screen, measured(0.5, 0.001))
    assert line.startswith("   7/48 2L-4H-48F-32D")
    assert " fp32 onnxruntime k=4 3.00 tokens/round " in line
    assert line.endswith("front 4 · 1 … 3 min left")
    assert f"best 2L-4H-48F-32D k={STATUS.best[1].lookahead} {STATUS.best[1].speedup.value:.2f}×" in line
    assert "\x1b" not in line


def test_a_rejected_trial_is_one_line_with_its_reason(screen: Screen) -> None:
    detail = "[ONNXRuntimeError] : 1 : FAIL : Load model failed:\n  no kernel for [/bold] " + "x" * 100
    line = shown(screen, Rejected(RejectReason.BUILD_ERROR, detail, "stderr"))
    assert line == f"   7/48 {'2L-4H-48F-32D':<22} fp32 onnxruntime build-error: {' '.join(detail.split())}"


def test_a_screened_trial_is_one_line_with_its_optimistic_round(screen: Screen) -> None:
    line = shown(screen, screened())
    assert "onnxruntime screened: k=4 3.00 tokens/round ≥ 17.60 ms, over the limit of round latency" in line
    assert line.endswith("front 4 · 1 … 3 min left")
    outcome = screened()
    line = shown(Screen(), replace(outcome, forecasts=outcome.forecasts[:3]))
    assert "screened: k=3 2.50 tokens/round ≥ 15.70 ms, adds 0.12% to the front at most" in line


def test_what_was_assumed_is_said_of_screened_trials_too(screen: Screen) -> None:
    outcome = screened()
    forecasts = tuple(
        replace(each, tokens_per_round=replace(each.tokens_per_round, evidence=Evidence.STAND_IN))
        for each in outcome.forecasts
    )
    assert "3.00 tokens/round (stand-in) ≥ " in shown(screen, replace(outcome, forecasts=forecasts))


def test_the_first_trial_may_have_no_best(screen: Screen) -> None:
    status = replace(STATUS, best=None, evaluated=1, front_size=0)
    assert "best" not in shown(screen, measured(0.5, 0.001), status)


def test_phases_notes_and_warnings_are_lines(screen: Screen) -> None:
    long = "a note in [brackets] " + "that is longer than the console is wide " * 3
    with TerminalObserver(screen.console) as observer:
        observer.phase("Compiling the target")
        observer.note(long.strip())
        observer.progress(0.5)
        logging.getLogger("autotune.search_space.space").warning("--layers %s: [red] %s", "1:9", "y" * 90)
        logging.getLogger("autotune").info("too much to show")
        observer.phase("Searching 12 drafts")
    assert screen.lines == [
        "Compiling the target …",
        f"  {long.strip()}",
        "warning: --layers 1:9: [red] " + "y" * 90,
        "Searching 12 drafts …",
    ]


def test_a_long_phase_says_now_and_then_how_far_it_is(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: now_s[0]))  # this module's clock alone
    with TerminalObserver(screen.console) as observer:
        observer.phase("Training")
        for second in range(40):
            now_s[0] = float(second)
            observer.progress(second / 40)
    assert screen.lines == ["Training …", "  Training: 40%, about 30 s left", "  Training: 80%, a few seconds left"]


def test_the_log_is_given_back(screen: Screen) -> None:
    before = list(logging.getLogger("autotune").handlers)
    with TerminalObserver(screen.console):
        assert len(logging.getLogger("autotune").handlers) == len(before) + 1
    assert logging.getLogger("autotune").handlers == before


def test_everything_goes_to_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalObserver() as observer:
        observer.phase("Compiling the target")
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "Compiling the target …\n"


def test_a_terminal_keeps_a_line_of_every_phase_and_trial() -> None:
    screen = Screen(is_terminal=True)
    with TerminalObserver(screen.console) as observer:
        observer.phase("Compiling the target [/x]")
        observer.progress(0.3)
        observer.phase("Searching 12 drafts")
        observer.trial(record(6, Rejected(RejectReason.CRASHED, "died of SIGSEGV [/]")), STATUS)
        observer.trial(record(7, measured(0.5, 0.001)), STATUS)
        observer.note("done")
    text = screen.file.getvalue()
    assert "✓" in text
    assert "Compiling the target [/x]" in text
    assert "died of SIGSEGV [/]" in text
    assert "tokens/round" in text
    assert "7/48, front 4, 1 … 3 min left" in text


def test_what_little_is_known_of_the_time_left_is_said(screen: Screen) -> None:
    line = shown(screen, measured(0.5, 0.001), replace(STATUS, left=TimeLeft(None, 600.0)))
    assert line.endswith("at most 10 min left")


@pytest.fixture
def package_log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("autotune")
    level = logger.level
    yield logger
    logger.setLevel(level)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_quiet_run_tells_errors_only(package_log: logging.Logger, is_terminal: bool) -> None:
    package_log.setLevel(logging.ERROR)
    screen = Screen(is_terminal=is_terminal)
    with TerminalObserver(screen.console) as observer:
        observer.phase("Compiling the target")
        observer.progress(0.5)
        observer.note("worth knowing")
        observer.trial(record(6, measured(0.5, 0.001)), STATUS)
        package_log.warning("odd")
        package_log.error("wrong")
    assert screen.lines == ["error: wrong"]


def test_a_verbose_run_tells_details(package_log: logging.Logger, screen: Screen) -> None:
    package_log.setLevel(logging.DEBUG)
    with TerminalObserver(screen.console) as observer:
        logging.getLogger("autotune.measure").debug("warm")
        observer.trial(record(6, Rejected(RejectReason.CRASHED, "died", "segmentation fault")), STATUS)
    assert screen.lines[0] == "debug: measure: warm"
    assert screen.lines[-1].startswith("debug: terminal: stderr of ")
    assert screen.lines[-1].endswith(": segmentation fault")


def test_lines_of_the_log_are_not_printed_twice(package_log: logging.Logger, screen: Screen) -> None:
    outer = LogLines(Screen().console)
    package_log.addHandler(outer)
    try:
        with TerminalObserver(screen.console):
            package_log.warning("odd")
            assert outer not in package_log.handlers
        assert screen.lines == ["warning: odd"]
        assert outer in package_log.handlers
    finally:
        package_log.removeHandler(outer)


def test_a_score_in_a_few_words() -> None:
    assert describe_score(BEST, BEST.scores[1]) == f"2L-4H-48F-32D k=2 {BEST.scores[1].speedup.value:.2f}×"
