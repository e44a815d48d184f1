"""How many tokens the chosen estimator trains on, and whether that is enough for a single step (no torch)."""

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.proxy.base import Axes, Training, find_estimator
from autotune.proxy.parts import CANDIDATE_BATCH_TOKENS, budget_tokens, mean_parameters, training_steps


def proxy_tokens(name: str, elastic_budget_s: float, recover_tokens: int, source: DraftShape, axes: Axes) -> int:
    """Training tokens that the estimator of that name spends, on all drafts together or on each; 0 if it has none."""
    match find_estimator(name).training:
        case Training.NONE:
            return 0
        case Training.SHARED:
            return budget_tokens(elastic_budget_s, mean_parameters(source, axes))
        case Training.EACH:
            return recover_tokens


def check_proxy_budget(name: str, elastic_budget_s: float, recover_tokens: int, source: DraftShape, axes: Axes) -> None:
    """BadRequest, naming the flag, if the estimator of that name trains and could not make a single step."""
    match find_estimator(name).training:
        case Training.SHARED:
            tokens = proxy_tokens(name, elastic_budget_s, recover_tokens, source, axes)
            training_steps(tokens, mean_parameters(source, axes), "--elastic-budget")
        case Training.EACH if recover_tokens < CANDIDATE_BATCH_TOKENS:
            raise BadRequest(
                f"--recover-tokens {recover_tokens} is less than one training step: "
                f"give at least {CANDIDATE_BATCH_TOKENS}"
            )
        case _:
            pass
