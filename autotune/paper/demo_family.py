"""The embedded demo target with its drafts and text, for the experiments that need acceptance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.acceptance import count_acceptance
from autotune.candidate import Precision
from autotune.config import make_config
from autotune.paper.batches import MOST_LOOKAHEAD, BatchPair
from autotune.programs import compile_target
from autotune.progress import Observer
from autotune.proxy.base import Estimator
from autotune.request import resolve
from autotune.search_space.space import SearchSpace
from autotune.text import prepare_text
from autotune.traces import Traces
from autotune.weights import ModelWeights

_DRAFT_LAYERS = 2


@dataclass(frozen=True)
class DemoFamily:
    """The demo target, and drafts that are slices of its elastic source."""

    target: ModelWeights
    space: SearchSpace
    estimator: Estimator
    traces: Traces
    """The estimation split."""
    texts: Sequence[NDArray[np.int32]]
    """Prompts `[P]`, P ≥ 2, that nothing was trained on: text that people wrote."""

    def batch_pair(self, target_precision: Precision, draft_precision: Precision) -> BatchPair:
        """The target with a wide and shallow draft."""
        from autotune.proxy.score_traces import acceptance_of  # torch: loaded only when it is needed

        source = self.space.source
        draft = self.estimator.weights(replace(source, layers=min(_DRAFT_LAYERS, source.layers), ffn=source.ffn // 2))
        ratios = acceptance_of(draft, self.traces, precision=draft_precision)
        return BatchPair(self.target, draft, target_precision, count_acceptance(ratios, MOST_LOOKAHEAD))


def prepare_demo_family(seed: int, elastic_budget_s: float, threads: int, observer: Observer) -> DemoFamily:
    """The demo family, its traces recorded and its source trained unless the cache has them."""
    request = resolve(make_config({"seed": seed, "elastic-budget": elastic_budget_s}))
    target = request.whole_target
    program = compile_target(target, request.target_backend, request.context_tokens)
    text = prepare_text(request, program, threads, observer, "the demo's")
    return DemoFamily(
        target=target.read_weights(),
        space=request.space,
        estimator=text.estimator,
        traces=text.traces.estimate,
        texts=[prompt for prompt in text.traces.validate if len(prompt) > 1],
    )
