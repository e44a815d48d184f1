import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import cost_model
from autotune.candidate import Build, DraftShape, Precision
from autotune.cost_model import (
    CONFIDENCE,
    FEWEST_BUILDS,
    FEWEST_TO_BORROW,
    CostModel,
    Observation,
    burst_terms,
    nonnegative_least_squares,
)

CONTEXT, LOOKAHEADS = 128, 6
LAW_S = np.array([4e-6, 3e-6, 8e-6, 9e-6, 2e-5, 7e-6, 0.0, 5e-5])
"""Seconds per unit of each term, of the size that a small draft has."""


def shape(layers: int = 2, heads: int = 4, ffn: int = 256, hidden: int = 128) -> DraftShape:
    return DraftShape(layers, heads, heads, 32, hidden, ffn, vocab=2048)


def build(each: DraftShape, precision: Precision = Precision.FP32, backend: str = "onnxruntime") -> Build:
    return Build(each, backend, precision)


def random_builds(count: int, seed: int = 0, precision: Precision = Precision.FP32) -> list[Build]:
    rng = np.random.default_rng(seed)
    return [
        build(
            shape(int(rng.integers(1, 9)), int(rng.integers(1, 5)), 32 * int(rng.integers(1, 12)), 128),
            precision,
        )
        for _ in range(count)
    ]


def seconds(each: Build, law_s: np.ndarray = LAW_S) -> np.ndarray:
    return burst_terms(each, LOOKAHEADS, CONTEXT) @ law_s


def observe(builds: list[Build], noise: float = 0.0, seed: int = 0, law_s: np.ndarray = LAW_S) -> list[Observation]:
    """Observations of the law with log-normal noise, half of it common to a build's lookaheads."""
    rng = np.random.default_rng(seed)
    observations = []
    for each in builds:
        common, own = rng.normal(size=1), rng.normal(size=LOOKAHEADS)
        noisy = seconds(each, law_s) * np.exp(noise * (common + own) / math.sqrt(2))
        observations.append(Observation(each, tuple(noisy.tolist())))
    return observations


def predicted(model: CostModel, each: Build) -> cost_model.Prediction:
    prediction = model.predict(each, LOOKAHEADS)
    assert prediction is not None
    return prediction


@given(st.lists(st.floats(0.0, 1e-4), min_size=len(LAW_S) - 1, max_size=len(LAW_S) - 1), st.integers(0, 1000))
def test_a_law_without_noise_is_recovered(rest: list[float], seed: int) -> None:
    law_s = np.array([1e-6, *rest])
    model = CostModel(observe(random_builds(30, seed), law_s=law_s), CONTEXT)
    for each in random_builds(10, seed + 1):
        assert predicted(model, each).burst_s == pytest.approx(seconds(each, law_s), rel=0.02)


def test_the_optimistic_bound_holds_for_the_stated_share() -> None:
    held = []
    for seed in range(30):
        model = CostModel(observe(random_builds(12, seed), 0.05, seed), CONTEXT)
        for each, truth in zip(
            random_builds(20, 1000 + seed), observe(random_builds(20, 1000 + seed), 0.05, 1000 + seed), strict=True
        ):
            prediction = predicted(model, each)
            held.append(all(prediction.optimistic_s(k) <= truth.burst_s[k - 1] for k in range(1, LOOKAHEADS + 1)))
    assert np.mean(held) >= CONFIDENCE - 0.02  # 600 draws: two standard errors


def test_the_margin_follows_the_noise() -> None:
    margins = []
    for noise in (0.0, 0.03, 0.1):
        model = CostModel(observe(random_builds(20), noise), CONTEXT)
        margins.append(predicted(model, build(shape())).margin)
    assert margins[0] == cost_model.LEAST_MARGIN
    assert margins[0] < margins[1] < margins[2] < 0.6


def test_the_margin_narrows_as_builds_are_measured() -> None:
    def typical(count: int) -> float:
        models = [CostModel(observe(random_builds(count, seed), 0.05, seed), CONTEXT) for seed in range(20)]
        return float(np.median([predicted(model, build(shape())).margin for model in models]))

    few, some, many = typical(FEWEST_BUILDS), typical(16), typical(60)
    assert few > some > many


def test_the_margin_is_wider_far_from_what_was_measured() -> None:
    shallow = [build(shape(layers, heads, ffn)) for layers in (1, 2) for heads in (2, 4) for ffn in (64, 128, 256)]
    model = CostModel(observe(shallow, 0.03), CONTEXT)
    inside, outside = build(shape(2, 4, 192)), build(shape(24, 4, 4096))
    assert predicted(model, outside).margin > 2 * predicted(model, inside).margin


def test_nothing_is_predicted_before_enough_was_measured() -> None:
    builds = random_builds(FEWEST_BUILDS)
    for count in range(FEWEST_BUILDS):
        assert CostModel(observe(builds[:count]), CONTEXT).predict(builds[0], LOOKAHEADS) is None
    assert predicted(CostModel(observe(builds), CONTEXT), builds[0]).builds == FEWEST_BUILDS


