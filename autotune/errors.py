"""The errors a caller may want to catch.  A bad *candidate* is a result (`results.Rejected`), never an exception."""

from collections.abc import Iterable

_MOST_NAMES = 5
"""Suggested at once."""


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean …?` with the names most like it; empty if none is."""
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), list(known), _MOST_NAMES)
    return f"did you mean {' or '.join(near)}?" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BadRequest:
    """The error for a name that is not among those known, with what was probably meant."""
    names = [str(each) for each in known]
    near = did_you_mean(name, names)
    return BadRequest(f"unknown {kind} {name!r}{': ' + near if near else ';'} choose from: {', '.join(names)}")
