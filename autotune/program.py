"""A compiled program on disk: the folder that `compile` writes and `runtime` opens.

The folder holds `program.json` (this description) and the files of its backend.  A program is one decoder for one
sequence: given n new tokens and the position of the first, it appends their keys and values to a preallocated cache
and gives logits and arg-max tokens for all n positions; or one for several sequences, each with a cache of its own.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from autotune.candidate import Drafting as Drafting
from autotune.candidate import DraftShape, Precision
from autotune.errors import ArtifactError
from autotune.weights import Numerics, TokenIds

PROGRAM_FILE = "program.json"
PROGRAM_SCHEMA = 3


@dataclass(frozen=True)
class Program:
    """What one needs to know to open a compiled program."""

    backend: str
    device: str
    precision: Precision
    shape: DraftShape
    numerics: Numerics
    capacity_tokens: int
    """Positions of the key/value cache: the longest sequence the program can hold."""
    token_ids: tuple[int, ...] | None = None
    """Tokens of the rows of a trimmed head (see `autotune.weights`); arg-max tokens and drafts are given as these."""
    longest_burst: int = 0
    """Bursts of 1 … this many steps exist as one program; 0: there is none, and every step is a call."""
    drafting: Drafting = Drafting.CALLS
    """How sessions draft unless told otherwise."""
    batch: int = 1
    """Sequences it decodes at once."""
    smaller_batches: tuple[int, ...] = ()
    """Numbers of these sequences, ascending, that a call may also be given."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the compiler's packages, by distribution name."""
    schema_version: int = PROGRAM_SCHEMA

    @cached_property
    def head_tokens(self) -> TokenIds | None:
        """`[head_rows]` the token of each row of a trimmed head; None: row i is token i."""
        return None if self.token_ids is None else np.array(self.token_ids)

    @property
    def batches(self) -> tuple[int, ...]:
        """Numbers of sequences that one call may be given, ascending."""
        return (*self.smaller_batches, self.batch)

    def write(self, folder: Path) -> None:
        """Write `program.json` into the folder."""
        (folder / PROGRAM_FILE).write_bytes(_PROGRAM.dump_json(self, indent=2))

    @staticmethod
    def read(folder: Path) -> "Program":
        """The description in a program folder; ArtifactError if it is missing, malformed or of a newer schema."""
        path = folder / PROGRAM_FILE
        try:
            program = _PROGRAM.validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ArtifactError(f"{folder} is not a compiled program: it has no {PROGRAM_FILE}") from None
        except ValidationError as error:
            raise ArtifactError(f"{path} is malformed: {error.errors()[0]['msg']}") from error
        if program.schema_version > PROGRAM_SCHEMA:
            raise ArtifactError(
                f"{path} has schema {program.schema_version}, newer than the {PROGRAM_SCHEMA} known here: "
                "upgrade draft-autotune"
            )
        return program

    def draft_by(self, drafting: Drafting, folder: Path) -> "Program":
        """The program with that way of drafting, noted in its folder."""
        changed = replace(self, drafting=drafting)
        changed.write(folder)
        return changed


_PROGRAM = TypeAdapter(Program)
