"""What lies beside the code of a TVM program: `layout.json`, the contract between its builder and its session."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from autotune.errors import ArtifactError

LAYOUT_FILE = "layout.json"
LIBRARY_FILE = "lib.so"
WEIGHTS_FILE = "weights.bin"


@dataclass(frozen=True)
class StoredArray:
    """One float32 array of the weights file, in row-major order."""

    name: str
    shape: tuple[int, ...]
    offset_bytes: int


@dataclass(frozen=True)
class TvmLayout:
    """How to call the functions of the library.

    `step(tokens, span, after, logits, *scratch, *weights, *caches)` decodes up to `piece_tokens` tokens;
    `burst_k(tokens, span, after, logits, drafted, *scratch, *weights, *caches)` drafts k = 1 … `longest_burst` tokens.
    All buffers are given by the caller and written in place:

    ========= ========= ==========================================================================
    tokens    int64     `[piece_tokens]`
    span      int32     `[3]`: position of the first token, number of tokens, 0
    after     int64     `[piece_tokens]`: the arg-max token after each
    logits    float32   `logits_shape`: one row a token; columns beyond the vocabulary mean nothing
    drafted   int64     `[longest_burst]`
    scratch   float32   `scratch_shapes`: memory for activations
    caches    float32   `cache_shapes`: keys and values, which the caller fills with zeros once
    ========= ========= ==========================================================================
    """

    piece_tokens: int
    longest_burst: int
    logits_shape: tuple[int, ...]
    scratch_shapes: tuple[tuple[int, ...], ...]
    cache_shapes: tuple[tuple[int, ...], ...]
    weights: tuple[StoredArray, ...]
    weights_bytes: int
    """Size of the weights file."""
    library_sha256: str
    features: tuple[str, ...]
    """Instruction sets of the processor the library was compiled for."""

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
