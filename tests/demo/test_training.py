import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from autotune.demo.job import TrainingRequest, train_demo
from autotune.demo.model import bigram_factors, new_model
from autotune.demo.plan import TrainingPlan, plan_from
from autotune.demo.training import batch
from autotune.errors import BadRequest, Interrupted, TrainingDiverged
from autotune.families import read_checkpoint

Settings = dict[str, int | float]


class Recorder:
    """Records the steps it is shown, and stops before the one given."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self._stop_before = stop_before

    def phase(self, title: str) -> None:
        assert title

    def begin(self, plan: TrainingPlan, step: int) -> None:
        self.first_step = step

    def step(self, step: int, loss: float) -> bool:
        if step == self._stop_before:
            return False
        self.steps.append(step)
        self.losses.append(loss)
        return True


@pytest.fixture
def single_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_training_writes_a_demo_that_transformers_loads(library: Path, tmp_path: Path, settings: Settings) -> None:
    recorder = Recorder()
    folder = train_demo(TrainingRequest(tmp_path / "demo", settings, prompts=10, library=library), recorder)

    assert recorder.steps == list(range(12))
    assert recorder.losses[-1] < recorder.losses[0]
    assert not (folder / "training").exists()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == model.config.eos_token_id == 0
    prompt = json.loads((folder / "prompts.jsonl").read_text().splitlines()[0])["prompt"]
    ids = tokenizer(prompt, return_tensors="pt").input_ids[:, -16:]
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert ids.shape[1] < generated.shape[1] <= ids.shape[1] + 8
    assert read_checkpoint(folder).shape.layers == 2
    facts = json.loads((folder / "facts.json").read_text())
    assert 0.0 < facts["held_out_nats_per_token"] < np.log(280)
    assert facts["held_out_bits_per_byte"] > 0.0
    assert 0.0 <= facts["looping_share"] <= 1.0
    assert facts["steps"] == 12
    assert json.loads((folder / "heldout_files.json").read_text())


@pytest.mark.usefixtures("single_thread")
def test_resumed_training_ends_like_an_uninterrupted_one(library: Path, tmp_path: Path, settings: Settings) -> None:
    whole = train_demo(TrainingRequest(tmp_path / "whole", settings, prompts=2, library=library), Recorder())
    out = tmp_path / "resumed"
    with pytest.raises(Interrupted, match=r"stopped at step 5 of 12; .* --resume"):
        train_demo(TrainingRequest(out, settings, prompts=2, library=library), Recorder(stop_before=5))
    recorder = Recorder()
    resumed = train_demo(TrainingRequest(out, {}, resume=True, prompts=2, library=library), recorder)

    assert recorder.first_step == 5
    assert recorder.steps == list(range(5, 12))
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_divergence_keeps_the_last_good_weights(library: Path, tmp_path: Path, settings: Settings) -> None:
    out = tmp_path / "demo"
    request = TrainingRequest(out, {**settings, "learning_rate": 1e38}, prompts=2, library=library)
    with pytest.raises(TrainingDiverged, match="lower --learning-rate"):
        train_demo(request, Recorder())

    weights = read_checkpoint(out)
    assert all(np.isfinite(array).all() for array in weights.arrays.values())
    assert json.loads((out / "facts.json").read_text())["diverged_at_step"] >= 1


@pytest.mark.slow
def test_two_processes_train_one_model(library: Path, tmp_path: Path, settings: Settings) -> None:
    request = TrainingRequest(tmp_path / "demo", {**settings, "processes": 2}, prompts=2, library=library)
    recorder = Recorder()
    train_demo(request, recorder)

    assert recorder.steps == list(range(6))
    assert recorder.losses[-1] < recorder.losses[0]


def test_budget_in_minutes_becomes_tokens(library: Path, tmp_path: Path, settings: Settings) -> None:
    del settings["tokens"]
    out = tmp_path / "demo"
    with pytest.raises(Interrupted):
        train_demo(TrainingRequest(out, settings, minutes=1.0, library=library), Recorder(stop_before=0))
    plan = json.loads((out / "training" / "plan.json").read_text())
    recorder = Recorder(stop_before=0)
    with pytest.raises(Interrupted):
        train_demo(TrainingRequest(out, settings, minutes=1.0, resume=True, library=library), recorder)

    assert plan["tokens"] > 64 * 12
    assert json.loads((out / "training" / "plan.json").read_text()) == plan


def test_bad_requests_leave_nothing_behind(library: Path, tmp_path: Path, settings: Settings) -> None:
    def attempt(out: Path, **changes: object) -> None:
        train_demo(TrainingRequest(out, settings, library=library, **changes), Recorder())  # type: ignore[arg-type]

    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(BadRequest, match="is a file"):
        attempt(tmp_path / "file")
    with pytest.raises(BadRequest, match="holds files already"):
        attempt(tmp_path / "other")
    with pytest.raises(BadRequest, match="nothing to resume"):
        attempt(tmp_path / "other", resume=True)
    with pytest.raises(BadRequest, match="cannot write"):
        attempt(tmp_path / "file" / "demo")
    with pytest.raises(BadRequest, match="unknown device"):
        attempt(tmp_path / "new", device="tpu")
    with pytest.raises(BadRequest, match="not both"):
        attempt(tmp_path / "new", minutes=1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_a_bad_request(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(BadRequest, match="finds no GPU"):
        train_demo(TrainingRequest(tmp_path / "demo", settings, device="cuda"), Recorder())


def test_unfinished_training_is_neither_overwritten_nor_changed(
    library: Path, tmp_path: Path, settings: Settings
) -> None:
    out = tmp_path / "demo"
    with pytest.raises(Interrupted):
        train_demo(TrainingRequest(out, settings, library=library), Recorder(stop_before=0))

    with pytest.raises(BadRequest, match="add --resume"):
        train_demo(TrainingRequest(out, settings, library=library), Recorder())
    with pytest.raises(BadRequest, match=r"has --hidden 16, not 32"):
        train_demo(TrainingRequest(out, {"hidden": 32}, resume=True, library=library), Recorder())


def test_batches_depend_on_seed_step_and_rank_alone(settings: Settings) -> None:
    plan = plan_from(settings)
    stream = np.arange(1000, dtype=np.int32)

    first = batch(stream, plan, 3, 0)
    assert first.shape == (4, 17)
    assert (np.diff(first, axis=1) == 1).all()
    assert (first == batch(stream, plan, 3, 0)).all()
    assert (first != batch(stream, plan, 4, 0)).any()
    assert (first != batch(stream, plan, 3, 1)).any()


def test_new_model_predicts_by_bigrams(settings: Settings) -> None:
    """With full rank, the untrained model's loss is the corpus's bigram entropy, far below its unigram entropy."""
    rng = np.random.default_rng(0)
    chain = np.empty(20_000, np.int32)
    chain[0] = 0
    for at in range(1, len(chain)):
        chain[at] = (3 * chain[at - 1] + rng.integers(0, 2)) % 60
    shape = plan_from({**settings, "vocab": 280, "hidden": 62, "heads": 2, "head_dim": 8}).shape
    model = new_model(shape, 32, chain, seed=0).eval()
    rows = torch.from_numpy(chain[:3200].astype(np.int64)).view(100, 32)
    with torch.no_grad():
        logits = model(input_ids=rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()

    assert loss < 1.2  # two equally likely successors: log 2 = 0.69; one of 60 tokens: log 60 = 4.09
    embedding, head = bigram_factors(chain, 280, 62)
    assert embedding.shape == head.shape == (280, 62)
