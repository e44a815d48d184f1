"""Samplers: who proposes the next (build, lookahead) of a study.

* `tpe`: tree-structured Parzen estimators over all parameters at once (Bergstra et al. 2011; Optuna's), of all trials.
* `nsga2`: an evolution (Deb et al. 2002; Optuna's) whose parents are the elite of *all* trials, those included that
  nobody asked for: an evaluated build is worth something at every lookahead.
* `gp`: a Gaussian process and its expected hypervolume improvement (Daulton et al. 2020; Optuna's), of every build
  at one lookahead a time.  Needs SciPy.
* `random`: no model.

`auto` is `tpe`.  By `benchmarks.search_quality`, after a quarter of the 192 builds of a space of the demo, the best
draft it had found lacked 1.9 % of the best speed in the median of ten seeds (2.4 % at worst; `nsga2` 1.3 and 1.4, `gp`
1.5, random search 1.4 and 2.4), and its front had 0.997 of the exhaustive front's hypervolume, as everyone's.  These
differences are no larger than those between two measurements of one build; where speed is a smooth function of the
shape, `tpe` finds the optimum of a toy space in a quarter of it and `nsga2` comes within 1 %.  All begin with the
space's own proposals, without which the front has 0.63 … 0.93 of the hypervolume.  `gp` takes a third of a second for
a proposal.
"""

import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.errors import BadRequest
from autotune.search_space.space import LOOKAHEAD

SamplerName = Literal["auto", "tpe", "nsga2", "gp", "random"]
AUTO: SamplerName = "auto"
DEFAULT: SamplerName = "tpe"
STARTUP_BUILDS = 10
"""Builds that are known before a sampler models anything; what is proposed until then is drawn at random."""
_GENERATION = 8
"""Proposals of an evolution between two choices of parents: a run evaluates some 64 builds, of which Optuna's usual 50
would be the first, random generation alone."""
_PARENTS = 32
"""(build, lookahead) that an evolution breeds from; a front has several lookaheads of each of its builds."""
_MOST_BUILDS = 100
"""Latest builds that a Gaussian process is shown: asking takes time that grows with their cube."""
_MOST_STEPS = 200
"""Steps of the walk from a known build to an unknown one, after which the known one is proposed."""


def check_sampler(name: SamplerName) -> None:
    """BadRequest if the sampler cannot be used here."""
    if name == "gp" and find_spec("scipy") is None:
        raise BadRequest("--sampler gp needs SciPy: run pip install 'draft-autotune[gp]', or choose another sampler")


def make_sampler(name: SamplerName, seed: int, lookaheads: int) -> BaseSampler:
    """The sampler of a study in which every evaluated build adds a trial for each of so many lookaheads."""
    check_sampler(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match DEFAULT if name == "auto" else name:
            case "nsga2":
                return _nsga2(seed)
            case "gp":
                return OncePerBuild(
                    optuna.samplers.GPSampler(
                        seed=seed, n_startup_trials=STARTUP_BUILDS, warn_independent_sampling=False
                    ),
                    seed,
                )
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case _:
                startup = STARTUP_BUILDS * lookaheads
                return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=startup)


def _nsga2(seed: int) -> BaseSampler:
    def elite(study: Study, generations: list[FrozenTrial]) -> list[FrozenTrial]:
        return best_fronts(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]), _PARENTS)

    return optuna.samplers.NSGAIISampler(
        population_size=_GENERATION, seed=seed, elite_population_selection_strategy=elite
    )


def best_fronts(trials: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    """So many of the trials: the Pareto front, then that of the rest …; of the last one, some at even distances."""
    left = sorted(trials, key=lambda trial: (trial.values[0], -trial.values[1]))
    chosen: list[FrozenTrial] = []
    while left and len(chosen) < count:
        front: list[FrozenTrial] = []
        behind: list[FrozenTrial] = []
        for trial in left:
            (behind if front and trial.values[1] <= front[-1].values[1] else front).append(trial)
        wanted = min(count - len(chosen), len(front))
        chosen += [front[i * (len(front) - 1) // max(wanted - 1, 1)] for i in range(wanted)]
        left = behind
    return chosen


@dataclass(frozen=True)
class _Build:
    """A build as the study knows it: its parameters without the lookahead."""

    params: frozenset[tuple[str, Any]]

    @staticmethod
    def of(params: Mapping[str, Any]) -> "_Build":
        return _Build(frozenset((name, value) for name, value in params.items() if name != LOOKAHEAD))


class OncePerBuild(BaseSampler):
    """Lets another sampler see every build once, and propose unknown builds alone.

    For every proposal a lookahead is drawn at random, and all builds are shown at this one: what they come to is then
    a smooth function of their parameters, and every part of the front has its turn.  The lookahead of what is proposed
    does not matter: every lookahead of an evaluated build is told.
    """

    def __init__(self, sampler: BaseSampler, seed: int) -> None:
        self._sampler = sampler
        self._drawing = optuna.samplers.RandomSampler(seed=seed)
        self._random = random.Random(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters of a build that have more than one value."""
        told = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        distributions = optuna.search_space.intersection_search_space(told)
        return {name: each for name, each in distributions.items() if name != LOOKAHEAD and not each.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the other sampler proposes or, if that build is known, an unknown one close by."""
        if not search_space:
            return {}
        trials = study.get_trials(deepcopy=False)
        seen = optuna.create_study(directions=study.directions, sampler=self._sampler)
        lookaheads = sorted({each.params[LOOKAHEAD] for each in trials if each.state == TrialState.COMPLETE}, key=int)
        seen.add_trials(_at_lookahead(trials, self._random.choice(lookaheads))[-_MOST_BUILDS:])
        known = {_Build.of(_within(each.params, search_space)) for each in trials if each.state.is_finished()}
        return self._unknown(seen.ask(search_space).params, known, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value drawn at random."""
        return self._drawing.sample_independent(study, trial, param_name, param_distribution)

    def _unknown(
        self, proposed: dict[str, Any], known: set[_Build], search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposed build, or the first unknown one of a walk that starts at it."""
        walked, names = dict(proposed), sorted(search_space)
        for step in range(_MOST_STEPS):
            if _Build.of(walked) not in known:
                return walked
            if step % len(names) == 0:
                walked = dict(proposed)
            name = self._random.choice(names)
            walked[name] = self._random.choice(neighbours(search_space[name], walked[name]))
        return proposed


def neighbours(distribution: BaseDistribution, value: Any) -> list[Any]:
    """The values beside this one on an axis that has more than one; of choices that are no numbers, all others."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        values = list(distribution.choices)
        if not all(str(choice).isdigit() for choice in values):
            return [choice for choice in values if choice != value]
    else:
        assert isinstance(distribution, optuna.distributions.IntDistribution)
        values = list(range(distribution.low, distribution.high + 1, distribution.step))
    at = values.index(value)
    return [*values[max(at - 1, 0) : at], *values[at + 1 : at + 2]]


def _within(params: Mapping[str, Any], search_space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    return {name: params[name] for name in search_space if name in params}


def _at_lookahead(trials: Iterable[FrozenTrial], lookahead: Any) -> list[FrozenTrial]:
    """The completed trial of every build at this lookahead, without the lookahead."""
    at = {
        _Build.of(trial.params): trial
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.params.get(LOOKAHEAD) == lookahead
    }
    return [
        create_trial(
            values=trial.values,
            params={name: value for name, value in trial.params.items() if name != LOOKAHEAD},
            distributions={name: each for name, each in trial.distributions.items() if name != LOOKAHEAD},
        )
        for trial in at.values()
    ]
