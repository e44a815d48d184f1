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
    "recover_tokens",
    "loss",
    "lookahead",
    "seed",
    "threads",
    "train_device",
    "train_processes",
    "database",
)
"""What the stand-in's run has in common with the run it stands in for."""


def stand_in_family(config: TuneConfig) -> Request:
    """The run of the demo that a plan takes its drafts and text from; BadRequest where there can be none."""
    return resolve(TuneConfig(target=DEMO, finish=0, **{name: getattr(config, name) for name in _TAKEN_OVER}))


def prepare_stand_in(
    request: Request, family: Request, database: TuningDatabase | None, observer: Observer
) -> StandInAcceptance:
    """The demo's drafts and text, trained and recorded as a run of the demo does; both are kept in the cache."""
    target = family.whole_target
    program = compile_target(target, family.target_backend, family.context_tokens, precision=Precision.FP32)
    text = prepare_text(family, program, family.training_threads, observer, "the stand-in's")
    scored = ScoredOnTraces(
        text.traces.estimate, family.space.max_lookahead, threads=family.training_threads, database=database
    )
    fewest_tokens = len(set(target.eos_ids)) + 1  # those that end a text are always kept
    return StandInAcceptance(request.source.shape, target.shape, text.estimator, scored, fewest_tokens)
