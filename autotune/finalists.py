"""Finalists: the best predictions, finished by a last training, then compiled and measured as they would ship."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.cache import cache_root
from autotune.candidate import Drafting, DraftShape
from autotune.errors import AutotuneError
from autotune.evaluate import Evaluator
from autotune.pareto import best_by_speed
from autotune.progress import Observer
from autotune.results import Acceptance, LatencyTable, Rejected, RejectReason, Score, TrialRecord
from autotune.text import noting
from autotune.vocabulary import Vocabulary
from autotune.weights import ModelWeights
from autotune.workbench import Workbench


@dataclass(frozen=True)
class Finalist:
    """A draft as it would ship: finished weights, its program, and its refreshed prediction."""

    record: TrialRecord
    whole: ModelWeights
    """With the whole head, even where the program's is trimmed."""
    program: Path
    score: Score
    acceptance: Acceptance
    burst: LatencyTable

    @property
    def drafting(self) -> Drafting | None:
        """The faster way of drafting, as measured."""
        return self.burst.drafting


def choose_finalists(front: Sequence[tuple[TrialRecord, Score]], count: int) -> list[TrialRecord]:
    """The `count` fastest builds of the front, by predicted tokens/s at their best lookahead there."""
    fastest: dict[str, TrialRecord] = {}
    for record, _ in best_by_speed(front, lambda item: item[1]):
        fastest.setdefault(record.build.key(), record)
    return list(fastest.values())[:count]


def finish_drafts(bench: Workbench, records: Sequence[TrialRecord], observer: Observer) -> list[ModelWeights]:
    """The drafts of these records with their whole heads, finished.

    Builds that differ in backend or precision alone, or in the tokens of the head, are cut from one whole draft, which
    is finished once: named after the first of them and judged with their head, or with the whole one if theirs differ.
    """
    alike: dict[DraftShape, list[TrialRecord]] = {}
    for record in records:
        alike.setdefault(_whole(record), []).append(record)
    finished = {shape: _finish(bench, group, observer) for shape, group in alike.items()}
    return [finished[_whole(record)] for record in records]


def make_finalists(
    bench: Workbench,
    evaluator: Evaluator,
    records: Sequence[TrialRecord],
    drafts: Sequence[ModelWeights],
    work: Path,
    observer: Observer,
) -> list[Finalist]:
    """The finalists of finished drafts, scored anew by the evaluator; AutotuneError if none can be compiled."""
    finalists = []
    vocabulary = bench.own_text.estimator.vocabulary
    for record, whole in zip(records, drafts, strict=True):
        finalist = _compile(evaluator, vocabulary, record, whole, work / f"finalist-{record.number}")
        if isinstance(finalist, Rejected):
            observer.note(f"{record.build} drops out: {finalist.reason.value}, {finalist.detail}")
        else:
            finalists.append(finalist)
    if not finalists:
        raise AutotuneError("none of the finalists could be compiled and measured again: see the notes above")
    return finalists


def _whole(record: TrialRecord) -> DraftShape:
    return replace(record.build.shape, draft_vocab=None)


def _finish(bench: Workbench, records: Sequence[TrialRecord], observer: Observer) -> ModelWeights:
    """The draft of all these records with its whole head, distilled a little longer on the traces, if that helped."""
    config, text, record = bench.request.config, bench.own_text, records[0]
    heads = {each.build.shape.draft_vocab for each in records}
    shape = record.build.shape if len(heads) == 1 else _whole(record)
    weights = text.estimator.whole_weights(shape)
    if not config.finish:
        return weights
    from autotune.proxy.finish import finish  # torch: loaded only when it is needed

    observer.phase(f"Finishing {record.build}")
    tell = noting(text.cautions, observer)
    finished = finish(
        weights,
        text.traces.train,
        config.finish,
        token_ids=text.estimator.vocabulary.kept(shape),
        seed=config.seed,
        place=bench.request.training_place,
        loss=config.chosen_loss,
        checkpoints=cache_root() / "finishes",
        on_progress=observer.progress,
        on_note=lambda text: tell(f"finishing {record.build}: {text}"),
    )
    observer.note(f"{record.build}: agreement with the target {finished.before:.3f} → {finished.after:.3f}")
    return finished.weights


def _compile(
    evaluator: Evaluator, vocabulary: Vocabulary, record: TrialRecord, whole: ModelWeights, folder: Path
) -> Finalist | Rejected:
    """The finished draft trimmed, compiled and measured, at its best lookahead."""
    weights = vocabulary.trim(whole, record.build.shape)
    acceptance = evaluator.acceptance(record.build, weights)
    if isinstance(acceptance, Rejected):
        return acceptance
    built = evaluator.compile(record.build, weights, folder)
    if isinstance(built, Rejected):
        return built
    burst = evaluator.measure(built)
    if isinstance(burst, Rejected):
        return burst
    scores = evaluator.scores(acceptance, burst, [score.lookahead for score in record.scores])
    if not scores:
        return Rejected(RejectReason.CONSTRAINT, "over the limit of round latency at every lookahead")
    best = max(scores, key=lambda score: score.tokens_per_s.value)
    return Finalist(record, whole, Path(built.program), best, acceptance, burst)
