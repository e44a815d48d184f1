import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from autotune.proxy.batches import IGNORED
from autotune.proxy.loss_choice import Loss
from autotune.proxy.losses import Lesson, distillation_loss

VOCAB = 7
ROWS = arrays(np.float32, (3, VOCAB), elements=st.floats(-8, 8, width=32))
FEW = settings(max_examples=40, deadline=None)
SOFT = [loss for loss in Loss if loss is not Loss.CE]
DIVERGENCES = [Loss.KL, Loss.TV, Loss.LOG, Loss.KL_TV]


def lesson_of(target_logits: Tensor, kept: int) -> Lesson:
    """The `kept` likeliest tokens of every row, with two empty places behind them."""
    logprobs, tokens = torch.log_softmax(target_logits, -1).sort(-1, descending=True)
    empty = (len(tokens), 2)
    return Lesson(
        tokens[:, 0],
        torch.cat([tokens[:, :kept], torch.full(empty, -1)], 1),
        torch.cat([logprobs[:, :kept], torch.full(empty, -torch.inf)], 1),
    )


def value(loss: Loss, draft: Tensor, lesson: Lesson, temperature: float = 1.0) -> float:
    return distillation_loss(loss, draft, lesson, temperature).item()


@FEW
@given(target=ROWS, draft=ROWS)
def test_of_all_tokens_total_variation_is_what_is_not_accepted(target: np.ndarray, draft: np.ndarray) -> None:
    p, q = (torch.softmax(torch.from_numpy(each).double(), -1) for each in (target, draft))
    tv = value(Loss.TV, torch.from_numpy(draft), lesson_of(torch.from_numpy(target), VOCAB))
    assert tv == pytest.approx(1 - torch.minimum(p, q).sum(-1).mean().item(), abs=2e-6)


@FEW
@given(target=ROWS, draft=ROWS)
def test_of_all_tokens_kl_is_the_usual_one(target: np.ndarray, draft: np.ndarray) -> None:
    p, q = (torch.log_softmax(torch.from_numpy(each).double(), -1) for each in (target, draft))
    kl = value(Loss.KL, torch.from_numpy(draft), lesson_of(torch.from_numpy(target), VOCAB))
    assert kl == pytest.approx(F.kl_div(q, p, reduction="batchmean", log_target=True).item(), rel=1e-4, abs=1e-5)


@FEW
@given(target=ROWS, draft=ROWS, kept=st.integers(1, VOCAB), temperature=st.floats(0.3, 2.0))
def test_losses_lie_where_they_should(target: np.ndarray, draft: np.ndarray, kept: int, temperature: float) -> None:
    lesson = lesson_of(torch.from_numpy(target), kept)
    logits = torch.from_numpy(draft)
    values = {loss: value(loss, logits, lesson, temperature) for loss in Loss}
    assert 0.0 <= values[Loss.TV] <= 1.0 + 1e-6
    assert values[Loss.KL] >= -1e-5
    assert values[Loss.LOG] >= values[Loss.TV] - 1e-5
    # Pinsker's inequality, row by row, holds for the means too: the square is convex.
    assert 2 * values[Loss.TV] ** 2 <= values[Loss.KL] + 1e-5
    assert values[Loss.CE_KL] == pytest.approx((values[Loss.CE] + values[Loss.KL]) / 2, rel=1e-4, abs=1e-5)
    assert values[Loss.CE_TV] == pytest.approx(values[Loss.CE] + values[Loss.TV], rel=1e-4, abs=1e-5)


@FEW
@given(target=ROWS, kept=st.integers(1, VOCAB), temperature=st.floats(0.5, 2.0))
def test_a_draft_equal_to_the_target_has_nothing_to_lose(target: np.ndarray, kept: int, temperature: float) -> None:
    logits = torch.from_numpy(target)
    lesson = lesson_of(logits, kept)
    for loss in DIVERGENCES:
        assert value(loss, logits * temperature, lesson, temperature) == pytest.approx(0.0, abs=2e-5), loss


@FEW
@given(target=ROWS, draft=ROWS, kept=st.integers(1, VOCAB - 1))
def test_knowing_less_never_adds_to_a_divergence(target: np.ndarray, draft: np.ndarray, kept: int) -> None:
    less, more = (lesson_of(torch.from_numpy(target).double(), count) for count in (kept, kept + 1))
    logits = torch.from_numpy(draft).double()
    for loss in (Loss.KL, Loss.TV, Loss.LOG):
        assert value(loss, logits, less) <= value(loss, logits, more) + 1e-7, loss


