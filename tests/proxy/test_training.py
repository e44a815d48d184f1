from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from autotune.errors import TrainingDiverged
from autotune.proxy.batches import Batch
from autotune.proxy.loss_choice import Loss
from autotune.proxy.network import Network, head_logits, hidden_states, network_of
from autotune.proxy.parts import whole_part
from autotune.proxy.training import Companions, Recipe, Trained, part_loss, torch_threads, train
from autotune.weights import ModelWeights

STEPS = 23
RECIPE = Recipe(learning_rate=1e-2, checkpoint_steps=4, warmup_steps=3)


class Killed(Exception):
    """Stands for the end of the process."""


def loss_of(network: Network, step: int) -> Tensor:
    """A loss that depends on the step and touches only some of the tensors in each."""
    tokens = torch.from_numpy(np.random.default_rng(step).integers(0, 48, (3, 8)))
    part = whole_part(network.shape)
    layers = part.layers if step % 2 else part.layers[:1]
    return part_loss(network, Batch(tokens, tokens.roll(-1, 1)), replace(part, layers=layers), 0.0)


def run(source: ModelWeights, folder: Path | None, killed_after: int | None = None, recipe: Recipe = RECIPE) -> Trained:
    network = network_of(source, trainable=True)

    def on_progress(share: float) -> None:
        if killed_after is not None and round(share * STEPS) == killed_after:
            raise Killed

    return train(
        network, lambda step: loss_of(network, step), STEPS, recipe, work_folder=folder, on_progress=on_progress
    )


def test_training_lowers_the_loss_and_repeats_exactly(source: ModelWeights) -> None:
    first, second = run(source, None), run(source, None)
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    trained = Network(source.shape, source.numerics, first.tensors)
    assert sum(loss_of(trained, step).item() for step in range(STEPS)) < 0.9 * sum(
        loss_of(network_of(source), step).item() for step in range(STEPS)
    )


@pytest.mark.parametrize("killed_after", [1, 4, 10, 22])
def test_a_killed_training_continues_to_the_same_weights(
    source: ModelWeights, tmp_path: Path, killed_after: int
) -> None:
    whole = run(source, None)
    with pytest.raises(Killed):
        run(source, tmp_path, killed_after)
    continued = run(source, tmp_path)
    for name, expected in whole.tensors.items():
        assert torch.equal(continued.tensors[name], expected), name


def test_a_finished_training_is_not_repeated(source: ModelWeights, tmp_path: Path) -> None:
    done = run(source, tmp_path)
    network = network_of(source, trainable=True)
    again = train(network, lambda step: pytest.fail("no step is left"), STEPS, RECIPE, work_folder=tmp_path)
    assert all(torch.equal(again.tensors[name], done.tensors[name]) for name in done.tensors)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_divergence_keeps_the_last_checkpoint(
    source: ModelWeights, poison: float, caplog: pytest.LogCaptureFixture
) -> None:
    network = network_of(source, trainable=True)
    asked: list[int] = []

    def loss_at(step: int) -> Tensor:
        asked.append(step)
        return loss_of(network, step) * (poison if step == 10 else 1.0)

    stopped = train(network, loss_at, STEPS, RECIPE)
    assert stopped.diverged_at_step == 10
    assert asked[-1] == 10
    assert "step 10" in caplog.text
    assert all(torch.isfinite(tensor).all() for tensor in stopped.tensors.values())
    # What is kept is the state of step 8, the last multiple of checkpoint_steps.
    eight = network_of(source, trainable=True)
    kept = train(eight, lambda step: loss_of(eight, step) if step < 8 else _nan(eight), STEPS, RECIPE)
    assert all(torch.equal(kept.tensors[name], stopped.tensors[name]) for name in kept.tensors)


def _nan(network: Network) -> Tensor:
    return network.tensors["norm"].sum() * float("nan")


def test_divergence_before_any_checkpoint_is_an_error(source: ModelWeights) -> None:
    network = network_of(source, trainable=True)
    with pytest.raises(TrainingDiverged, match="step 2 of 23: try another --seed"):
        train(network, lambda step: loss_of(network, step) if step < 2 else _nan(network), STEPS, RECIPE)


def test_a_reckless_learning_rate_diverges_instead_of_handing_out_nan(source: ModelWeights) -> None:
    with pytest.raises(TrainingDiverged):
        run(source, None, recipe=Recipe(learning_rate=1e30, checkpoint_steps=4))