@given(
    st.integers(0, 500),
    st.floats(0.0, 0.3),
    st.integers(1, 30),
    st.integers(1, 40).map(lambda n: 32 * n),
    st.sampled_from(["layers", "ffn"]),
)
def test_more_layers_or_bytes_are_never_predicted_to_be_faster(
    seed: int, noise: float, layers: int, ffn: int, grows: str
) -> None:
    model = CostModel(observe(random_builds(10, seed), noise, seed), CONTEXT)
    small = shape(layers, ffn=ffn)
    large = replace(small, **{grows: getattr(small, grows) + 32})
    less, more = predicted(model, build(small)).burst_s, predicted(model, build(large)).burst_s
    assert all(before <= after * (1 + 1e-12) for before, after in zip(less, more, strict=True))
    assert list(less) == sorted(less)  # a longer burst neither
    assert all(each >= 0.0 for each in less)


def test_each_program_has_a_law_of_its_own() -> None:
    fp32, int8 = random_builds(10), random_builds(10, precision=Precision.INT8)
    model = CostModel([*observe(fp32), *observe(int8, law_s=3 * LAW_S)], CONTEXT)
    for each in (build(shape()), build(shape(), Precision.INT8)):
        factor = 3 if each.precision is Precision.INT8 else 1
        assert predicted(model, each).burst_s == pytest.approx(factor * seconds(each), rel=0.01)
    assert model.predict(build(shape(), backend="tvm"), LOOKAHEADS) is None


def test_a_program_with_few_builds_borrows_a_law_with_a_wider_margin() -> None:
    known = observe(random_builds(20), 0.02)
    own = observe(random_builds(FEWEST_TO_BORROW, 7), 0.02, 7, 2 * LAW_S)
    own = [replace(each, build=replace(each.build, backend="tvm")) for each in own]
    each = build(shape(), backend="tvm")
    assert CostModel([*known, *own[:-1]], CONTEXT).predict(each, LOOKAHEADS) is None
    borrowed = predicted(CostModel([*known, *own], CONTEXT), each)
    assert borrowed.burst_s == pytest.approx(2 * seconds(each), rel=0.1)
    assert borrowed.builds == FEWEST_TO_BORROW
    lender = predicted(CostModel(known, CONTEXT), build(shape()))
    assert -math.log(1 - borrowed.margin) >= cost_model.BORROWED_MARGIN * -math.log(1 - lender.margin) * 0.999


def test_the_lender_is_of_the_same_backend_where_there_is_one() -> None:
    ours = observe(random_builds(FEWEST_BUILDS), law_s=5 * LAW_S)
    theirs = [replace(each, build=replace(each.build, backend="tvm")) for each in observe(random_builds(20))]
    bytes_alone_s = np.array([0.0, 0.0, 0.0, 0.0, 2e-5, 0.0, 0.0, 0.0])
    few = observe(random_builds(FEWEST_TO_BORROW, 5, Precision.INT8), law_s=bytes_alone_s)
    each = build(shape(8, 4, 352), Precision.INT8)
    both = predicted(CostModel([*ours, *theirs, *few], CONTEXT), each)
    assert both == predicted(CostModel([*ours, *few], CONTEXT), each)


def test_the_predictions_do_not_depend_on_the_order() -> None:
    observations = observe(random_builds(12), 0.05)
    forwards, backwards = CostModel(observations, CONTEXT), CostModel(observations[::-1], CONTEXT)
    for each in random_builds(5, 9):
        assert predicted(forwards, each).burst_s == pytest.approx(predicted(backwards, each).burst_s, rel=1e-6)
        assert predicted(forwards, each).margin == pytest.approx(predicted(backwards, each).margin, rel=1e-4)


def test_optimistic_seconds_are_below_the_predicted_ones() -> None:
    prediction = predicted(CostModel(observe(random_builds(12), 0.05), CONTEXT), build(shape()))
    for k in range(1, LOOKAHEADS + 1):
        assert prediction.optimistic_s(k) == pytest.approx(prediction.burst_s[k - 1] * (1 - prediction.margin))


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_nonnegative_least_squares_meets_the_optimality_conditions(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(size + 4, size))
    gram = rows.T @ rows + 1e-6 * np.eye(size)
    target = rows.T @ rng.normal(size=size + 4)
    solution = nonnegative_least_squares(gram, target)
    slope = gram @ solution - target
    assert (solution >= 0.0).all()
    assert (slope >= -1e-7).all()
    assert abs(solution * slope).max() < 1e-7


@pytest.mark.parametrize(
    ("freedom", "expected"), [(2, 2.920), (3, 2.353), (5, 2.015), (9, 1.833), (29, 1.699), (200, 1.6525)]
)
def test_students_quantile(freedom: int, expected: float) -> None:
    assert cost_model._student(0.95, freedom) == pytest.approx(expected, rel=0.015)