@FEW
@given(target=ROWS, draft=ROWS, kept=st.integers(1, VOCAB), scale=st.sampled_from([1.0, 30.0]))
def test_gradients_are_finite_even_of_distributions_far_apart(
    target: np.ndarray, draft: np.ndarray, kept: int, scale: float
) -> None:
    lesson = lesson_of(torch.from_numpy(target) * scale, kept)
    for loss in Loss:
        logits = (torch.from_numpy(draft) * scale).requires_grad_()
        (gradient,) = torch.autograd.grad(distillation_loss(loss, logits, lesson, 0.7), logits)
        assert torch.isfinite(gradient).all(), loss
        # A constant added to all logits changes no distribution.
        assert gradient.sum(-1).abs().max() < 1e-2, loss


@FEW
@given(draft=ROWS, labels=st.lists(st.integers(0, VOCAB - 1), min_size=3, max_size=3))
def test_of_a_label_alone_the_target_is_certain(draft: np.ndarray, labels: list[int]) -> None:
    logits, lesson = torch.from_numpy(draft), Lesson(torch.tensor(labels))
    probabilities = torch.softmax(logits, -1)[torch.arange(3), labels]
    cross_entropy = F.cross_entropy(logits, lesson.labels).item()
    for loss in (Loss.CE, Loss.KL, Loss.LOG):
        assert value(loss, logits, lesson) == pytest.approx(cross_entropy, rel=1e-4, abs=1e-5), loss
    assert value(Loss.TV, logits, lesson) == pytest.approx(1 - probabilities.mean().item(), abs=1e-5)


@pytest.mark.parametrize("loss", Loss)
def test_positions_of_which_nothing_is_known_take_no_part(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, VOCAB, generator=generator).requires_grad_()
    known = lesson_of(torch.randn(2, VOCAB, generator=generator), 3)
    assert known.tokens is not None
    assert known.logprobs is not None
    nothing = torch.full((1, 5), -1)
    lesson = Lesson(
        torch.tensor([known.labels[0], IGNORED, 5, known.labels[1]]),
        torch.cat([known.tokens[:1], nothing, nothing, known.tokens[1:]]),
        torch.cat([known.logprobs[:1], nothing / 0.0, nothing / 0.0, known.logprobs[1:]]),
    )
    result = distillation_loss(loss, logits, lesson, 0.0)
    (gradient,) = torch.autograd.grad(result, logits)
    assert [bool(row.any()) for row in gradient] == [True, False, True, True]
    # The third position has but its label.
    alone = value(loss, logits[2:3], Lesson(torch.tensor([5])))
    both = value(loss, logits[[0, 3]], known)
    assert result.item() == pytest.approx((2 * both + alone) / 3, rel=1e-5)


@pytest.mark.parametrize("loss", SOFT)
def test_alternatives_teach_where_there_is_no_label(loss: Loss) -> None:
    """As in the prompts of sampled workloads; cross-entropy has nothing to say of them."""
    known = lesson_of(torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(2)), 3)
    unlabelled = Lesson(torch.full((2,), IGNORED), known.tokens, known.logprobs)
    logits = torch.zeros(2, VOCAB, requires_grad=True)
    (gradient,) = torch.autograd.grad(distillation_loss(loss, logits, unlabelled, 1.0), logits)
    assert gradient.any(-1).all()
    assert not unlabelled.known_to(Loss.CE).any()


@FEW
@given(target=ROWS, draft=ROWS)
def test_sharpened_distributions_are_those_of_half_the_temperature(target: np.ndarray, draft: np.ndarray) -> None:
    own, drafts = torch.from_numpy(target), torch.from_numpy(draft)
    sharp = value(Loss.SHARP, drafts, lesson_of(own, VOCAB), 0.8)
    assert sharp == pytest.approx(value(Loss.KL, drafts, lesson_of(own * 2, VOCAB), 0.4), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("loss", [Loss.TV, Loss.LOG, Loss.KL_TV])
def test_descending_raises_the_acceptance(loss: Loss) -> None:
    """A draft that can express two tokens alone: the likeliest of the target's are worth most."""
    target = torch.log(torch.tensor([[0.5, 0.3, 0.1, 0.1, 1e-9, 1e-9, 1e-9]]))
    lesson = lesson_of(target, 4)
    logits = torch.zeros(1, VOCAB, requires_grad=True)
    before = value(Loss.TV, logits, lesson)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(distillation_loss(loss, logits, lesson, 0.5), logits)
        logits = (logits - 0.5 * gradient).detach().requires_grad_()
    assert value(Loss.TV, logits, lesson, 0.5) < 0.2 * before


@pytest.mark.parametrize("loss", SOFT)
def test_the_temperature_scales_the_drafts_logits(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(3)
    lesson = lesson_of(torch.randn(2, VOCAB, generator=generator), 4)
    draft = torch.randn(2, VOCAB, generator=generator)
    assert value(loss, draft, lesson, 0.5) == pytest.approx(value(loss, draft * 2, lesson, 0.0), rel=1e-5)
