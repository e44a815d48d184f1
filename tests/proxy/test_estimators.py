"""What every estimator of draft weights must do."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.candidate import DraftShape
from autotune.errors import BadRequest
from autotune.proxy.base import ESTIMATORS, Axes, Estimator, Preparation, prepare_estimator
from autotune.proxy.criteria import calibrate
from autotune.proxy.prune import PrunedEstimator, calibration_sequences
from autotune.proxy.score_traces import acceptance_of
from autotune.traces import Traces
from autotune.weights import ModelWeights
from tests.proxy.test_network import logits_of


@pytest.fixture(scope="module")
def preparation(
    source: ModelWeights, greedy_traces: Traces, axes: Axes, tmp_path_factory: pytest.TempPathFactory
) -> Preparation:
    folder = tmp_path_factory.mktemp("proxy")
    return Preparation(source, greedy_traces, axes, budget_s=0.005, folder=folder, candidate_tokens=2 * 512)


@pytest.fixture(scope="module", params=sorted(ESTIMATORS))
def estimator(request: pytest.FixtureRequest, preparation: Preparation) -> Estimator:
    own = replace(preparation, folder=preparation.folder / request.param)
    return prepare_estimator(request.param, own)


@given(
    layers=st.integers(1, 3), kv_heads=st.integers(1, 2), group=st.integers(1, 2), ffn=st.integers(1, 24),
    hidden=st.integers(2, 16),
)  # fmt: skip
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shape_inside_the_source_gets_finite_weights(
    estimator: Estimator, source: ModelWeights, layers: int, kv_heads: int, group: int, ffn: int, hidden: int
) -> None:
    shape = replace(source.shape, layers=layers, heads=kv_heads * group, kv_heads=kv_heads, ffn=ffn, hidden=hidden)
    weights = estimator.weights(shape)  # ModelWeights checks every array's shape itself
    assert weights.shape == shape
    assert weights.numerics == source.numerics
    assert np.isfinite(logits_of(weights, [1, 2, 3])).all()


def test_shapes_outside_the_source_are_bad_requests(estimator: Estimator, source: ModelWeights) -> None:
    with pytest.raises(BadRequest, match="4 layers"):
        estimator.weights(replace(source.shape, layers=4))


def test_estimators_know_their_names(preparation: Preparation) -> None:
    names = {prepare_estimator(name, preparation).name for name in ESTIMATORS}
    assert names == ESTIMATORS.keys() == {"pruned", "recovered", "elastic", "learned-mask"}
    with pytest.raises(
        BadRequest, match="unknown proxy 'guess'; choose from: pruned, recovered, elastic, learned-mask"
    ):
        prepare_estimator("guess", preparation)


def test_pruning_nothing_leaves_the_source(source: ModelWeights, greedy_traces: Traces) -> None:
    pruned = PrunedEstimator(source, calibrate(source, calibration_sequences(greedy_traces)))
    tokens = [5, 6, 7, 8]
    np.testing.assert_allclose(logits_of(pruned.weights(source.shape), tokens), logits_of(source, tokens), atol=1e-4)


def test_pruning_beats_the_opposite_choice(source: ModelWeights, greedy_traces: Traces) -> None:
    """Keeping the important units agrees more with the source than keeping the unimportant ones."""
    importance = calibrate(source, calibration_sequences(greedy_traces))
    opposite = replace(
        importance,
        hidden=-importance.hidden,
        layers=tuple(
            replace(layer, heads=-layer.heads, kv_heads=-layer.kv_heads, channels=-layer.channels)
            for layer in importance.layers
        ),
    )
    shape = replace(source.shape, ffn=12)

    def agreement(chosen: PrunedEstimator) -> float:
        return float(np.concatenate(acceptance_of(chosen.weights(shape), greedy_traces)).mean())

    assert agreement(PrunedEstimator(source, importance)) > agreement(PrunedEstimator(source, opposite))


def test_norms_are_corrected_for_missing_dimensions(source: ModelWeights, greedy_traces: Traces) -> None:
    importance = calibrate(source, calibration_sequences(greedy_traces))
    hidden = np.sort(importance.best_hidden(8))
    pruned = PrunedEstimator(source, importance).weights(replace(source.shape, hidden=8))
    energy = importance.energy[-1]
    expected = source.arrays["norm"][hidden] * np.sqrt(energy[hidden].mean() / energy.mean())
    np.testing.assert_allclose(pruned.arrays["norm"], expected, rtol=1e-5)


def test_the_registry_loads_no_torch() -> None:
    code = "import sys, autotune.proxy.base, autotune.proxy.parts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_grouped_heads_stay_with_their_kv_head(source: ModelWeights, greedy_traces: Traces) -> None:
    importance = calibrate(source, calibration_sequences(greedy_traces))
    units = importance.best(0, DraftShape(**{**vars(source.shape), "heads": 2, "kv_heads": 2}))
    assert (units.heads // 2 == units.kv_heads[:, None]).all()
    assert list(importance.layers[0].kv_heads[units.kv_heads]) == sorted(importance.layers[0].kv_heads, reverse=True)
