"""Fitting, predicting, saving."""

import json

import numpy as np
import pytest
from calibrations import RESIDENT, TRUE, batches, fitted, observation
from hypothesis import given
from hypothesis import strategies as st

from nodebudget import Calibration, SizeTable
from nodebudget.calibration.fit import fit_calibration
from nodebudget.errors import InputError, RecordError


def test_the_fit_finds_the_coefficients_of_a_linear_cost():
    calibration = fitted()
    for name in ("graphs", "nodes", "edges", "line_edges"):
        assert calibration.coefficient(name) == pytest.approx(TRUE[name], rel=2e-3)
    assert calibration.holdout.n == 10
    assert calibration.holdout.mape < 1e-6
    assert set(calibration.coefficients) == {"fixed", "per_graph", "per_node", "per_edge", "per_line_edge"}


@pytest.mark.filterwarnings("ignore:the measured steps take the same memory")
def test_coefficients_are_never_negative():
    rng = np.random.default_rng(0)
    noisy = [observation(sizes, peak=int(1e8 * rng.uniform(1, 5))) for sizes in batches(20)]
    assert min(fit_calibration(noisy, ("nodes", "edges", "line_edges")).coefficients.values()) >= 0


def test_the_error_is_relative_to_what_is_above_the_resident_bytes():
    sizes = {"graphs": 1, "nodes": 10, "edges": 100, "line_edges": 1000}
    true = observation(sizes).peak
    held = observation(sizes, "holdout", peak=true + 1_000_000)
    calibration = fit_calibration([*(observation(s) for s in batches(20)), held], tuple(sizes))
    assert calibration.holdout.max_under == pytest.approx(1e6 / (true + 1e6 - RESIDENT), rel=1e-3)


def test_the_floor_holds_small_batches_up():
    floor = observation({"graphs": 1, "nodes": 1, "edges": 12, "line_edges": 100}, "floor", peak=200_000_000)
    calibration = fit_calibration([*(observation(s) for s in batches(20)), floor], ("nodes", "edges", "line_edges"))
    assert calibration.predict_bytes(graphs=1, nodes=1, edges=12, line_edges=100) == 200_000_000
    assert calibration.predict_bytes(graphs=60, nodes=6000, edges=7e4, line_edges=9e5) > 4e9


def test_a_light_step_on_the_line_is_no_floor():
    light = observation({"graphs": 2, "nodes": 20, "edges": 240, "line_edges": 3000}, "floor")
    calibration = fit_calibration([*(observation(s) for s in batches(20)), light], ("nodes", "edges", "line_edges"))
    assert calibration.floor == RESIDENT
    half = calibration.predict_bytes(graphs=1, nodes=10, edges=120, line_edges=1500)
    assert half == pytest.approx(TRUE["fixed"] + (light.peak - TRUE["fixed"]) / 2, rel=0.01)


@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), min_size=1, max_size=20))
def test_a_batch_is_predicted_by_the_sum_of_its_graphs(rows):
    calibration = fitted()
    nodes, edges, line_edges = np.array(rows).T
    sizes = SizeTable.from_counts(nodes, edges, line_edges)
    whole = calibration.predict_bytes(
        graphs=len(rows), nodes=nodes.sum(), edges=edges.sum(), line_edges=line_edges.sum()
    )
    assert calibration.fixed + calibration.graph_bytes(sizes).sum() == pytest.approx(whole)


def test_arrays_give_arrays_and_numbers_give_numbers():
    calibration = fitted()
    one = calibration.predict_bytes(graphs=2, nodes=10, edges=120, line_edges=1500)
    many = calibration.predict_bytes(graphs=[2, 2], nodes=[10, 10], edges=[120, 120], line_edges=[1500, 1500])
    assert isinstance(one, float)
    assert many.tolist() == [one, one]


def test_a_size_that_the_prediction_depends_on_must_be_given():
    with pytest.raises(InputError, match="depends on line_edges"):
        fitted().predict_bytes(graphs=2, nodes=10, edges=120)


def test_too_few_steps_do_not_make_a_fit():
    with pytest.raises(InputError, match="4 measured steps do not determine 5 coefficients"):
        fit_calibration([observation(sizes) for sizes in batches(4)], ("graphs", "nodes", "edges", "line_edges"))


def test_a_calibration_comes_back_from_disk(tmp_path):
    calibration = fitted()
    path = calibration.save(tmp_path / "cal.json")
    back = Calibration.load(path)
    assert back == calibration
    assert back.context == {"note": "synthetic"}
    with pytest.raises(InputError, match="exists"):
        calibration.save(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"kind": "nodebudget.plan"}, "is not a file of kind 'nodebudget.calibration'"),
        ({"coefficients": {"fixed": -1}}, "damaged"),
        ({"coefficients": {"per_node": 1}}, "damaged"),
        ({"coefficients": 3}, "damaged"),
        ({"holdout": {}}, "damaged"),
        ({"floor": float("nan")}, "damaged"),
    ],
)
def test_a_calibration_that_cannot_be_right_is_refused(tmp_path, change, words):
    path = fitted().save(tmp_path / "cal.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RecordError, match=words):
        Calibration.load(path)
