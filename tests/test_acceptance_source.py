"""A stand-in's acceptance is labelled, and kept as what it is: another family's."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from autotune.acceptance_source import ScoredOnTraces, StandInAcceptance
from autotune.candidate import Build, DraftShape, Precision
from autotune.database.file import DatabaseFile
from autotune.database.known import TuningDatabase
from autotune.database.subjects import AcceptanceSubject
from autotune.results import Acceptance, Evidence, Rejected
from autotune.sampling import SamplingSettings
from autotune.traces import Trace, Traces
from autotune.weights import ModelWeights
from tests.support.figures import SHAPE
from tests.support.models import NUMERICS, tiny_weights

SOURCE = DraftShape(layers=8, heads=8, kv_heads=8, head_dim=16, hidden=128, ffn=192, vocab=500)
BUILD = Build(replace(SOURCE, layers=4, ffn=96), "onnxruntime", Precision.FP32)


class Drafts:
    name = "fixed"

    def weights(self, shape: DraftShape) -> ModelWeights:
        return tiny_weights(shape)


def text() -> Traces:
    rng = np.random.default_rng(1)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(SHAPE.vocab, size=count).astype(np.int32)

    items = [Trace(tokens(4), tokens(8), np.zeros(8, np.float32), tokens(12), "text") for _ in range(3)]
    return Traces(tuple(items), SamplingSettings(), "the stand-in's target", "tokenizer", 0)


def stand_in(database: TuningDatabase | None = None) -> StandInAcceptance:
    return StandInAcceptance(SOURCE, SHAPE, Drafts(), ScoredOnTraces(text(), 3, 1, database))


def test_it_is_the_acceptance_of_the_draft_of_the_same_relative_shape() -> None:
    source = stand_in()
    found = source.acceptance(BUILD, tiny_weights(BUILD.shape, numerics=NUMERICS))
    assert not isinstance(found, Rejected)
    assert found.value.evidence is Evidence.STAND_IN
    assert source.shape(BUILD.shape) == replace(SHAPE, layers=1, ffn=24)
    own = replace(BUILD, shape=source.shape(BUILD.shape))
    scored = source.scored.acceptance(own, tiny_weights(own.shape))
    assert not isinstance(scored, Rejected)
    assert replace(found.value, evidence=Evidence.ESTIMATED) == scored.value


def test_categories_are_the_traces_own_though_the_database_keeps_none(tmp_path: Path) -> None:
    database = TuningDatabase(DatabaseFile(tmp_path / "tuning.db"))
    build, weights = replace(BUILD, shape=SHAPE), tiny_weights(SHAPE)
    for names in (("code", "chat", "code"), ("text", "text", "poems")):  # the second time it is known
        items = tuple(replace(trace, category=name) for trace, name in zip(text().items, names, strict=True))
        found = ScoredOnTraces(replace(text(), items=items), 3, 1, database).acceptance(build, weights)
        assert not isinstance(found, Rejected)
        assert found.value.categories == names
    assert found.date is not None
    (entry,) = DatabaseFile(tmp_path / "tuning.db").entries()
    assert isinstance(entry.value, Acceptance)
    assert entry.value.categories == ()


def test_a_trimmed_stand_in_has_room_for_more_than_the_end_of_a_text() -> None:
    source = replace(stand_in(), fewest_tokens=3)
    for tokens, expected in ((2, 3), (250, SHAPE.vocab // 2), (None, None)):
        assert source.shape(replace(SOURCE, draft_vocab=tokens)).draft_vocab == expected


def test_the_database_keeps_it_under_the_stand_ins_own_name(tmp_path: Path) -> None:
    file = DatabaseFile(tmp_path / "tuning.db")
    source = stand_in(TuningDatabase(file))
    weights = tiny_weights(BUILD.shape)
    first = source.acceptance(BUILD, weights)
    again = source.acceptance(BUILD, weights)
    assert not isinstance(first, Rejected)
    assert not isinstance(again, Rejected)
    assert again.value == first.value
    assert (first.date, again.date is None) == (None, False)
    (entry,) = file.entries()
    assert isinstance(entry.subject, AcceptanceSubject)
    assert entry.subject.shape == source.shape(BUILD.shape)
    assert entry.value.evidence is Evidence.ESTIMATED
