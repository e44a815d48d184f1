"""How finalists are finished: what is said of it, and what a kill leaves."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autotune.candidate import Precision
from autotune.finalists import finish_drafts
from autotune.proxy.finish import Finished
from autotune.proxy.place import Place
from autotune.results import TrialRecord
from autotune.workbench import Workbench
from tests.support.evaluators import SilentObserver
from tests.support.figures import measured, record


class Listener(SilentObserver):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def bench_of(cautions: list[str]) -> Workbench:
    config = SimpleNamespace(finish=5.0, seed=3, chosen_loss=None)
    vocabulary = SimpleNamespace(kept=lambda shape: shape.draft_vocab)
    estimator = SimpleNamespace(whole_weights=lambda shape: "weights", vocabulary=vocabulary)
    text = SimpleNamespace(traces=SimpleNamespace(train="traces"), estimator=estimator, cautions=cautions)
    request = SimpleNamespace(config=config, training_place=Place("cpu", 2, 4))
    return cast(Workbench, SimpleNamespace(request=request, own_text=text))


def test_what_must_be_said_of_a_finish_is_told_and_kept_for_the_report(
    monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    asked: list[dict[str, Any]] = []

    def finish(weights: Any, traces: Any, budget_s: float, **how: Any) -> Finished:
        asked.append(how)
        how["on_note"]("the training loss became NaN")
        return Finished(weights, 0.5, 0.4)

    monkeypatch.setattr("autotune.proxy.finish.finish", finish)
    cautions: list[str] = ["said before"]
    listener = Listener()
    first: TrialRecord = record(0, measured(0.3, 0.001))
    records = [first, replace(first, number=1)]
    finish_drafts(bench_of(cautions), records, listener)
    assert cautions == ["said before", f"finishing {first.build}: the training loss became NaN"]
    assert [note for note in listener.notes if "NaN" in note] == cautions[1:]
    assert asked[0]["place"] == Place("cpu", 2, 4)
    assert asked[0]["checkpoints"] == cache_folder / "finishes"


def test_builds_of_one_whole_draft_are_finished_once(monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
    """Judged with the head they ship with, or with the whole one where theirs differ."""
    asked: list[dict[str, Any]] = []

    def finish(weights: Any, traces: Any, budget_s: float, **how: Any) -> Finished:
        asked.append(how)
        return Finished(cast(Any, f"draft {len(asked)}"), 0.4, 0.5)

    monkeypatch.setattr("autotune.proxy.finish.finish", finish)
    first: TrialRecord = record(0, measured(0.3, 0.001))

    def built(number: int, draft_vocab: int | None = None, **changes: Any) -> TrialRecord:
        shape = replace(first.build.shape, draft_vocab=draft_vocab, **changes)
        precision = Precision.INT8 if number % 2 else Precision.FP32
        return replace(first, number=number, build=replace(first.build, shape=shape, precision=precision))

    records = [built(0), built(1), built(2, 8, ffn=7), built(3, 4, ffn=7), built(4, 6, ffn=9), built(5, 6, ffn=9)]
    drafts = finish_drafts(bench_of([]), records, SilentObserver())
    assert drafts == ["draft 1", "draft 1", "draft 2", "draft 2", "draft 3", "draft 3"]
    assert [each["token_ids"] for each in asked] == [None, None, 6]
