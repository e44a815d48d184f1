"""Options of `autotune run` that say how drafts are trained."""

from typing import Annotated

import typer

Proxy = Annotated[
    str | None,
    typer.Option(
        help="What candidates are judged by: pruned (no training), elastic (one training for all), recovered or "
        "learned-mask (each is trained by itself); default: elastic."
    ),
]
ElasticBudget = Annotated[str | None, typer.Option(help="Training of the elastic source; default: 2m.")]
RecoverTokens = Annotated[
    str | None,
    typer.Option(help="Training of each candidate with --proxy recovered or learned-mask; default: 131072 tokens."),
]
Finish = Annotated[str | None, typer.Option(help="Last distillation of each finalist; default: 30s.")]
Loss = Annotated[
    str | None,
    typer.Option(
        help="What trainings of drafts minimise: auto, ce, kl, tv, log, sharp, ce+kl, ce+tv or kl+tv; all but "
        "ce learn from the target's likeliest tokens too, where traces have them; default: auto, the best by "
        "measurement."
    ),
]
TrainDevice = Annotated[
    str | None,
    typer.Option(help="Where proxy and finish train: auto, cpu or cuda; default: auto, cuda where torch has it."),
]
TrainProcesses = Annotated[
    int | None,
    typer.Option(
        help="Processes that share every training step; default: 1 on the CPU, where they share --threads, and one "
        "for each GPU on cuda."
    ),
]
