"""Where the acceptance of a draft comes from: its own weights scored on the target's traces, or a stand-in.

The tuning database keeps only what was computed, under the weights and traces it was computed with.  A stand-in's
acceptance is therefore kept as what it is, the acceptance of a draft of the stand-in's family on that family's text,
and becomes evidence `stand-in` only where it is handed out for another draft.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from autotune.acceptance import count_acceptance
from autotune.candidate import Build, DraftShape
from autotune.database.known import Known, TuningDatabase, fresh
from autotune.database.subjects import AcceptanceSubject, acceptance_versions, traces_digest
from autotune.digests import weights_digest
from autotune.proxy.base import Estimator
from autotune.proxy.score_traces import NotANumber, acceptance_of
from autotune.proxy.stand_in import relative_shape
from autotune.quantization import dequantised
from autotune.results import Acceptance, Evidence, Rejected, RejectReason
from autotune.traces import Traces
from autotune.weights import ModelWeights


class AcceptanceSource(Protocol):
    """Says how often a build's tokens are accepted, for lookaheads 0 … K."""

    def acceptance(self, build: Build, weights: ModelWeights) -> Known[Acceptance] | Rejected:
        """Acceptance of the build with these weights, or why it has none."""


@dataclass(frozen=True)
class ScoredOnTraces:
    """One teacher-forced pass of the very weights, as the build's precision stores them, over the target's traces."""

    traces: Traces
    """The estimation split."""
    max_lookahead: int
    threads: int
    database: TuningDatabase | None = None
    """What earlier runs found out; None: everything is estimated anew, and nothing is kept."""

    def acceptance(self, build: Build, weights: ModelWeights) -> Known[Acceptance] | Rejected:
        """The acceptance from the database, or estimated now; with the traces' categories.

        The database keeps it without them: it does not depend on them, and equal text may be divided in other ways.
        """
        known = self._known(build, weights)
        if isinstance(known, Rejected):
            return known
        return replace(known, value=replace(known.value, categories=self._categories))

    def _known(self, build: Build, weights: ModelWeights) -> Known[Acceptance] | Rejected:

        def estimate() -> Acceptance | Rejected:
            stored = dequantised(weights, build.precision)
            try:
                ratios = acceptance_of(stored, self.traces, threads=self.threads)
            except NotANumber as error:
                return Rejected(RejectReason.NOT_A_NUMBER, str(error))
            return count_acceptance(ratios, self.max_lookahead)

        if self.database is None:
            return fresh(estimate())
        subject = AcceptanceSubject(
            shape=weights.shape,
            precision=build.precision,
            weights=weights_digest(weights),
            traces=self._traces_digest,
            max_lookahead=self.max_lookahead,
            versions=acceptance_versions(),
        )
        return self.database.recall(subject, Acceptance, estimate)

    @cached_property
    def _categories(self) -> tuple[str, ...]:
        return tuple(trace.category for trace in self.traces.items)

    @cached_property
    def _traces_digest(self) -> str:
        return traces_digest(self.traces)


@dataclass(frozen=True)
class StandInAcceptance:
    """The acceptance of the draft of another family that is to that family what the build is to the source."""

    source: DraftShape
    family: DraftShape
    """The stand-in's own source."""
    drafts: Estimator
    """Weights of the family's drafts, trimmed heads included."""
    scored: ScoredOnTraces
    """On text of the family's target."""
    fewest_tokens: int = 1
    """Of a trimmed vocabulary: less would have room for no text."""

    def shape(self, shape: DraftShape) -> DraftShape:
        """The shape that stands in for this one."""
        stand_in = relative_shape(shape, self.source, self.family)
        if stand_in.draft_vocab is None:
            return stand_in
        return replace(stand_in, draft_vocab=max(stand_in.draft_vocab, self.fewest_tokens))

    def acceptance(self, build: Build, weights: ModelWeights) -> Known[Acceptance] | Rejected:
        """The stand-in's acceptance, whatever the build's weights."""
        build = replace(build, shape=self.shape(build.shape))
        known = self.scored.acceptance(build, self.drafts.weights(build.shape))
        if isinstance(known, Rejected):
            return known
        return replace(known, value=replace(known.value, evidence=Evidence.STAND_IN))
