"""A run seen from outside."""

import io
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from autotune.errors import BadRequest
from autotune.store import RunFolder
from autotune.watch import line, take_snapshot, view, watch
from tests.support.facts import synthetic_facts
from tests.support.saved_runs import save_run


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_a_run_that_ended_is_shown_once_with_its_verdict(tmp_path: Path) -> None:
    facts = replace(synthetic_facts(), planned_trials=40)
    on = console()
    shown = watch(save_run(tmp_path, facts), on, 0.0, sleep=lambda _: pytest.fail("it waited"))
    assert not shown.under_way
    assert (shown.evaluated, shown.planned) == (40, 40)
    assert shown.by_state == {"measured": 37, "rejected": 3, "screened": 0}
    assert shown.failures == {"build-timeout": 3}
    first, last = text(on).splitlines()
    assert first.startswith("40/40 builds (37 measured, 3 rejected) · front ")
    assert last == shown.sentence
    assert last.startswith("Draft ")


@pytest.mark.parametrize("terminal", [False, True])
def test_it_follows_a_run_until_its_folder_is_left(tmp_path: Path, terminal: bool) -> None:
    facts = replace(synthetic_facts(), planned_trials=40)
    save_run(tmp_path, replace(facts, records=facts.records[:30]))
    on, waits = console(terminal), []
    with ExitStack() as running:
        folder = running.enter_context(RunFolder.open(tmp_path, {"target": facts.target}, resume=True))

        def sleep(seconds: float) -> None:
            assert take_snapshot(tmp_path).under_way
            for record in facts.records[30 + 2 * len(waits) :][:2]:
                folder.append(record)
            waits.append(seconds)
            if len(waits) == 5:
                running.close()

        shown = watch(tmp_path, on, 0.25, sleep)
    assert waits == [0.25] * 5
    assert (shown.evaluated, shown.under_way, shown.left_s) == (40, False, None)
    if not terminal:
        told = [each.split()[0] for each in text(on).splitlines() if " builds" in each]
        assert told == ["30/40", "32/40", "34/40", "36/40", "38/40", "40/40"]


def test_the_time_left_is_judged_by_the_latest_builds(tmp_path: Path) -> None:
    facts = replace(synthetic_facts(builds=20), planned_trials=40)
    records = [replace(record, wall_s=100.0 if number < 10 else 2.0) for number, record in enumerate(facts.records)]
    save_run(tmp_path, replace(facts, records=records))
    with RunFolder.open(tmp_path, {"target": facts.target}, resume=True):
        shown = take_snapshot(tmp_path)
    assert shown.left_s == pytest.approx(40.0)
    assert "about 40 s of search left · under way" in line(shown)


def test_before_its_search_a_run_has_nothing_to_show(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, {"target": "demo"}, resume=False):
        shown = take_snapshot(tmp_path)
    assert (shown.evaluated, shown.planned, shown.left_s, shown.under_way) == (0, None, None, True)
    assert line(shown) == "0 builds · front 0 · under way"


def test_the_view_lists_the_fastest_of_the_front(tmp_path: Path) -> None:
    facts = replace(synthetic_facts(), planned_trials=40)
    shown = take_snapshot(save_run(tmp_path, facts))
    on = console()
    on.print(view(shown))
    lines = text(on).splitlines()
    best, score = shown.front[0]
    assert any(str(best.build) in each and f"{score.speedup.value:.2f}×" in each for each in lines)
    assert any("the fastest 8 of" in each for each in lines) is (len(shown.front) > 8)
    assert any("failed: 3 build-timeout" in each for each in lines)
    assert shown.to_dict()["front"][0]["build"] == str(best.build)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="holds no run"):
        take_snapshot(tmp_path)


def test_a_folder_that_goes_meanwhile_ends_it(tmp_path: Path) -> None:
    path = save_run(tmp_path / "run", replace(synthetic_facts(builds=3), planned_trials=40))
    with RunFolder.open(path, {"target": "demo"}, resume=True):
        shown = watch(path, console(), 0.0, sleep=lambda _: shutil.rmtree(path))
    assert shown.sentence == "the folder is gone"
