"""One demo training from request to finished folder: prepare or resume, train, examine, write."""

import json
import logging
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from autotune.cache import new_folder
from autotune.demo.corpus import Corpus, read_corpus, standard_library
from autotune.demo.facts import examine
from autotune.demo.model import llama_config, new_model
from autotune.demo.plan import Settings, TrainingPlan, plan_from, settings_of
from autotune.demo.prompts import cut_prompts, write_prompts
from autotune.demo.state import load_state, new_optimizer, save_state
from autotune.demo.tokens import END_ID, encode, train_tokenizer, write_tokenizer
from autotune.demo.training import Outcome, TrainingFiles, run_training
from autotune.errors import BadRequest, Interrupted, TrainingDiverged, unknown_name

logger = logging.getLogger(__name__)

_PLAN = TypeAdapter(TrainingPlan)
_TRIAL_STEPS, _TRIAL_WARMUP_STEPS = 14, 4
_LARGEST_FP16 = 65504.0


@dataclass(frozen=True)
class TrainingRequest:
    """What the user asked for; `settings` holds only what was asked for explicitly."""

    out: Path
    settings: Settings
    minutes: float | None = None
    device: str = "cpu"
    resume: bool = False
    prompts: int = 400
    train_prompts: int = 1600
    """Prompts cut from the training documents, for proxies to be trained on."""
    library: Path | None = None
    """A folder of Python source to train on; None: the running Python's standard library."""


class Watcher(Protocol):
    """Follows a training from outside."""

    def phase(self, title: str) -> None:
        """Something that takes a while has begun."""

    def begin(self, plan: TrainingPlan, step: int) -> None:
        """Training begins, or goes on, at this step."""

    def step(self, step: int, loss: float) -> bool:
        """Called before each update with the loss; False stops the training, to be resumed later."""


def train_demo(request: TrainingRequest, watcher: Watcher) -> Path:
    """The folder of a complete, newly trained demo.

    Raises Interrupted where the watcher stopped it, and TrainingDiverged, once the last good model is written, where
    the loss was no longer a number.
    """
    _check_device(request)
    out = request.out.expanduser().resolve()
    files = TrainingFiles(out / "training")
    watcher.phase("reading the library")
    corpus = read_corpus(request.library or standard_library())
    plan = _resume(request, files) if _holds_training(request, files) else _prepare(request, files, corpus, watcher)
    watcher.begin(plan, _step_of(files, plan))
    outcome = run_training(plan, files, request.device, watcher.step)
    if outcome.stopped:
        raise Interrupted(f"stopped at step {outcome.step} of {plan.steps}; the same command with --resume continues")
    watcher.phase("examining the model")
    _write_demo(request, out, files, plan, outcome, corpus)
    if outcome.diverged_at_step is not None:
        raise TrainingDiverged(
            f"the loss was no longer a number at step {outcome.diverged_at_step}; {out} holds the model after step "
            f"{outcome.step}: train again with a lower --learning-rate than {plan.learning_rate:g}"
        )
    return out


def _check_device(request: TrainingRequest) -> None:
    if request.device not in ("cpu", "cuda"):
        raise unknown_name("device", request.device, ("cpu", "cuda"))
    if request.device == "cuda" and not torch.cuda.is_available():
        raise BadRequest(f"torch {torch.__version__} finds no GPU: use --device cpu, or a CUDA build of torch")
    if request.device == "cuda" and request.settings.get("processes", 1) != 1:
        raise BadRequest("--processes is for the CPU: leave it out with --device cuda")


def _holds_training(request: TrainingRequest, files: TrainingFiles) -> bool:
    """Whether there is a training to resume; BadRequest if the folder holds what must not be touched."""
    out = files.folder.parent
    if out.exists() and not out.is_dir():
        raise BadRequest(f"{out} is a file: choose a folder with --out")
    unfinished = files.state.exists()
    if unfinished and not request.resume:
        raise BadRequest(f"{out} holds an unfinished training: add --resume to continue it, or choose another --out")
    if not unfinished and out.exists() and any(out.iterdir()):
        what = "nothing to resume" if request.resume else "files already"
        raise BadRequest(f"{out} holds {what}: choose an empty folder with --out")
    return unfinished


