"""Which precisions a run uses where the user did not say, and which ones a backend cannot serve on a device."""

from collections.abc import Iterable, Mapping

from autotune.candidate import Precision
from autotune.errors import BadRequest

Supported = Mapping[str, frozenset[Precision]]
"""What each backend of the run can store matrices as on its device."""

_FLOATS = (Precision.FP32, Precision.FP16, Precision.BF16)
"""Those that a target is compiled in unless another is asked for, best first: its numerics are the user's choice."""

_USUAL = {"cpu": (Precision.FP32, Precision.INT8), "cuda": (Precision.FP16,)}
_USUAL_AT_TRUE_SIZE = {**_USUAL, "cpu": (Precision.INT8,)}
"""Of drafts as wide as a source of billions of parameters.  On a CPU their steps take as long as it takes to read the
weights, so in fp32 they take about four times as long and as much memory: a draft that is never chosen there."""


def draft_precisions(
    asked: tuple[Precision, ...] | None, device: str, supported: Supported, *, true_size: bool = False
) -> tuple[Precision, ...]:
    """The precisions of drafts: those asked for, or the device's usual ones (at true size) that a backend has.

    BadRequest if a precision, or a backend, was asked for in vain.
    """
    for name, precisions in supported.items():
        if not precisions:
            raise BadRequest(f"backend {name} has no code for {device}: leave it out of --backend")
    everything = frozenset().union(*supported.values())
    usual_ones = _USUAL_AT_TRUE_SIZE if true_size else _USUAL
    if asked is None:
        usual = tuple(precision for precision in usual_ones.get(device, ()) if precision in everything)
        asked = usual or tuple(sorted(everything))
    for precision in asked:
        if precision not in everything:
            names = " and ".join(supported)
            subject = f"backend {names} has" if len(supported) == 1 else f"backends {names} have"
            raise BadRequest(f"{subject} no {precision} on {device}; use --precision {_names(everything)}")
    for name, precisions in supported.items():
        if not precisions & set(asked):
            raise BadRequest(
                f"backend {name} has none of the precisions asked for on {device}; add --precision {_names(precisions)}"
            )
    return asked


def target_precision(asked: Precision | None, device: str, supported: Supported) -> Precision:
    """What the target is compiled in: as asked, or the best floats that the first backend has on the device.

    supported: of each backend that may compile the target, its `target_precisions`.
    """
    backend = next(iter(supported))
    if asked is None:
        floats = [precision for precision in _FLOATS if precision in supported[backend]]
        if not floats:
            raise BadRequest(
                f"backend {backend} can compile no target for {device}: name another one first in --backend"
            )
        return floats[0]
    everything = frozenset().union(*supported.values())
    if asked not in everything:
        names = " and ".join(supported)
        subject = f"backend {names} has" if len(supported) == 1 else f"backends {names} have"
        because = "" if asked in _FLOATS else " whose logits do not depend on how many tokens are verified together"
        raise BadRequest(
            f"--target-precision {asked}: {subject} no {asked} target on {device}{because}; use {_names(everything)}, "
            "or another --target-backend"
        )
    return asked


def _names(precisions: Iterable[Precision]) -> str:
    return ", ".join(sorted(precisions))
