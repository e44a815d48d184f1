"""Acceptance where nothing of the target is here: the embedded demo's drafts stand in (see `proxy.stand_in`)."""

from autotune.acceptance_source import ScoredOnTraces, StandInAcceptance
from autotune.candidate import Precision
from autotune.config import TuneConfig
from autotune.database.known import TuningDatabase
from autotune.programs import compile_target
from autotune.progress import Observer
from autotune.request import Request, resolve
from autotune.targets import DEMO
from autotune.text import prepare_text

_TAKEN_OVER = (
    "temperature",
    "top_k",
    "top_p",
    "max_new_tokens",
    "proxy",
    "elastic_budget",
    "lookahead",
    "seed",
    "threads",
    "database",
)
"""What the stand-in's run has in common with the run it stands in for."""


def prepare_stand_in(request: Request, database: TuningDatabase | None, observer: Observer) -> StandInAcceptance:
    """The demo's drafts and text, trained and recorded as a run of the demo does; both are kept in the cache."""
    family = resolve(TuneConfig(target=DEMO, finish=0, **{name: getattr(request.config, name) for name in _TAKEN_OVER}))
    target = family.whole_target
    program = compile_target(target, family.config.backend[0], family.context_tokens, precision=Precision.FP32)
    text = prepare_text(family, program, family.training_threads, observer, "the stand-in's")
    scored = ScoredOnTraces(
        text.traces.estimate, family.space.max_lookahead, threads=family.training_threads, database=database
    )
    return StandInAcceptance(request.source.shape, target.shape, text.estimator, scored)
