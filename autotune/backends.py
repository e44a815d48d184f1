"""Which backends a run uses where the user named none, and what those it uses cannot be asked for."""

from autotune.candidate import Precision
from autotune.compile.base import load_backend
from autotune.config import TuneConfig
from autotune.errors import BadRequest
from autotune.runtime.session import BATCH_BACKEND

TUNED_BACKEND = "tvm"
"""Whose kernels can be tuned."""


def with_usable_backends(config: TuneConfig, device: str) -> TuneConfig:
    """The configuration without those default backends that cannot serve it; what the user named is left alone."""
    if "backend" in config.model_fields_set:
        return config
    usable, failures = [], []
    for name in config.backend:
        try:
            precisions = load_backend(name, device).precisions(device)
        except BadRequest as error:
            failures.append(error)
            continue
        if precisions if config.precision is None else precisions & set(config.precision):
            usable.append(name)
    if failures and not usable:
        raise failures[0]
    return config.model_copy(update={"backend": tuple(usable)}) if usable else config


def target_compilers(config: TuneConfig, device: str) -> dict[str, frozenset[Precision]]:
    """The compilers that may be the target's, as asked or else the drafts', and what each can compile it in."""
    names = config.backend if config.target_backend is None else (config.target_backend,)
    return {name: load_backend(name, device).target_precisions(device) for name in names}


def target_backends(config: TuneConfig, precision: Precision, *, whole: bool) -> tuple[str, ...]:
    """Those of them that can compile it in this precision: all that can be measured here, or the first."""
    able = tuple(name for name, has in target_compilers(config, config.device).items() if precision in has)
    return able if whole and config.device == "cpu" else able[:1]


def check_batches(config: TuneConfig, precision: Precision) -> None:
    """BadRequest if several sequences are to be decoded at once by a target that the batches' compiler lacks."""
    if max(config.batch) > 1 and precision not in load_backend(BATCH_BACKEND).target_precisions(config.device):
        raise BadRequest(
            f"--batch: several sequences are decoded at once by {BATCH_BACKEND}, which has no {precision.value} target "
            f"on {config.device}; leave --batch out, or choose another --target-precision"
        )


def check_kernel_tuning(config: TuneConfig) -> None:
    """BadRequest if kernels are to be tuned that no winner of this run can have."""
    if config.tune_kernels and TUNED_BACKEND not in config.backend:
        raise BadRequest(
            f"--tune-kernels tunes TVM programs, and --backend is {','.join(config.backend)}: add {TUNED_BACKEND}, "
            "or leave --tune-kernels out"
        )
    if config.tune_kernels and config.device != "cpu":
        raise BadRequest(
            f"--tune-kernels tunes programs for the CPU, and --device is {config.device}: leave --tune-kernels out"
        )
