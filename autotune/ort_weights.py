"""Where each array of a program for a GPU lies in its weights file; a session uploads them once for all graphs."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from autotune.errors import ArtifactError

INDEX_FILE = "weights.json"


@dataclass(frozen=True)
class StoredTensor:
    """One array of the weights file, in row-major order."""

    name: str
    data_type: int
    """As ONNX numbers its types."""
    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class WeightsIndex:
    """The arrays of a weights file."""

    tensors: tuple[StoredTensor, ...]
    file_bytes: int
    """Size of the whole file."""

    def write(self, folder: Path) -> None:
        """Write `weights.json` into the folder."""
        (folder / INDEX_FILE).write_bytes(_INDEX.dump_json(self, indent=2))

    @staticmethod
    def read(folder: Path) -> "WeightsIndex":
        """The index in a program folder; ArtifactError if it is missing or malformed."""
        path = folder / INDEX_FILE
        try:
            return _INDEX.validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ArtifactError(f"{folder} is incomplete: {INDEX_FILE} is missing; compile the draft again") from None
        except ValidationError as error:
            raise ArtifactError(f"{path} is malformed: {error.errors()[0]['msg']}") from error


_INDEX = TypeAdapter(WeightsIndex)