def _resume(request: TrainingRequest, files: TrainingFiles) -> TrainingPlan:
    try:
        plan = _PLAN.validate_json((files.folder / "plan.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise BadRequest(f"{files.folder}/plan.json cannot be read ({error}): train into a fresh --out") from error
    known = settings_of(plan)
    for name, value in request.settings.items():
        if value != known[name]:
            option = f"--{name.replace('_', '-')}"
            raise BadRequest(
                f"the training in {files.folder.parent} has {option} {known[name]}, not {value}: leave {option} out"
            )
    return plan


def _prepare(request: TrainingRequest, files: TrainingFiles, corpus: Corpus, watcher: Watcher) -> TrainingPlan:
    """The plan of a new training, once its folder holds all it needs (or, if anything fails, does not exist)."""
    if request.minutes is not None and "tokens" in request.settings:
        raise BadRequest("give --tokens or --minutes, not both")
    if request.minutes is not None and not request.minutes > 0:
        raise BadRequest(f"--minutes must be positive, not {request.minutes}")
    plan = plan_from(request.settings)
    with new_folder(files.folder) as folder:
        watcher.phase("training the tokenizer")
        tokenizer = train_tokenizer(corpus.training, plan.shape.vocab)
        write_tokenizer(tokenizer, plan.context_tokens, folder)
        watcher.phase("encoding the library")
        order = np.random.default_rng(plan.seed).permutation(len(corpus.training))
        stream = encode(tokenizer, [corpus.training[index] for index in order])
        if len(stream) <= plan.context_tokens:
            raise BadRequest(f"the library has only {len(stream)} tokens, fewer than --context {plan.context_tokens}")
        beside = TrainingFiles(folder)
        np.save(beside.tokens, stream)
        watcher.phase("initialising the model")
        model = new_model(plan.shape, plan.context_tokens, stream, plan.seed)
        optimizer = new_optimizer(model, plan.learning_rate, plan.weight_decay)
        save_state(beside.state, model, optimizer, 0, 0.0)
        if request.minutes is not None:
            watcher.phase("timing a few steps")
            rate = _tokens_per_s(plan, beside, request.device)
            plan = replace(plan, tokens=int(rate * 60.0 * request.minutes))
        (folder / "plan.json").write_bytes(_PLAN.dump_json(plan, indent=2))
    return plan


def _tokens_per_s(plan: TrainingPlan, files: TrainingFiles, device: str) -> float:
    """How fast this machine trains: a budget in minutes becomes a fixed number of tokens before training begins."""
    trial_files = replace(files, state_name="timing.safetensors")
    shutil.copyfile(files.state, trial_files.state)
    times_s: list[float] = []

    def watch(step: int, loss: float) -> bool:
        times_s.append(time.perf_counter())
        return True

    run_training(replace(plan, tokens=_TRIAL_STEPS * plan.step_tokens), trial_files, device, watch)
    trial_files.state.unlink()
    timed = times_s[_TRIAL_WARMUP_STEPS:]
    if len(timed) < 2:
        raise BadRequest("the first steps diverged: use a lower --learning-rate")
    return plan.step_tokens * (len(timed) - 1) / (timed[-1] - timed[0])


def _step_of(files: TrainingFiles, plan: TrainingPlan) -> int:
    return load_state(files.state, LlamaForCausalLM(llama_config(plan.shape, plan.context_tokens)))[0]


def _write_demo(
    request: TrainingRequest, out: Path, files: TrainingFiles, plan: TrainingPlan, outcome: Outcome, corpus: Corpus
) -> None:
    """Replace the training's folder by the finished demo."""
    disable_progress_bar()
    model = LlamaForCausalLM(llama_config(plan.shape, plan.context_tokens))
    load_state(files.state, model)
    model.generation_config.pad_token_id = END_ID
    tokenizer = Tokenizer.from_file(str(files.folder / "tokenizer.json"))
    prompts = cut_prompts(corpus.held_out, tokenizer, request.prompts)
    learned = [document for document in corpus.training if not document.is_test]
    train_prompts = cut_prompts(learned, tokenizer, request.train_prompts)
    examined = examine(model.to(request.device), tokenizer, corpus.held_out, [each.prompt for each in prompts])
    facts = {
        "parameters": plan.shape.parameters,
        **asdict(examined),
        "tokens": outcome.step * plan.step_tokens,
        "steps": outcome.step,
        "seconds": round(outcome.seconds, 1),
        "diverged_at_step": outcome.diverged_at_step,
        "device": request.device,
        "settings": dict(settings_of(plan)),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "transformers")},
    }
    with new_folder(out) as folder:
        _half_where_it_fits(model.cpu()).save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)
        write_tokenizer(tokenizer, plan.context_tokens, folder)
        write_prompts(prompts, folder / "prompts.jsonl")
        write_prompts(train_prompts, folder / "train_prompts.jsonl", only_train=True)
        _write_json(folder / "heldout_files.json", [document.path for document in corpus.held_out])
        _write_json(folder / "facts.json", facts)
        if request.library is None:
            notice = package_files("autotune.demo.data") / "NOTICE"
            (folder / "NOTICE").write_bytes(notice.read_bytes())


def _half_where_it_fits(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model in fp16, or as it is if a weight is beyond fp16's range."""
    largest = max(float(weight.detach().abs().max()) for weight in model.parameters())
    return model.half() if largest <= _LARGEST_FP16 else model


def _write_json(path: Path, value: dict[str, object] | Sequence[str]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
