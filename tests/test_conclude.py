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
from tests.support.figures import BUILD, measured, record, target_latency

MANIFEST = cast(Manifest, SimpleNamespace(notes=("a note",)))
FIRST_STEPS = {RunKind.WHOLE: "validate", RunKind.SERVED: "finish_drafts", RunKind.PLAN: "ship_plan"}


def found(*, interrupted: bool = False, empty: bool = False) -> SearchResult:
    records = [] if empty else [record(0, measured(0.3, 0.001)), record(1, measured(0.6, 0.001))]
    return SearchResult(records, interrupted)


def ended(
    kind: RunKind,
    result: SearchResult,
    observer: SilentObserver | None = None,
    batch: tuple[int, ...] = (1,),
    adaptive_k: bool = False,
) -> Conclusion:
    config = SimpleNamespace(validate_top=2, tune_kernels=60.0, batch=batch, adaptive_k=adaptive_k, model_free=False)
    evaluator = SimpleNamespace()
    request = SimpleNamespace(kind=kind, config=config)
    bench = SimpleNamespace(request=request, evaluator=evaluator, latency=target_latency())
    return conclude(cast(Workbench, bench), result, RunFolder(Path("run")), {}, observer or SilentObserver())


def finalist(number: int, kept: float) -> SimpleNamespace:
    """A finished draft at its largest lookahead."""
    outcome = measured(kept, 0.001)
    return SimpleNamespace(
        record=record(number, outcome), score=outcome.scores[-1], acceptance=outcome.acceptance, burst=outcome.burst
    )


def validation(winner: object, lookup: object = None) -> SimpleNamespace:
    """What a contest found: a draft, and what does without one."""
    lookups = (lookup,) if lookup else ()
    shipping = None if lookup else winner
    choice = SimpleNamespace(lookup=lookup, first=None)
    return SimpleNamespace(shipping=shipping, choice=choice, by_category={}, lookups=lookups)


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
    slow, fast = (finalist(n, kept) for n, kept in enumerate((0.1, 0.9) if pays else (0.0, 0.01)))
    shipped: list[Any] = []
    monkeypatch.setattr(module, "finish_drafts", lambda *_: [])
    monkeypatch.setattr(module, "make_finalists", lambda *_: [slow, fast])
    monkeypatch.setattr(module, "ship_unvalidated", lambda *given: shipped.append(given[1]) or MANIFEST)
    conclusion = ended(RunKind.SERVED, found())
    assert conclusion.ready == (fast.record, fast.score)
    assert shipped == [fast if pays else None]


def test_where_no_draft_is_worth_its_memory_what_does_without_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    winner, lookup = (finalist(0, 0.9), SimpleNamespace(build=BUILD)), SimpleNamespace(lookahead=3)
    shipped: list[Any] = []
    monkeypatch.setattr(module, "validate", lambda *_: validation(winner, lookup))
    monkeypatch.setattr(module, "tune_winner", raising(AssertionError("there is no draft to tune")))
    monkeypatch.setattr(module, "ship", lambda *given, **named: shipped.append((given[1], named["lookup"])) or MANIFEST)
    conclusion = ended(RunKind.WHOLE, found())
    assert shipped == [(None, lookup)]
    assert (conclusion.lookups, conclusion.lookup) == ((lookup,), lookup)


def test_a_winner_ships_as_it_was_validated_if_tuning_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    winner = (finalist(0, 0.9), SimpleNamespace(build=BUILD))
    shipped: list[Any] = []
    monkeypatch.setattr(module, "validate", lambda *_: validation(winner))
    monkeypatch.setattr(module, "tune_winner", raising(KeyboardInterrupt()))
    monkeypatch.setattr(module, "ship", lambda *given, **_: shipped.append(given[1]) or MANIFEST)
    conclusion = ended(RunKind.WHOLE, found())
    assert conclusion.interrupted
    assert conclusion.manifest is MANIFEST
    assert shipped == [winner]


