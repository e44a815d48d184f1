"""The errors a caller may want to catch.  A bad *candidate* is a result (`results.Rejected`), never an exception."""


class AutotuneError(Exception):
    """Root of every error raised on purpose by this package."""


class BadRequest(AutotuneError):
    """The request cannot be done as asked; the message says what is wrong and how to mend it (exit code 2)."""


class ArtifactError(BadRequest):
    """An artifact or compiled program is missing, changed, unsafe or of a newer schema."""


class TrainingDiverged(AutotuneError):
    """A training loss became NaN or infinite; the last good weights were kept."""


class Interrupted(AutotuneError):
    """The user stopped the run; everything measured so far is on disk and `--resume` continues (exit code 130)."""


class MissingEvidence(AutotuneError):
    """A number that a strict run must have measured would be a stand-in, extrapolated, or not validated."""
