"""What a pair needs to decode several sequences at once: programs for them, and the lookahead for each number of them.

The programs are compiled when they are first asked for, of the weights that the artifact and its target hold, and kept
in the cache.  They are ONNX Runtime's on the CPU, like those that the schedule was measured with, whatever compiled the
pair: TVM's target and ONNX Runtime's differ by rounding.
"""

from dataclasses import dataclass
from pathlib import Path

from autotune.artifact import DRAFT_FOLDER, Manifest
from autotune.candidate import QUANTISED
from autotune.errors import BadRequest
from autotune.program import Program
from autotune.programs import compile_draft, compile_target
from autotune.runtime.batch_decode import BatchDecoder, Lookahead
from autotune.runtime.session import BATCH_BACKEND, BATCH_SESSIONS, open_batch_session
from autotune.targets import Target


@dataclass(frozen=True)
class BatchPrograms:
    """Program folders for the same batches; no draft where none is wanted."""

    target: Path
    draft: Path | None


class Batches:
    """An artifact's pair for several sequences at once."""

    def __init__(self, artifact: Path, manifest: Manifest, target: Target, threads: int) -> None:
        self._artifact = artifact
        self._manifest = manifest
        self._target = target
        self._threads = threads
        self._decoders: dict[tuple[int, int | None], BatchDecoder] = {}

    def decoder(self, batch: int, lookahead: int | None) -> BatchDecoder:
        """The decoder of that many sequences, opened once; lookahead: a fixed k, None: the schedule's."""
        if (batch, lookahead) not in self._decoders:
            programs = compile_batch(self._artifact, self._manifest, self._target, batch, lookahead)
            self._decoders[batch, lookahead] = open_decoder(
                programs, lookahead_of(self._manifest, batch, lookahead), self._threads
            )
        return self._decoders[batch, lookahead]

    def close(self) -> None:
        """Free all programs; may be called again."""
        while self._decoders:
            self._decoders.popitem()[1].close()


def compile_batch(
    artifact: Path, manifest: Manifest, target: Target, batch: int, lookahead: int | None = None
) -> BatchPrograms:
    """The programs of an artifact's pair for up to `batch` sequences at once, from the cache or compiled now.

    BadRequest if the artifact's device has none, or the artifact says no lookahead for the batch and none is given.
    """
    device = manifest.target.device
    if device not in BATCH_SESSIONS[BATCH_BACKEND]:
        raise BadRequest(
            f"{artifact} was made for {device}: several sequences are decoded at once by {BATCH_BACKEND} on the "
            f"{', '.join(BATCH_SESSIONS[BATCH_BACKEND])} only, so leave out --batch"
        )
    if manifest.target.precision in QUANTISED:
        raise BadRequest(
            f"{artifact} has an {manifest.target.precision.value} target, and {BATCH_BACKEND}, by which several "
            "sequences are decoded at once, has none: leave out --batch"
        )
    wanted = lookahead_of(manifest, batch, lookahead)
    batches = batches_below(manifest, batch)
    capacity = Program.read(artifact / DRAFT_FOLDER).capacity_tokens if manifest.draft else None
    draft = manifest.draft if wanted else None
    return BatchPrograms(
        compile_target(target, BATCH_BACKEND, capacity, precision=manifest.target.precision, batches=batches),
        compile_draft(artifact, BATCH_BACKEND, draft.precision, batches) if draft else None,
    )


def open_decoder(programs: BatchPrograms, lookahead: int | Lookahead, threads: int) -> BatchDecoder:
    """A decoder with sessions of its own."""
    draft = open_batch_session(programs.draft, threads) if programs.draft else None
    return BatchDecoder(open_batch_session(programs.target, threads), draft, lookahead)


def batches_below(manifest: Manifest, batch: int) -> tuple[int, ...]:
    """Numbers of sequences to compile for: one, those that were measured, and `batch` itself."""
    measured = {largest for _, largest, _ in manifest.lookahead_schedule}
    return tuple(sorted({1, batch} | {each for each in measured if each < batch}))


def largest_batch(manifest: Manifest, sequences: int) -> int:
    """The smallest batch of the schedule that takes that many sequences, or its largest; at least 2."""
    measured = [largest for _, largest, _ in manifest.lookahead_schedule if largest > 1]
    return min((each for each in measured if each >= sequences), default=max(measured, default=2))


def lookahead_of(manifest: Manifest, batch: int, fixed: int | None = None) -> int | Lookahead:
    """The k of the schedule for any number of sequences up to `batch`; 0 if it is 0 for all, or `fixed`.

    BadRequest if the schedule does not reach that far, or a fixed k has no draft.
    """
    if batch < 2:
        raise BadRequest(f"a batch has at least 2 sequences, not {batch}")
    if fixed is not None:
        if fixed < 0 or (fixed and manifest.draft is None):
            raise BadRequest(f"a lookahead of {fixed} needs a draft, and the artifact has none: use 0")
        return fixed
    by_batch = {
        each: lookahead
        for smallest, largest, lookahead in manifest.lookahead_schedule
        for each in range(smallest, largest + 1)
    }
    if batch not in by_batch:
        raise BadRequest(
            f"the artifact's schedule ends at a batch of {max(by_batch, default=0)}: give --lookahead for {batch}, or "
            f"run again with --batch {batch}, which measures it"
        )
    if not any(by_batch[active] for active in range(1, batch + 1)):
        return 0
    return by_batch.__getitem__