@pytest.mark.parametrize("kind", RunKind)
@pytest.mark.parametrize("error", [AutotuneError("no room"), KeyboardInterrupt()])
def test_a_draft_ships_also_without_its_batches(
    monkeypatch: pytest.MonkeyPatch, kind: RunKind, error: BaseException
) -> None:
    best, validated = finalist(0, 0.9), SimpleNamespace(build=BUILD)
    monkeypatch.setattr(module, "validate", lambda *_: validation((best, validated)))
    monkeypatch.setattr(module, "tune_winner", lambda *_: ((best, validated), None))
    monkeypatch.setattr(module, "finish_drafts", lambda *_: [])
    monkeypatch.setattr(module, "make_finalists", lambda *_: [best])
    for name in ("_finished", "_planned"):
        monkeypatch.setattr(module, name, lambda *_: SimpleNamespace())
    monkeypatch.setattr(module, "make_schedule", raising(error))
    for name in ("ship", "ship_unvalidated", "ship_plan"):
        monkeypatch.setattr(module, name, lambda *_, **__: MANIFEST)
    observer = SilentObserver()
    conclusion = ended(kind, found(), observer, batch=(1, 4))
    assert (conclusion.manifest, conclusion.schedule, conclusion.failure) == (MANIFEST, None, None)
    assert conclusion.interrupted is isinstance(error, KeyboardInterrupt)
    assert ("no lookahead is scheduled by batch size: no room" in observer.notes) is not conclusion.interrupted


def test_without_a_winner_no_batches_are_measured_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "validate", lambda *_: validation(None))
    monkeypatch.setattr(module, "make_schedule", raising(AssertionError("measured")))
    monkeypatch.setattr(module, "ship", lambda *_, **__: MANIFEST)
    observer = SilentObserver()
    assert ended(RunKind.WHOLE, found(), observer, batch=(1, 4)).manifest is MANIFEST
    assert observer.notes[0].startswith("batches are not measured: no draft")


@pytest.mark.parametrize("asked", [True, False])
def test_a_winner_ships_with_the_plan_that_its_lookahead_pays_by(monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    winner, shipped = (finalist(0, 0.9), SimpleNamespace(build=BUILD)), []
    plan, outcome = SimpleNamespace(), SimpleNamespace()
    monkeypatch.setattr(module, "validate", lambda *_: validation(winner))
    monkeypatch.setattr(module, "tune_winner", lambda *_: (winner[0], None))
    monkeypatch.setattr(module, "adapt_winner", lambda *_: (plan, outcome))
    monkeypatch.setattr(module, "ship", lambda *_, **named: shipped.append(named["adaptive"]) or MANIFEST)
    conclusion = ended(RunKind.WHOLE, found(), adaptive_k=asked)
    assert shipped == [plan if asked else None]
    assert conclusion.adaptive is (outcome if asked else None)


def test_a_lookup_ships_before_the_draft_with_lookaheads_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, first, shipped = (finalist(0, 0.9), SimpleNamespace(build=BUILD)), SimpleNamespace(), []
    found_out = validation(None)
    found_out.shipping, found_out.choice.first = asked, first
    monkeypatch.setattr(module, "validate", lambda *_: found_out)
    monkeypatch.setattr(module, "tune_winner", lambda *_: (asked[0], None))
    monkeypatch.setattr(module, "adapt_winner", raising(AssertionError("only a draft by itself is adapted")))
    monkeypatch.setattr(module, "ship", lambda *given, **named: shipped.append((given[1], named["lookup"])) or MANIFEST)
    observer = SilentObserver()
    assert ended(RunKind.WHOLE, found(), observer, adaptive_k=True).first is first
    assert shipped == [(asked, first)]
    assert observer.notes[0].startswith("adaptive k is not tried: a lookup ships before the draft")


def test_a_winner_ships_with_its_fixed_lookahead_if_the_attempt_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    winner, shipped = (finalist(0, 0.9), SimpleNamespace(build=BUILD)), []
    monkeypatch.setattr(module, "validate", lambda *_: validation(winner))
    monkeypatch.setattr(module, "tune_winner", lambda *_: (winner[0], None))
    monkeypatch.setattr(module, "adapt_winner", raising(KeyboardInterrupt()))
    monkeypatch.setattr(
        module, "ship", lambda *given, **named: shipped.append((given[1], named["adaptive"])) or MANIFEST
    )
    conclusion = ended(RunKind.WHOLE, found(), adaptive_k=True)
    assert conclusion.interrupted
    assert shipped == [(winner, None)]
