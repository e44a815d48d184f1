"""One dimension of the search: its allowed values, how a user writes them and how a trial suggests one."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autotune.errors import BadRequest

MOST_VALUES = 100_000
"""Values of one axis; a range of more is a slip of the keyboard."""


class Trial(Protocol):
    """What this package needs of an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        """An integer of low, low + step, … high."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of the choices."""


@dataclass(frozen=True)
class Axis:
    """A named dimension with its allowed integers, ascending and distinct."""

    name: str
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise BadRequest(f"--{self.name} leaves no value to search")
        if list(self.values) != sorted(set(self.values)):
            raise ValueError(f"{self.name} values must ascend: {self.values}")

    @property
    def step(self) -> int | None:
        """The distance between neighbours; None if they are not evenly spaced."""
        steps = {after - before for before, after in itertools.pairwise(self.values)}
        return None if len(steps) > 1 else min(steps, default=1)

    def suggest(self, trial: Trial) -> int:
        """A value chosen by the trial: an integer range where the values are evenly spaced, else a choice."""
        if self.step is None:
            return int(trial.suggest_categorical(self.name, [str(value) for value in self.values]))
        return trial.suggest_int(self.name, self.values[0], self.values[-1], step=self.step)

    def param(self, value: int) -> int | str:
        """The trial's parameter with which `suggest` gives this value."""
        return str(value) if self.step is None else value

    def within(self, largest: int) -> "Axis":
        """The same axis without the values above `largest`."""
        return Axis(self.name, tuple(value for value in self.values if value <= largest))


def parse_axis(name: str, text: str, *, smallest: int = 1) -> Axis:
    """The axis written as `low:high`, `low:high:step` (both ends included) or `a,b,c`; BadRequest if impossible."""
    hint = f"--{name} {text}: write low:high, low:high:step or a,b,c in whole numbers of at least {smallest}"
    try:
        if ":" in text:
            low, high, *rest = (int(part) for part in text.split(":"))
            step = rest[0] if rest else 1
            if len(rest) > 1 or step < 1:
                raise BadRequest(hint)
            if low > high:
                raise BadRequest(f"--{name} {text}: the range is empty, {low} is more than {high}")
            if (high - low) // step >= MOST_VALUES:
                raise BadRequest(f"--{name} {text}: the range has more than {MOST_VALUES} values")
            values = tuple(range(low, high + 1, step))
        else:
            values = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise BadRequest(hint) from None
    if not values or values[0] < smallest:
        raise BadRequest(hint)
    return Axis(name, values)
