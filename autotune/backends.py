"""Which backends a run uses where the user named none, and what those it uses cannot be asked for."""

from autotune.compile.base import load_backend
from autotune.config import TuneConfig
from autotune.errors import BadRequest

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
