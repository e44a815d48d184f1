"""What lies beside the code of a TVM program for GPUs: `layout.json`, the contract of its builder and its session."""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from autotune.errors import ArtifactError

LAYOUT_FILE = "layout.json"
LIBRARY_FILE = "lib.so"
KERNELS_FILE = "kernels.bin"
WEIGHTS_FILE = "weights.bin"


@dataclass(frozen=True)
class DeviceBuffer:
    """One array in the device's memory."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class StoredBuffer(DeviceBuffer):
    """One array of the weights file, in row-major order."""

    offset_bytes: int


@dataclass(frozen=True)
class TvmCudaLayout:
    """How to call the functions of the library.

    `step` decodes up to `piece_tokens` tokens; `burst_k` and `sampled_burst_k` draft k = 1 … `longest_burst`
    tokens, the latter by drawing them.  All take every buffer, in the order state, scratch, weights, caches.  Buffers
    lie in the device's memory, are filled with zeros once, and are written in place:

    ============= ======= =========================================================================================
    state         int64   position of the first token, number of tokens, 0, and from `state_tokens` on the tokens;
                          bursts go on from what they leave here
    after         int64   the arg-max token after each (`step`, `burst_k`)
    logits        float32 one row a token; columns beyond the head's rows mean nothing
    drafted       int64   the burst's tokens
    dice          float32 1 / temperature, top-k (0: off), top-p (1: off), and from `dice_noise` on a uniform number in
                          [0, 1) for each token of the burst
    chosen        float32 the probability of each drawn token
    distributions float32 `[longest_burst, head_rows]`: what each was drawn from
    ============= ======= =========================================================================================
    """

    piece_tokens: int
    longest_burst: int
    state_tokens: int
    dice_noise: int
    state: tuple[DeviceBuffer, ...]
    scratch: tuple[DeviceBuffer, ...]
    weights: tuple[StoredBuffer, ...]
    caches: tuple[DeviceBuffer, ...]
    weights_bytes: int
    """Size of the weights file."""
    architecture: str
    """The oldest GPUs that can run it: `sm_80` for a compute capability of 8.0."""
    library_sha256: str
    kernels_sha256: str
    source_sha256: str
    """Of the CUDA source in the library, which the kernels were compiled from."""

    def write(self, folder: Path) -> None:
        """Write `layout.json` into the folder."""
        (folder / LAYOUT_FILE).write_bytes(_LAYOUT.dump_json(self, indent=2))

    @staticmethod
    def read(folder: Path) -> "TvmCudaLayout":
        """The layout in a program folder; ArtifactError if it is missing or malformed."""
        path = folder / LAYOUT_FILE
        try:
            return _LAYOUT.validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ArtifactError(f"{folder} is incomplete: {LAYOUT_FILE} is missing; compile the draft again") from None
        except ValidationError as error:
            raise ArtifactError(f"{path} is malformed: {error.errors()[0]['msg']}") from error


def capability(architecture: str) -> tuple[int, int]:
    """The compute capability of an architecture: (8, 0) for `sm_80`; ValueError if it is none."""
    found = re.fullmatch(r"sm_(\d+)(\d)[af]?", architecture)
    if found is None:
        raise ValueError(f"{architecture!r} is not a GPU architecture; expected something like sm_80")
    return int(found[1]), int(found[2])


_LAYOUT = TypeAdapter(TvmCudaLayout)
