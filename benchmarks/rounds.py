"""How close rounds come to what their parts allow: the measured speed-up beside TAR / ((burst + verify) / step).

    python -m benchmarks.rounds --artifact autotune-run/artifact [--out FILE] [--lookaheads 2,4] [--prompts 24]

The artifact's draft and target are compiled by every pair of compilers, in fp32.  Per pair, greedy and at temperature
0.7: first tables of the burst of k steps, the verification of k + 1 positions and the step alone, each measured behind
the other model, as in a round; then the pair and the target alone decode the prompts in turn (A B B A …).  `reached` is
the measured speed-up over TAR / ((burst + verify) / step) from the tables and the measured TAR; `overhead` is the share
of a round spent outside both models.  Both with their spread over the repeats.
"""

import argparse
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from autotune.artifact import CHECKPOINT_FOLDER, verify_runnable
from autotune.candidate import Drafting
from autotune.compile.base import CompileSettings, build_program
from autotune.errors import BadRequest
from autotune.families import read_checkpoint
from autotune.measure import sample_seconds, verifications
from autotune.number_formats import Precision
from autotune.results import MeasureSettings
from autotune.runtime.decode import Decoder, DecodeRequest, Statistics
from autotune.runtime.drafter import ModelDrafter
from autotune.runtime.session import Session, open_session
from autotune.sampling import SamplingSettings
from autotune.targets import resolve_target
from autotune.weights import ModelWeights
from autotune.workload import BUILTIN, read_prompts, split_prompts, tokenize
from benchmarks.record import machine, spread, write_record

BACKENDS = ("onnxruntime", "tvm")
TEMPERATURES = (0.0, 0.7)
CAPACITY_TOKENS, CONTEXT_TOKENS, NEW_TOKENS = 256, 96, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: standard output)")
    parser.add_argument("--lookaheads", default="2,4")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=6)
    arguments = parser.parse_args()
    facts = machine()
    manifest = verify_runnable(arguments.artifact)
    if manifest.draft is None:
        raise BadRequest(f"{arguments.artifact} has no draft")
    target = resolve_target(manifest.target.id)
    held_out = split_prompts(
        tuple(prompt for prompt in read_prompts(BUILTIN) if not prompt.only_train), manifest.provenance.seed
    ).validate
    chosen = [held_out[index * len(held_out) // arguments.prompts] for index in range(arguments.prompts)]
    prompts = [each.ids.tolist() for each in tokenize(chosen, target.open_tokenizer(), CAPACITY_TOKENS - NEW_TOKENS)]
    lookaheads = [int(each) for each in arguments.lookaheads.split(",")]
    draft = read_checkpoint(arguments.artifact / CHECKPOINT_FOLDER)
    with tempfile.TemporaryDirectory() as name:
        programs = {
            (role, backend): compiled(weights, backend, longest, Path(name, role + backend))
            for role, weights, longest in (("target", target.read_weights(), 0), ("draft", draft, max(lookaheads)))
            for backend in BACKENDS
        }
        rows = [
            row(programs, pair, lookahead, SamplingSettings(temperature), prompts, arguments.repeats)
            for pair, lookahead, temperature in product(product(BACKENDS, BACKENDS), lookaheads, TEMPERATURES)
        ]
    results = {"draft": str(draft.shape), "prompts": len(prompts), "new_tokens": NEW_TOKENS, "rounds": rows}
    write_record("rounds", facts, results, ("numpy",), arguments.out)


def compiled(weights: ModelWeights, backend: str, longest_burst: int, folder: Path) -> Path:
    """The program of a model."""
    settings = CompileSettings(Precision.FP32, CAPACITY_TOKENS, longest_burst=longest_burst)
    build_program(backend, weights, settings, folder)
    return folder


def row(
    programs: dict[tuple[str, str], Path],
    backends: tuple[str, str],
    lookahead: int,
    sampling: SamplingSettings,
    prompts: Sequence[Sequence[int]],
    repeats: int,
) -> dict[str, Any]:
    """One pair of compilers (the target's, the draft's) at a lookahead."""
    target, draft = (open_session(programs[key], 1) for key in zip(("target", "draft"), backends, strict=True))
    draft.drafting = Drafting.BURST if backends[1] == "tvm" else Drafting.CALLS
    parts = tables(target, draft, lookahead, sampling)
    pair, alone = Decoder(target, ModelDrafter(draft), lookahead), Decoder(target, None, 0)
    reached, speedups, overheads = [], [], []
    for repeat in range(repeats + 1):
        counted = {decoder: Statistics() for decoder in (pair, alone)}
        for index, prompt in enumerate(prompts):
            request = DecodeRequest(prompt, NEW_TOKENS, sampling, seed=repeat * len(prompts) + index)
            for decoder in (pair, alone) if (index + repeat) % 2 else (alone, pair):
                counted[decoder].add(decoder.decode(request)[1])
        done, plain = counted[pair], counted[alone]
        if repeat:  # the first is to warm up
            speedups.append(done.tokens_per_s / plain.tokens_per_s)
            allowed = done.tokens_per_round * parts["step_s"] / (parts["burst_s"] + parts["verify_s"])
            reached.append(speedups[-1] / allowed)
            overheads.append(done.overhead_s / done.decode_s)
    target.close()
    draft.close()
    return {
        "target": backends[0],
        "draft": backends[1],
        "lookahead": lookahead,
        "temperature": sampling.temperature,
        **parts,
        "speedup": spread(speedups),
        "reached": spread(reached),
        "overhead": spread(overheads),
    }


def tables(target: Session, draft: Session, lookahead: int, sampling: SamplingSettings) -> dict[str, float]:
    """Median seconds of a step, a verification and a burst, each behind the other model's part of a round."""
    checks = verifications(target, lookahead, CONTEXT_TOKENS, sampling, seed=0)
    draft.greedy([1] * CONTEXT_TOKENS, 0)

    def burst() -> object:
        if sampling.greedy:
            return draft.burst([1], CONTEXT_TOKENS - 1, lookahead)
        return draft.sampled_burst([1], CONTEXT_TOKENS - 1, lookahead, sampling, [0.5] * lookahead)

    settings = MeasureSettings(CONTEXT_TOKENS, threads=1, min_time_s=1.0)
    step, verify = checks[0], checks[lookahead]
    samples = sample_seconds([step, verify, burst], settings, before=[step, burst, verify])
    return dict(zip(("step_s", "verify_s", "burst_s"), (spread(each)["median"] for each in samples), strict=True))


if __name__ == "__main__":
    main()
