"""What a demo training is: every setting that its result depends on, and the schedule that follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.candidate import DraftShape
from autotune.demo.tokens import SMALLEST_VOCAB
from autotune.errors import BadRequest

Settings = Mapping[str, int | float]
"""Settings by the name of their option, with underscores: `layers`, `batch_tokens`, …"""

DEFAULTS: Settings = {
    "layers": 8,
    "heads": 4,
    "head_dim": 32,
    "hidden": 128,
    "ffn": 352,
    "vocab": 2048,
    "context": 512,
    "tokens": 15_300_000,
    "batch_tokens": 1024,
    "processes": 1,
    "learning_rate": 4e-3,
    "seed": 0,
}
"""What the embedded demo was trained with, but for the two processes it used; `kv_heads` are as many as heads."""


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


def plan_from(settings: Settings) -> TrainingPlan:
    """The plan of these settings, defaults for the rest; BadRequest if they make no model or no training."""
    chosen = {**DEFAULTS, **settings}
    for name, value in chosen.items():
        if value < (0 if name == "seed" else 1) and name != "learning_rate":
            raise BadRequest(f"--{name.replace('_', '-')} must be positive, not {value}")
    if not chosen["learning_rate"] > 0:
        raise BadRequest(f"--learning-rate must be positive, not {chosen['learning_rate']}")
    if chosen["vocab"] < SMALLEST_VOCAB:
        raise BadRequest(f"--vocab {chosen['vocab']} is too small: the bytes and the end token are {SMALLEST_VOCAB}")
    try:
        shape = DraftShape(
            layers=int(chosen["layers"]),
            heads=int(chosen["heads"]),
            kv_heads=int(chosen.get("kv_heads", chosen["heads"])),
            head_dim=int(chosen["head_dim"]),
            hidden=int(chosen["hidden"]),
            ffn=int(chosen["ffn"]),
            vocab=int(chosen["vocab"]),
        )
    except ValueError as error:
        raise BadRequest(str(error)) from error
    return TrainingPlan(
        shape=shape,
        context_tokens=int(chosen["context"]),
        tokens=int(chosen["tokens"]),
        batch_tokens=int(chosen["batch_tokens"]),
        processes=int(chosen["processes"]),
        learning_rate=chosen["learning_rate"],
        seed=int(chosen["seed"]),
    )


def settings_of(plan: TrainingPlan) -> Settings:
    """The settings that make this plan."""
    shape = plan.shape
    return {
        "layers": shape.layers,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden": shape.hidden,
        "ffn": shape.ffn,
        "vocab": shape.vocab,
        "context": plan.context_tokens,
        "tokens": plan.tokens,
        "batch_tokens": plan.batch_tokens,
        "processes": plan.processes,
        "learning_rate": plan.learning_rate,
        "seed": plan.seed,
    }
