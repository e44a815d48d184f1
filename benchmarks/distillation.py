"""Which loss drafts are best distilled with, for greedy and sampled workloads: `autotune.proxy.loss_choice`.

    python -m benchmarks.distillation [--out FILE] [--temperatures 0,0.7,1] [--losses kl,ce] [--steps 100] [--seeds 2]

Drafts of the demo are cut from it by importance and trained on its traces: the same start, batches and number of steps
for every loss.  *lightly pruned* and *pruned* drafts start there; a *recovered* one was trained with KL for as many
steps before, as what is finished was trained with all other shapes.  Acceptance is the mean probability that a drafted
token is accepted, on the held-out tenth of the training traces; TAR(4) is the tokens per round with four drafted.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from autotune.acceptance import tokens_per_round
from autotune.config import make_config
from autotune.programs import compile_target
from autotune.progress import LoggingObserver
from autotune.proxy.batches import Batches
from autotune.proxy.criteria import calibrate
from autotune.proxy.holdout import split_held_out
from autotune.proxy.loss_choice import BEST_LOSS, Loss
from autotune.proxy.network import Network, network_of
from autotune.proxy.parts import whole_part
from autotune.proxy.prune import PrunedEstimator, calibration_sequences
from autotune.proxy.score_traces import acceptance_of
from autotune.proxy.training import Recipe, part_loss, train
from autotune.recording import Recorder
from autotune.request import Request, resolve
from autotune.runtime.session import open_session
from autotune.traces import Traces
from autotune.weights import ModelWeights
from benchmarks.record import machine, write_record

LOOKAHEAD = 4
BATCH_TOKENS = 512


@dataclass(frozen=True)
class Case:
    """A draft to be trained."""

    name: str
    changes: dict[str, Any]
    """Of the source's shape."""
    learning_rate: float
    recovered: bool = False


CASES = (
    Case("lightly pruned: all layers, half the FFN", {"ffn": 176}, 1e-3),
    Case("pruned: 2 layers, half the width", {"layers": 2, "heads": 2, "kv_heads": 2, "hidden": 64}, 2e-3),
    Case("recovered: 2 layers, whole width", {"layers": 2}, 2e-3, recovered=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--temperatures", default="0,0.7,1")
    parser.add_argument("--losses", default="ce,kl,tv,log,ce+kl")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--trace-tokens", type=int, default=40_000, help="to learn from and judge by")
    arguments = parser.parse_args()
    facts = machine()
    torch.set_num_threads(1)
    losses = [Loss(name) for name in arguments.losses.split(",")]
    began = time.perf_counter()
    workloads = {}
    for temperature in arguments.temperatures.split(","):
        request = resolve(make_config({"temperature": float(temperature), "backend": ("onnxruntime",), "threads": 1}))
        traces = recorded(request, arguments.trace_tokens)
        workloads[f"temperature {temperature}"] = study(request, traces, losses, arguments.steps, arguments.seeds)
    results = {
        "settings": {
            "steps": arguments.steps,
            "batch_tokens": BATCH_TOKENS,
            "seeds": arguments.seeds,
            "lookahead": LOOKAHEAD,
        },
        "default_losses": BEST_LOSS,
        "workloads": workloads,
        "wall_s": time.perf_counter() - began,
    }
    write_record("distillation", facts, results, ("numpy", "torch"), arguments.out)


def recorded(request: Request, tokens: int) -> Traces:
    """Training traces of the request's workload with the target's likeliest tokens, kept in the cache."""
    program = compile_target(request.whole_target, "onnxruntime", request.context_tokens)
    recorder = Recorder(
        target=request.text_target,
        settings=request.config.sampling,
        max_new_tokens=request.config.max_new_tokens,
        context_tokens=request.context_tokens,
        seed=request.config.seed,
        open_model=lambda: open_session(program, 1),
        on_progress=lambda done, total: None,
        computed_by=f"{request.device.kind} {request.target_precision}",
    )
    LoggingObserver().phase("Recording traces")
    return recorder.from_prompts(request.config.prompts, tokens).train


def study(request: Request, traces: Traces, losses: Sequence[Loss], steps: int, seeds: int) -> dict[str, Any]:
    """What each draft came to by each loss, and the mean over drafts and seeds."""
    learned, judged = split_held_out(traces)
    source = request.whole_source.read_weights()
    pruned = PrunedEstimator(source, calibrate(source, calibration_sequences(learned)))
    drafts: dict[str, Any] = {}
    for case in CASES:
        draft = pruned.weights(replace(source.shape, **case.changes))
        if case.recovered:
            draft = distil(
                draft, learned, Loss.KL, Recipe(learning_rate=3e-3, batch_tokens=BATCH_TOKENS), steps, seed=seeds
            )
        recipe = Recipe(learning_rate=case.learning_rate, batch_tokens=BATCH_TOKENS)
        after = {
            loss: [judge(distil(draft, learned, loss, recipe, steps, seed), judged) for seed in range(seeds)]
            for loss in losses
        }
        drafts[case.name] = {"before": judge(draft, judged), "after": {loss.value: after[loss] for loss in losses}}
    return {
        "learned_tokens": learned.tokens,
        "judged_tokens": judged.tokens,
        "drafts": drafts,
        "summary": {loss.value: _summary([each["after"][loss.value] for each in drafts.values()]) for loss in losses},
    }


def distil(draft: ModelWeights, traces: Traces, loss: Loss, recipe: Recipe, steps: int, seed: int) -> ModelWeights:
    """The draft after so many steps of training."""
    network = network_of(draft, trainable=True)
    batches = Batches(traces.items, traces.settings, recipe.batch_tokens, seed, loss=loss)
    part, temperature = whole_part(draft.shape), traces.settings.temperature
    trained = train(network, lambda step: part_loss(network, batches.at(step), part, temperature), steps, recipe)
    return Network(draft.shape, draft.numerics, trained.tensors).to_weights()


def judge(draft: ModelWeights, traces: Traces) -> dict[str, float]:
    """Mean acceptance and tokens per round."""
    accepted = acceptance_of(draft, traces)
    return {
        "acceptance": float(np.concatenate(accepted).mean()),
        f"tokens_per_round_{LOOKAHEAD}": float(tokens_per_round(accepted, LOOKAHEAD)[LOOKAHEAD]),
    }


def _summary(cases: Sequence[Sequence[dict[str, float]]]) -> dict[str, float]:
    """Means over the drafts and seeds, and the mean range of acceptance over seeds."""
    keys = cases[0][0]
    means = {key: mean(judged[key] for seeds in cases for judged in seeds) for key in keys}
    ranges = [np.ptp([judged["acceptance"] for judged in seeds]) for seeds in cases]
    return means | {"acceptance_range_over_seeds": float(np.mean(ranges))}


if __name__ == "__main__":
    main()
