"""The last short training of one draft, before it is compiled and shipped."""

import logging
from dataclasses import dataclass

import numpy as np

from autotune.errors import TrainingDiverged
from autotune.proxy.batches import Batches
from autotune.proxy.holdout import split_held_out
from autotune.proxy.network import Network, network_of
from autotune.proxy.parts import budget_tokens, training_steps, whole_part
from autotune.proxy.score_traces import acceptance_of
from autotune.proxy.training import Progress, Recipe, part_loss, torch_threads, train
from autotune.traces import Traces
from autotune.weights import ModelWeights, TokenIds, trimmed

logger = logging.getLogger(__name__)

FINISH_RECIPE = Recipe(learning_rate=2e-3)


@dataclass(frozen=True)
class Finished:
    """The better of a draft before and after its last training."""

    weights: ModelWeights
    before: float
    """Mean acceptance probability of a drafted token on training traces that were held out."""
    after: float
    tokens: int = 0
    """Training tokens spent."""

    @property
    def improved(self) -> bool:
        """Whether the trained draft is the one kept."""
        return self.after > self.before


def finish(
    draft: ModelWeights,
    traces: Traces,
    budget_s: float,
    *,
    token_ids: TokenIds | None = None,
    seed: int = 0,
    threads: int = 1,
    recipe: Recipe = FINISH_RECIPE,
    on_progress: Progress | None = None,
) -> Finished:
    """The draft after `budget_s` reference seconds on the training traces, or as it was if that did not help.

    Both are judged on a tenth of the traces that neither this nor the shared training learns from; if the draft is to
    ship with a head trimmed to `token_ids`, as it will be then.  It is trained, and returned, with its whole head: what
    is right over all tokens is right among fewer, and other engines need the whole.  A training that diverges at once
    leaves the draft as it was.
    """
    tokens = budget_tokens(budget_s, draft.shape.decode_parameters)
    steps = training_steps(tokens, draft.shape.decode_parameters, "the finish", recipe.batch_tokens)
    learned, judged = split_held_out(traces)
    before = _mean_acceptance(draft, token_ids, judged, threads)
    with torch_threads(threads):
        network = network_of(draft, trainable=True)
        batches = Batches(learned.items, traces.settings, recipe.batch_tokens, seed)
        part, temperature = whole_part(draft.shape), traces.settings.temperature
        try:
            trained = train(
                network,
                lambda step: part_loss(network, batches.at(step), part, temperature),
                steps,
                recipe,
                on_progress=on_progress,
            )
        except TrainingDiverged as error:
            logger.warning("the finish changed nothing: %s", error)
            return Finished(draft, before, before)
    distilled = Network(draft.shape, draft.numerics, trained.tensors).to_weights()
    after = _mean_acceptance(distilled, token_ids, judged, threads)
    return Finished(distilled if after > before else draft, before, after, steps * recipe.batch_tokens)


def _mean_acceptance(whole: ModelWeights, token_ids: TokenIds | None, traces: Traces, threads: int) -> float:
    weights = whole if token_ids is None else trimmed(whole, token_ids)
    return float(np.concatenate(acceptance_of(weights, traces, threads=threads)).mean())
