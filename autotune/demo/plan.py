"""What a demo training is: every setting that its result depends on, and the schedule that follows from them."""

from dataclasses import dataclass

from autotune.candidate import DraftShape
from autotune.errors import BadRequest


@dataclass(frozen=True)
class TrainingPlan:
    """A training's settings; a training can only be resumed with equal ones."""

    shape: DraftShape
    context_tokens: int
    tokens: int
    """Tokens to train on, all processes together."""
    batch_tokens: int
    """Tokens of one process's batch: rows of half the context first, of the whole context for the last fifth."""
    processes: int
    learning_rate: float
    seed: int
    warmup_steps: int = 200
    decay_share: float = 0.6
    long_share: float = 0.2
    weight_decay: float = 0.05
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.batch_tokens < self.context_tokens:
            raise BadRequest(
                f"--batch-tokens {self.batch_tokens} does not hold one row of the context, {self.context_tokens}: "
                "raise it or lower --context"
            )
        if self.steps < 1:
            raise BadRequest(
                f"a budget of {self.tokens} tokens is too small for one step of {self.step_tokens} tokens: "
                "raise --tokens or --minutes, or lower --batch-tokens"
            )

    @property
    def step_tokens(self) -> int:
        """Tokens of one step, all processes together."""
        return self.batch_tokens * self.processes

    @property
    def steps(self) -> int:
        """Steps that the tokens make."""
        return self.tokens // self.step_tokens

    def rate(self, step: int) -> float:
        """Learning rate of a step (0 … steps - 1): a trapezoid of warm-up, plateau and linear decay."""
        warmup = (step + 1) / max(1, min(self.warmup_steps, self.steps // 10))
        decay = (self.steps - step) / max(self.decay_share * self.steps, 1.0)
        return self.learning_rate * min(1.0, warmup, decay)

    def rows(self, step: int) -> tuple[int, int]:
        """Rows and row length of a step's batch: short rows are cheaper, long ones teach the long context."""
        is_long = step >= (1.0 - self.long_share) * self.steps
        length = self.context_tokens if is_long else max(self.context_tokens // 2, 1)
        return self.batch_tokens // length, length
