"""Teams of processes make the steps of a single one; here the processes are threads, and their sums one of NumPy."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autotune.proxy import team as team_module
from autotune.proxy.base import Axes
from autotune.proxy.batches import Batches
from autotune.proxy.network import Network, head_logits, hidden_states, network_of
from autotune.proxy.parts import draw_part, whole_part
from autotune.proxy.place import Place
from autotune.proxy.team import Team
from autotune.proxy.training import Companions, Recipe, Trained, part_loss, train
from autotune.traces import Traces
from autotune.weights import ModelWeights

STEPS = 12
RECIPE = Recipe(learning_rate=3e-3, batch_tokens=96, warmup_steps=3)


class Meeting:
    """Adds up what all threads bring."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=30)
        self._brought: dict[int, Tensor] = {}

    def add(self, rank: int, numbers: Tensor) -> Tensor:
        self._brought[rank] = numbers.clone()
        self._barrier.wait()
        total = torch.stack([self._brought[key] for key in sorted(self._brought)]).sum(0)
        self._barrier.wait()
        return total


@dataclass(frozen=True)
class ThreadTeam(Team):
    meeting: Meeting | None = None

    def _sum(self, numbers: Tensor) -> Tensor:
        assert self.meeting is not None
        return self.meeting.add(self.rank, numbers)


def trained_by(
    count: int, source: ModelWeights, traces: Traces, axes: Axes, folder: Path | None = None, bf16: bool = False
) -> list[Trained]:
    """What each of `count` threads holds after an elastic training with a climbing multiplier beside it."""
    meeting = Meeting(count)

    def member(rank: int) -> Trained:
        team = Team(bf16=bf16) if count == 1 else ThreadTeam(rank=rank, count=count, meeting=meeting)
        network = network_of(source, trainable=True)
        multiplier = torch.zeros(1, requires_grad=True)
        batches = Batches(traces.items, traces.settings, RECIPE.batch_tokens, 3, team)

        def loss_at(step: int) -> Tensor:
            part = draw_part(source.shape, axes, 3, step)
            loss = part_loss(network, batches.at(step), part, 0.0)
            return loss + (multiplier * (network.tensors["norm"].mean() - 1.0)).sum()

        return train(
            network,
            loss_at,
            STEPS,
            RECIPE,
            companions=[Companions({"multiplier": multiplier}, 1e-2, ascend=True)],
            team=team,
            positions_at=batches.positions_at,
            work_folder=folder,
        )

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(member, range(count)))


@pytest.mark.parametrize("count", [2, 3, 13])
def test_a_team_makes_the_steps_of_one_process(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13 are more than a batch has sequences: some have nothing to do, and still end with the same weights."""
    monkeypatch.setattr(team_module, "_BUCKET_NUMBERS", 500)
    (alone,) = trained_by(1, source, greedy_traces, axes)
    together = trained_by(count, source, greedy_traces, axes)
    for name, expected in alone.tensors.items():
        torch.testing.assert_close(together[0].tensors[name], expected, rtol=0, atol=1e-5, msg=name)
        assert all(torch.equal(each.tensors[name], together[0].tensors[name]) for each in together)
    assert not torch.equal(alone.tensors["embed"], network_of(source).tensors["embed"])


def test_only_the_first_of_a_team_writes(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[str] = []

    def write(*_: object) -> None:
        writers.append(threading.current_thread().name)

    monkeypatch.setattr("autotune.proxy.training.write_checkpoint", write)
    trained_by(3, source, greedy_traces, axes, tmp_path)
    assert len(writers) == 1


@given(count=st.integers(1, 9), step=st.integers(0, 40))
def test_shares_of_a_batch_are_the_batch(greedy_traces: Traces, count: int, step: int) -> None:
    def batches(rank: int, count: int) -> Batches:
        return Batches(greedy_traces.items, greedy_traces.settings, 96, 3, Team(rank=rank, count=count))

    whole = batches(0, 1)
    shares = [batches(rank, count) for rank in range(count)]
    positions = [share.positions_at(step) for share in shares]
    assert sum(positions) == whole.positions_at(step) == int((whole.at(step).labels >= 0).sum())
    labels = [share.at(step).labels for share, known in zip(shares, positions, strict=True) if known]
    together = np.sort(np.concatenate([each[each >= 0].numpy() for each in labels]))
    wanted = whole.at(step).labels
    np.testing.assert_array_equal(together, np.sort(wanted[wanted >= 0].numpy()))


def test_products_in_bf16_train_weights_in_fp32(source: ModelWeights, greedy_traces: Traces, axes: Axes) -> None:
    """What CUDA does, on the CPU."""
    (exact,) = trained_by(1, source, greedy_traces, axes)
    (half,) = trained_by(1, source, greedy_traces, axes, bf16=True)
    for name, tensor in half.tensors.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, exact.tensors[name], rtol=0, atol=2 * STEPS * RECIPE.learning_rate)
    assert any(not torch.equal(half.tensors[name], exact.tensors[name]) for name in half.tensors)

    def loss(trained: Trained) -> float:
        network = Network(source.shape, source.numerics, trained.tensors)
        batch = Batches(greedy_traces.items, greedy_traces.settings, 1 << 20, 0).at(0)
        return float(part_loss(network, batch, replace(whole_part(source.shape), layers=(0,)), 0.0))

    assert loss(half) == pytest.approx(loss(exact), rel=0.02)


def test_nothing_of_a_step_stays_on_the_cpu(source: ModelWeights) -> None:
    """On torch's `meta` device, which computes shapes alone and refuses to meet tensors of another device."""
    meta = torch.device("meta")
    network = network_of(source, trainable=True, device=meta)
    tokens = torch.zeros(2, 5, dtype=torch.int64, device=meta)
    logits = head_logits(network, hidden_states(network, tokens))
    assert logits.shape == (2, 5, source.shape.vocab)
    logits.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.device == meta for tensor in network.tensors.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_gpu_trains_what_the_cpu_does(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path: Path
) -> None:
    from autotune.proxy.elastic import ElasticSettings, train_elastic

    settings = ElasticSettings(STEPS * RECIPE.batch_tokens, recipe=RECIPE)
    cpu = train_elastic(source, greedy_traces, axes, settings, tmp_path / "cpu")
    gpu = train_elastic(source, greedy_traces, axes, replace(settings, place=Place("cuda")), tmp_path / "gpu")
    for name, expected in cpu.ordered.arrays.items():
        np.testing.assert_allclose(gpu.ordered.arrays[name], expected, rtol=0, atol=2 * STEPS * RECIPE.learning_rate)