def test_the_loss_is_cross_entropy_at_the_workloads_temperature(source: ModelWeights) -> None:
    network = network_of(source)
    tokens, labels = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[7, -100, 9], [11, 12, -100]])
    log_probabilities = torch.log_softmax(head_logits(network, hidden_states(network, tokens)) / 0.5, -1)
    expected = -torch.stack([log_probabilities[i, j, labels[i, j]] for i, j in ((0, 0), (0, 2), (1, 0), (1, 1))]).mean()
    loss = part_loss(network, Batch(tokens, labels), whole_part(source.shape), 0.5)
    torch.testing.assert_close(loss, expected)


def test_alternatives_are_learned_where_there_are_labels_or_not(source: ModelWeights) -> None:
    network, part = network_of(source), whole_part(source.shape)
    tokens, labels = torch.tensor([[1, 2, 3]]), torch.tensor([[-100, 7, -100]])
    alternatives = torch.tensor([[[8, 9], [-1, -1], [-1, -1]]])
    logprobs = torch.tensor([[[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]]]).log()
    log_probabilities = torch.log_softmax(head_logits(network, hidden_states(network, tokens)), -1)[0]
    entropy = -np.log(0.5)
    expected = (-log_probabilities[0, [8, 9]].mean() - entropy - log_probabilities[1, 7]) / 2
    loss = part_loss(network, Batch(tokens, labels, alternatives, logprobs, Loss.KL), part, 0.0)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("loss", Loss)
def test_a_loss_of_weights_that_are_not_numbers_ends_the_training(source: ModelWeights, loss: Loss) -> None:
    """Whatever it clamps, no loss hides that a network is lost: the last good weights are kept."""
    network = network_of(source, trainable=True)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 48, (2, 6)))
    batch = Batch(tokens, tokens.roll(-1, 1), tokens[..., None].roll(-1, 1), torch.full((2, 6, 1), -0.1), loss)

    def loss_at(step: int) -> Tensor:
        if step == 6:
            with torch.no_grad():
                network.tensors["norm"][0] = torch.nan
        return part_loss(network, batch, whole_part(source.shape), 0.7)

    stopped = train(network, loss_at, STEPS, RECIPE)
    assert stopped.diverged_at_step == 6
    assert all(torch.isfinite(tensor).all() for tensor in stopped.tensors.values())


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    recipe = Recipe(learning_rate=1.0, warmup_steps=4, decay_share=0.5)
    rates = [recipe.rate(step, 20) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_companions_have_rates_of_their_own_and_may_climb(source: ModelWeights, tmp_path: Path) -> None:
    """The saddle point of l · (x - 2) + (x - 2)² is at x = 2, which only a multiplier that climbs holds it to."""

    def trained(folder: Path | None, killed_after: int | None = None) -> Trained:
        network = network_of(source, trainable=True)
        slow, fast, multiplier, bounded = (torch.zeros(1, requires_grad=True) for _ in range(4))

        def loss_at(step: int) -> Tensor:
            excess = fast - 2.0
            return loss_of(network, step) + (multiplier * excess + excess.square() + 0.5 * fast + slow - bounded).sum()

        def on_progress(share: float) -> None:
            if killed_after is not None and round(share * 200) == killed_after:
                raise Killed

        companions = [
            Companions({"fast": fast}, 0.1),
            Companions({"slow": slow}, 1e-3),
            Companions({"multiplier": multiplier}, 0.1, ascend=True),
            Companions({"bounded": bounded}, 0.1, bound=0.3),
        ]
        how = Recipe(learning_rate=1e-4, warmup_steps=1, checkpoint_steps=40)
        return train(network, loss_at, 200, how, companions=companions, work_folder=folder, on_progress=on_progress)

    done = trained(None)
    assert done.tensors["fast"].item() == pytest.approx(2.0, abs=0.05)
    assert done.tensors["multiplier"].item() == pytest.approx(-0.5, abs=0.2)
    assert -0.2 < done.tensors["slow"].item() < -0.1
    assert done.tensors["bounded"].item() == pytest.approx(0.3)
    with pytest.raises(Killed):
        trained(tmp_path, killed_after=90)
    continued = trained(tmp_path)
    assert all(torch.equal(continued.tensors[name], done.tensors[name]) for name in done.tensors)
