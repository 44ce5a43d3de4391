"""A calibration holds for many kinds of training: each is calibrated, and checked on batches that it has not seen."""

import functools

import pytest
import torch
from crystals import prototypes
from models import Accumulating, Alignn, AtomWise, Pyg, adamw, crystal_graphs, momentum, pyg_graph, sgd

from nodebudget.calibrate import Effort, calibrate
from nodebudget.measure import measure_dataset
from nodebudget.probe import open_probe

EFFORT = Effort(probes=15, largest=16)

# Goals for all but plain ALIGNN, which has its own test with tighter ones.
MEAN, UNDER = 0.01, 0.02

CHOSEN = [index for index, atoms in enumerate(prototypes()) if atoms.num_atoms <= 8][:60]


@functools.cache
def calibrated(kind, **options):
    """Calibrate a workload of a kind on graphs of its kind."""
    torch.manual_seed(0)
    samples = [(pyg_graph if kind is Pyg else crystal_graphs)(index) for index in CHOSEN]
    return calibrate(kind(**options), samples, measure_dataset(samples), open_probe("cpu"), effort=EFFORT)


def held(calibration):
    """Assert the goals on the batches that were held out, and that these say something."""
    assert calibration.holdout.n == 5
    # Nothing but the floor would be predicted well by the floor.
    checked = [entry.peak for entry in calibration.observations if entry.role == "holdout"]
    assert max(checked) > 2 * calibration.floor
    assert calibration.holdout.mape <= MEAN
    assert calibration.holdout.max_under <= UNDER


def test_forces_by_differentiating_twice():
    forces = calibrated(AtomWise)
    held(forces)
    # The second derivative keeps the graph of the first: a step takes far more than one on energies alone.
    assert forces.coefficient("line_edges") > 2 * calibrated(Alignn).coefficient("line_edges")


@pytest.mark.parametrize("width", [32, 64])
def test_crystal_graph_convolutions(width):
    calibration = calibrated(Pyg, width=width, layers=3)
    held(calibration)
    # It computes nothing on the line graph, and is found not to: that is a small part of any batch.
    sizes = {"graphs": 8, "nodes": 48, "edges": 700, "line_edges": 10_000}
    on_line_graph = calibration.coefficient("line_edges") * sizes["line_edges"]
    assert on_line_graph < 0.05 * (calibration.predict_bytes(**sizes) - calibration.fixed)


def test_mixed_precision():
    # On the CPU, DGL has no kernels for bfloat16; PyTorch Geometric's convolutions need none of their own.
    mixed = calibrated(Pyg, layers=3, autocast=torch.bfloat16)
    held(mixed)
    assert mixed.coefficient("edges") < calibrated(Pyg, width=32, layers=3).coefficient("edges")


def test_activation_checkpointing():
    again = calibrated(Pyg, width=32, layers=3, checkpointed=True)
    held(again)
    assert again.coefficient("edges") < 0.8 * calibrated(Pyg, width=32, layers=3).coefficient("edges")


def test_gradient_accumulation():
    held(calibrated(Accumulating))


@pytest.mark.parametrize(("optimizer", "kept"), [(sgd, 0), (momentum, 1), (adamw, 2)])
def test_optimizers_differ_in_what_they_keep(optimizer, kept):
    calibration = calibrated(Alignn, optimizer=optimizer)
    held(calibration)
    # Parameters, their gradients, and as many copies as the optimizer keeps.
    parameters = 4 * calibration.context["model"]["parameters"]
    assert calibration.resident == pytest.approx((2 + kept) * parameters, rel=0.05)


def test_gradients_that_are_zeroed_and_kept():
    kept = calibrated(Alignn, set_to_none=False)
    held(kept)
    assert kept.fixed > calibrated(Alignn).fixed
