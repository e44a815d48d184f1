"""How a search ends when its last steps fail or are stopped, for every kind of run; with fakes for these steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autotune import conclude as module
from autotune.artifact import Manifest
from autotune.conclude import Conclusion, conclude
from autotune.errors import AutotuneError
from autotune.results import RunKind
from autotune.store import RunFolder
from autotune.tuner import SearchResult
from autotune.workbench import Workbench
from tests.support.evaluators import SilentObserver
from tests.support.figures import measured, record

MANIFEST = cast(Manifest, SimpleNamespace(notes=("a note",)))
FIRST_STEPS = {RunKind.WHOLE: "validate", RunKind.SERVED: "finish_drafts", RunKind.PLAN: "ship_plan"}


def found(*, interrupted: bool = False, empty: bool = False) -> SearchResult:
    records = [] if empty else [record(0, measured(0.3, 0.001)), record(1, measured(0.6, 0.001))]
    return SearchResult(records, interrupted)


def ended(
    kind: RunKind, result: SearchResult, observer: SilentObserver | None = None, batch: tuple[int, ...] = (1,)
) -> Conclusion:
    config = SimpleNamespace(validate_top=2, tune_kernels=60.0, batch=batch)
    evaluator = SimpleNamespace()
    bench = SimpleNamespace(request=SimpleNamespace(kind=kind, config=config), evaluator=evaluator)
    return conclude(cast(Workbench, bench), result, RunFolder(Path("run")), {}, observer or SilentObserver())


def raising(error: BaseException) -> Any:
    def raise_it(*_: object) -> None:
        raise error

    return raise_it


@pytest.mark.parametrize("kind", RunKind)
def test_without_a_front_or_after_an_interruption_nothing_is_begun(
    monkeypatch: pytest.MonkeyPatch, kind: RunKind
) -> None:
    monkeypatch.setattr(module, FIRST_STEPS[kind], raising(AssertionError("begun")))
    assert ended(kind, found(empty=True)) == Conclusion(interrupted=False)
    assert ended(kind, found(interrupted=True)) == Conclusion(interrupted=True)


@pytest.mark.parametrize("kind", RunKind)
def test_failures_and_interruptions_are_kept_for_after_the_report(
    monkeypatch: pytest.MonkeyPatch, kind: RunKind
) -> None:
    error = AutotuneError("no room")
    monkeypatch.setattr(module, FIRST_STEPS[kind], raising(error))
    assert ended(kind, found()) == Conclusion(interrupted=False, failure=error)
    monkeypatch.setattr(module, FIRST_STEPS[kind], raising(KeyboardInterrupt()))
    assert ended(kind, found()) == Conclusion(interrupted=True)


def test_a_plan_is_of_the_fastest_prediction_and_its_notes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped: list[Any] = []
    monkeypatch.setattr(module, "ship_plan", lambda *given: shipped.append(given) or MANIFEST)
    observer = SilentObserver()
    conclusion = ended(RunKind.PLAN, found(), observer)
    assert conclusion.manifest is MANIFEST
    assert observer.notes == ["a note"]
    (_, (chosen, score), *_), *_ = shipped
    assert chosen.number == 1
    assert score == max(chosen.scores, key=lambda each: each.tokens_per_s.value)


@pytest.mark.parametrize("pays", [True, False])
def test_a_served_run_ships_its_best_finished_draft_if_it_pays(monkeypatch: pytest.MonkeyPatch, pays: bool) -> None:
    slow, fast = (
        SimpleNamespace(record=record(n, measured(kept, 0.001)), score=measured(kept, 0.001).scores[-1])
        for n, kept in enumerate((0.1, 0.9) if pays else (0.0, 0.01))
    )
    shipped: list[Any] = []
    monkeypatch.setattr(module, "finish_drafts", lambda *_: [])
    monkeypatch.setattr(module, "make_finalists", lambda *_: [slow, fast])
    monkeypatch.setattr(module, "ship_unvalidated", lambda *given: shipped.append(given[1]) or MANIFEST)
    conclusion = ended(RunKind.SERVED, found())
    assert conclusion.ready == (fast.record, fast.score)
    assert shipped == [fast if pays else None]


def test_a_winner_ships_as_it_was_validated_if_tuning_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    winner = (SimpleNamespace(), SimpleNamespace())
    shipped: list[Any] = []
    monkeypatch.setattr(module, "validate", lambda *_: SimpleNamespace(winner=winner))
    monkeypatch.setattr(module, "tune_winner", raising(KeyboardInterrupt()))
    monkeypatch.setattr(module, "ship", lambda *given: shipped.append(given[1]) or MANIFEST)
    conclusion = ended(RunKind.WHOLE, found())
    assert conclusion.interrupted
    assert conclusion.manifest is MANIFEST
    assert shipped == [winner]


@pytest.mark.parametrize("kind", RunKind)
@pytest.mark.parametrize("error", [AutotuneError("no room"), KeyboardInterrupt()])
def test_a_draft_ships_also_without_its_batches(
    monkeypatch: pytest.MonkeyPatch, kind: RunKind, error: BaseException
) -> None:
    best = SimpleNamespace(record=record(0, measured(0.9, 0.001)), score=measured(0.9, 0.001).scores[-1])
    monkeypatch.setattr(module, "validate", lambda *_: SimpleNamespace(winner=(best, SimpleNamespace())))
    monkeypatch.setattr(module, "tune_winner", lambda *_: ((best, SimpleNamespace()), None))
    monkeypatch.setattr(module, "finish_drafts", lambda *_: [])
    monkeypatch.setattr(module, "make_finalists", lambda *_: [best])
    for name in ("_finished", "_planned"):
        monkeypatch.setattr(module, name, lambda *_: SimpleNamespace())
    monkeypatch.setattr(module, "make_schedule", raising(error))
    for name in ("ship", "ship_unvalidated", "ship_plan"):
        monkeypatch.setattr(module, name, lambda *_: MANIFEST)
    observer = SilentObserver()
    conclusion = ended(kind, found(), observer, batch=(1, 4))
    assert (conclusion.manifest, conclusion.schedule, conclusion.failure) == (MANIFEST, None, None)
    assert conclusion.interrupted is isinstance(error, KeyboardInterrupt)
    assert ("no lookahead is scheduled by batch size: no room" in observer.notes) is not conclusion.interrupted


def test_without_a_winner_no_batches_are_measured_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "validate", lambda *_: SimpleNamespace(winner=None))
    monkeypatch.setattr(module, "make_schedule", raising(AssertionError("measured")))
    monkeypatch.setattr(module, "ship", lambda *_: MANIFEST)
    observer = SilentObserver()
    assert ended(RunKind.WHOLE, found(), observer, batch=(1, 4)).manifest is MANIFEST
    assert observer.notes[0].startswith("batches are not measured: no draft")
