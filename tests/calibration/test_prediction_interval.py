"""Prediction bounds and determination."""

import numpy as np
import pytest
from calibrations import batches, fitted, observation
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from nodebudget.calibration.fit import fit_calibration
from nodebudget.calibration.memory_model import Observation
from nodebudget.calibration.prediction_interval import PredictionBound, determine
from nodebudget.errors import InputError

NAMES = ("graphs", "nodes", "edges", "line_edges")


def noisy(seed, spread, role="fit", count=16):
    rng = np.random.default_rng(seed)
    for sizes in batches(count, seed):
        yield observation(sizes, role, int(observation(sizes).peak * rng.normal(1, spread)))


@given(st.floats(1e6, 1e13), st.floats(0, 0.05), st.integers(1, 30), st.floats(1e6, 1e12), st.floats(0.5, 0.999))
def test_the_largest_prediction_whose_bound_fits(memory, spread, n, reach, quantile):
    bound = PredictionBound(spread, n, reach)
    prediction = bound.max_prediction(memory, quantile)
    assert prediction * (1 + bound.margin(prediction, quantile)) == pytest.approx(memory, rel=1e-6)
    assert prediction <= memory * (1 + 1e-12)


def test_the_bound_widens_beyond_the_largest_probe():
    bound = PredictionBound(0.01, 8, 1e9)
    inside, at, beyond = bound.margin(np.array([1e6, 1e9, 4e9]), 0.99)
    assert inside == at
    assert beyond == pytest.approx(4 * at)


@pytest.mark.filterwarnings("ignore:this prediction is")
def test_the_bound_holds_as_often_as_it_says():
    below = total = 0
    for seed in range(60):
        calibration = fit_calibration([*noisy(seed, 0.01), *noisy(seed + 1000, 0.01, "holdout", 8)], NAMES)
        for entry in noisy(seed + 2000, 0.01, count=10):
            below += entry.peak <= calibration.predict_bytes(**entry.sizes, quantile=0.9)
            total += 1
    assert 0.85 <= below / total <= 0.97


def test_far_predictions_are_warned_of():
    calibration = fit_calibration([*noisy(0, 0.01), *noisy(1, 0.01, "holdout", 8)], NAMES)
    sizes = {"graphs": 1e4, "nodes": 1e6, "edges": 1e7, "line_edges": 1e8}
    assert calibration.predict_bytes(**sizes) > 0
    with pytest.warns(UserWarning, match="times the largest step that was measured"):
        calibration.predict_bytes(**sizes, quantile=0.99)


@pytest.mark.parametrize("quantile", [0, 1, -1, 99])
def test_a_quantile_is_a_probability(quantile):
    with pytest.raises(InputError, match="between 0 and 1"):
        fitted().predict_bytes(graphs=1, nodes=1, edges=1, line_edges=1, quantile=quantile)


def test_collinear_columns_are_not_identifiable_and_their_sum_is_right():
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(20):
        nodes = int(rng.integers(10, 1000))
        sizes = {"graphs": 4, "nodes": nodes, "edges": 12 * nodes, "line_edges": 144 * nodes}
        seen.append(Observation(sizes, int(observation(sizes).peak * rng.normal(1, 1e-4)), 0, "fit"))
    calibration = fit_calibration(seen, ("nodes", "edges", "line_edges"))
    assert calibration.determination.condition > 1e6
    assert len(calibration.determination.undetermined) >= 2
    for entry in seen:
        assert calibration.predict_bytes(**entry.sizes) == pytest.approx(entry.peak, rel=1e-3)


def test_standard_errors_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    rows = rng.uniform(1, 2, (200, 3))
    truth = np.array([1.0, 2.0, 3.0])
    solutions, errors = [], None
    for _ in range(300):
        target = rows @ truth + rng.normal(0, 0.1, 200)
        solution, *_ = np.linalg.lstsq(rows, target, rcond=None)
        solutions.append(solution)
        # determine() fits ones: scale each row so that its target is one.
        errors = determine(rows / target[:, None], solution, ["fixed", "a", "b"]).standard_errors
    spread = np.std(solutions, axis=0)
    assert [errors["fixed"], errors["a"], errors["b"]] == pytest.approx(spread.tolist(), rel=0.35)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 100, 333])
def test_the_quantile_of_students_distribution_is_that_of_scipy(n):
    for probability in (0.01, 0.5, 0.9, 0.99, 0.9999):
        margin = PredictionBound(1.0, n, 1.0).margin(0.0, probability)
        assert margin == pytest.approx(stdtrit(n, probability) * (1 + 1 / n) ** 0.5, rel=1e-9, abs=1e-12)
