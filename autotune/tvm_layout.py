"""What lies beside the code of a TVM program: `layout.json`, the contract between its builder and its session."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from autotune.errors import ArtifactError

LAYOUT_FILE = "layout.json"
LIBRARY_FILE = "lib.so"
WEIGHTS_FILE = "weights.bin"
FUNCTION = "run"
PARAMETERS = (
    "control", "tokens", "after", "logits", "drafted", "settings", "noise", "probabilities", "distributions", "scratch",
    "keys", "values", "ids", "floats", "codes",
)  # fmt: skip
"""Buffers of the function, in order."""
STOPPING_PARAMETERS = ("log_acceptance", "limits", "survival")
"""Those behind them of a function whose bursts may stop early."""


@dataclass(frozen=True)
class TvmLayout:
    """How to call the one function of the library.

    `run` makes one step or several; all buffers are given by the caller, in this order, and written in place:

    ============= ======= ======================================================================================
    control       int32   `[4]`: position of the first token, number of tokens, steps, and whether tokens are drawn;
                          the first two change in a call of several steps.  `[5]` where bursts may stop: whether this
                          one may; if it does, the steps become those that were made
    tokens        int64   `[piece_tokens]`
    after         int64   `[piece_tokens]`: the arg-max token after each; a drawn one after the last only
    logits        float32 `logits_shape`: one row a token; columns beyond the head's rows mean nothing
    drafted       int64   `[longest_burst]`: the token that each step chose
    settings      float32 `[3]`: temperature (not 0), top-k (0: off), top-p (1: off)
    noise         float64 `[longest_burst]`: a uniform number in [0, 1) for each step
    probabilities float32 `[longest_burst]`: that of each drawn token
    distributions float32 `[longest_burst, columns of the logits]`: what each token was drawn from
    scratch       float32 `[scratch_floats]`: memory for activations, which the caller fills with zeros once
    keys, values  float32 `cache_shapes`: the cache, which the caller fills with zeros once
    ids           int64   `[head rows]`: the token of each row of a trimmed head; `[1]` and unused for a whole one
    floats        float32 the weights file
    codes         `code_type`: the same memory, read as integers
    log_acceptance, limits
                  float32 `[CONFIDENCE_BINS]`, `[longest_burst]`: see `autotune.stopping.StopRule`
    survival      float32 `[2]`: log S of the tokens of a burst that may stop, and the confidence in the last one
    ============= ======= ======================================================================================
    """

    piece_tokens: int
    longest_burst: int
    logits_shape: tuple[int, int]
    scratch_floats: int
    cache_shapes: tuple[tuple[int, ...], tuple[int, ...]]
    code_type: str
    weights_bytes: int
    """Size of the weights file."""
    library_sha256: str
    features: tuple[str, ...]
    """Instruction sets of the processor the library was compiled for."""
    stops: bool = False
    """Whether bursts may stop early; those of earlier versions may not."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Buffers of the function, in order."""
        return (*PARAMETERS, *(STOPPING_PARAMETERS if self.stops else ()))

    def write(self, folder: Path) -> None:
        """Write `layout.json` into the folder."""
        (folder / LAYOUT_FILE).write_bytes(_LAYOUT.dump_json(self, indent=2))

    @staticmethod
    def read(folder: Path) -> "TvmLayout":
        """The layout in a program folder; ArtifactError if it is missing or malformed."""
        path = folder / LAYOUT_FILE
        try:
            return _LAYOUT.validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ArtifactError(f"{folder} is incomplete: {LAYOUT_FILE} is missing; compile the draft again") from None
        except ValidationError as error:
            raise ArtifactError(f"{path} is malformed: {error.errors()[0]['msg']}") from error


_LAYOUT = TypeAdapter(TvmLayout)
