"""Numbers at the edge: sizes of 0 and beyond 32 bits, NaN and infinity, calibrations that are flat or wrong."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calibrations import batches, calibration, observation
from click.testing import CliRunner
from crystals import entries
from hypothesis import given
from hypothesis import strategies as st
from paths import FIXTURES
from scripted_probe import Counting, LinearProbe
from torch.utils.data import DataLoader

from nodebudget import Calibration, MemoryMonitor, NodeBudgetSampler, SizeTable
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.fit import fit_calibration
from nodebudget.calibration.time_model import TimeModel
from nodebudget.cli import main
from nodebudget.datasets.measure import measure
from nodebudget.errors import DoesNotFitError, InputError, OversizedError
from nodebudget.workloads.alignn import AlignnWorkload

PACKS = ("balanced", "dense", "sequential")
NAN, INF = float("nan"), float("inf")


def check(sizes: SizeTable, sampler: NodeBudgetSampler, **budget: int) -> None:
    """Check, in Python's own numbers, that every graph comes once and every budget holds."""
    batches = list(sampler)
    assert sorted(graph for batch in batches for graph in batch) == list(range(len(sizes)))
    for name, maximum in budget.items():
        values = sizes[name].tolist()
        assert max(sum(values[graph] for graph in batch) for batch in batches) <= maximum
    json.dumps(sampler.plan.statistics(), allow_nan=False)
    assert 0 <= sampler.plan.fill <= 1


@pytest.mark.parametrize("pack", PACKS)
@given(st.lists(st.sampled_from([0, 0, 1, 3]), min_size=1, max_size=40))
def test_graphs_without_nodes(pack: str, nodes: list[int]) -> None:
    sizes = SizeTable.from_counts(nodes, [0] * len(nodes))
    check(sizes, NodeBudgetSampler(sizes, max_nodes=5, max_edges=1, pack=pack), nodes=5, edges=1)


HUGE = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**53 + 1, 2**57])


@pytest.mark.parametrize("pack", PACKS)
@given(st.lists(HUGE, min_size=1, max_size=40), st.integers(1, 20), st.booleans())
def test_sizes_beyond_32_bits_do_not_overflow(pack: str, nodes: list[int], times: int, both: bool) -> None:
    sizes = SizeTable.from_counts(nodes, nodes[::-1])
    maximum = max(max(nodes) * times, 1)
    budget = {"nodes": maximum, "edges": maximum} if both else {"nodes": maximum}
    sampler = NodeBudgetSampler(sizes, **{f"max_{name}": maximum for name in budget}, pack=pack, num_replicas=1)
    check(sizes, sampler, **budget)
    assert len(sampler) >= -(-sum(nodes) // maximum)


@pytest.mark.parametrize("pack", PACKS)
def test_sizes_near_63_bits(pack: str) -> None:
    sizes = SizeTable.from_counts([2**62, 1, 2, 2**61])
    check(sizes, NodeBudgetSampler(sizes, max_nodes=2**62 + 1, pack=pack), nodes=2**62 + 1)


@pytest.mark.parametrize("pack", PACKS)
def test_bytes_beyond_63_bits_are_oversized_or_refused(pack: str) -> None:
    costs = calibration(per_line_edge=5500.0)
    sizes = SizeTable.from_counts([1] * 20, [1] * 20, [2**52] * 20)
    with pytest.raises(OversizedError, match="20 graphs are larger"):
        NodeBudgetSampler(sizes, calibration=costs, memory="40GiB", pack=pack)
    alone = NodeBudgetSampler(sizes, calibration=costs, memory="40GiB", pack=pack, oversized="alone")
    assert len(alone) == 20
    many = SizeTable.from_counts([1] * 20, [1] * 20, [2**47] * 20)
    with pytest.raises(InputError, match=r"over 2\^63 bytes"):
        NodeBudgetSampler(many, calibration=costs, memory=2**62, pack=pack)


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1.0, 1e16])
def test_sizes_that_are_no_whole_numbers(pack: str, scale: float) -> None:
    tokens = np.random.default_rng(0).random(200) * scale
    sizes = SizeTable.from_counts([1] * 200, tokens=tokens)
    sampler = NodeBudgetSampler(sizes, max_columns={"tokens": 3.3 * scale}, pack=pack)
    assert max(tokens[batch].sum() for batch in sampler) <= 3.3 * scale
    assert sorted(graph for batch in sampler for graph in batch) == list(range(200))


def test_many_batches_of_parts_do_not_overflow() -> None:
    # 2^40 parts of a budget, times over 2^23 batches, would be over 2^63.
    tokens = np.full(9_000_000, 0.75)
    names, items = (
        NodeBudgetSampler(SizeTable.from_counts(np.ones(10, dtype=int)), max_nodes=1)
        .budget.changed(max_columns={"tokens": 1.0})
        .columns(SizeTable.from_counts(np.ones(len(tokens)), tokens=tokens))
    )
    assert items.shares()[names.index("tokens")] == pytest.approx(6_750_000, rel=1e-6)


@pytest.mark.parametrize("pack", PACKS)
def test_a_column_that_is_constant(pack: str) -> None:
    sizes = SizeTable.from_counts([5] * 64, [60] * 64)
    sampler = NodeBudgetSampler(sizes, max_nodes=40, max_edges=480, pack=pack)
    check(sizes, sampler, nodes=40, edges=480)
    assert len(sampler) == 8


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1, "many", None, np.float64("nan")])
def test_what_is_no_size_is_refused_everywhere(value: Any) -> None:
    costs = calibration(per_node=10.0)
    for refused in (
        lambda: SizeTable.from_counts([1, value]),
        lambda: NodeBudgetSampler(SizeTable.from_counts([1, 2]), max_nodes=value),
        lambda: NodeBudgetSampler(SizeTable.from_counts([1, 2]), max_columns={"nodes": value}),
        lambda: NodeBudgetSampler(SizeTable.from_counts([1], [1], [1]), calibration=costs, memory=value),
        lambda: costs.predict_bytes(graphs=1, nodes=value, edges=1, line_edges=1),
        lambda: costs.predict_bytes(graphs=1, nodes=[1, value], edges=1, line_edges=1),
        lambda: calibration(per_node=value),
        lambda: replace(costs, floor=value),
        lambda: NodeBudgetSampler(
            SizeTable.from_counts([1, 2]),
            max_nodes=5,
            balance="time",
            time_model=TimeModel({"fixed": 1.0, "per_node": value if isinstance(value, float) else NAN}, 0.0),
        ),
    ):
        with pytest.raises(InputError):
            refused()


def test_a_calibration_that_says_nothing_is_no_budget(tmp_path: Path) -> None:
    flat = calibration(per_graph=0.0, per_node=0.0, per_edge=0.0, per_line_edge=0.0)
    assert flat.is_flat
    sizes = SizeTable.from_counts([1] * 20, [1] * 20, [5] * 20)
    with pytest.raises(InputError, match="none of the graphs takes memory"):
        NodeBudgetSampler(sizes, calibration=flat, memory="1GiB")
    done = CliRunner().invoke(
        main,
        [
            *("plan", str(sizes.save(tmp_path / "sizes.npz")), "--memory", "1GiB"),
            *("--calibration", str(flat.save(tmp_path / "cal.json"))),
        ],
    )
    assert done.exit_code == 2
    assert "none of the graphs takes memory" in done.stderr
    # Nor is one that asks for what these graphs lack.
    by_line_edges = calibration(per_graph=0.0, per_node=0.0, per_edge=0.0, per_line_edge=10.0)
    with pytest.raises(InputError, match="none of the graphs takes memory"):
        NodeBudgetSampler(SizeTable.from_counts([1, 2], [1, 2], [0, 0]), calibration=by_line_edges, memory="1GiB")


@pytest.mark.parametrize("change", [{"per_node": -1.0}, {"fixed": -5}, {"per_edge": NAN}, {"per_edge": "1e999"}])
def test_coefficients_that_cannot_be_are_refused_on_reading(change: dict[str, Any], tmp_path: Path) -> None:
    path = calibration().save(tmp_path / "cal.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "coefficients": {**record["coefficients"], **change}}))
    with pytest.raises(InputError, match="damaged"):
        Calibration.load(path)


def test_three_probes_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 probes"):
        CalibrationConfig(probes=3)
    three = [observation(sizes) for sizes in batches(3)]
    with pytest.raises(InputError, match="3 measured steps do not determine 5 coefficients"):
        fit_calibration(three, ("nodes", "edges", "line_edges"))
    with pytest.raises(InputError, match="as many as coefficients, and none held out"):
        fit_calibration(three, ("nodes",))
    # With further ones to check on the error is known, with however few to fit to.
    held = [observation(sizes, "holdout") for sizes in batches(3, seed=1)]
    assert fit_calibration([*three, *held], ("nodes",)).bound.n == 3


def test_few_steps_without_others_to_check_on_are_not_sure() -> None:
    rng = np.random.default_rng(0)
    peaks = [(sizes, observation(sizes).peak * rng.normal(1, 0.02)) for sizes in batches(7)]
    few = fit_calibration(
        [observation(sizes, peak=int(peak)) for sizes, peak in peaks], ("nodes", "edges", "line_edges")
    )
    assert few.bound.n == 2
    assert few.bound.margin(0.0, 0.99) > 0.05


@pytest.mark.parametrize("crystals", [1, 2, 5])
def test_few_crystals_are_enough_to_tell_what_a_batch_of_them_takes(crystals: int) -> None:
    data = entries(12, 60)[20 : 20 + crystals]
    sizes = measure(data)
    workload = Counting(torch.device("cpu"))
    probe = LinearProbe(workload, constant=10**6, per_node=10**5)
    warned = pytest.warns(UserWarning, match="all crystals are of one size")
    with warned if crystals == 1 else contextlib.nullcontext():
        costs = calibrate(workload, data, sizes, probe, config=CalibrationConfig(16, 32))
    expected = 10**5 * sizes["nodes"].mean()
    assert costs.graph_bytes(sizes).mean() == pytest.approx(expected, rel=0.01)


def test_steps_that_do_not_depend_on_the_batch_are_warned_of() -> None:
    data = entries(12, 60)
    workload = Counting(torch.device("cpu"))
    with pytest.warns(UserWarning, match="take the same memory whatever the batch"):
        costs = calibrate(
            workload,
            data,
            measure(data),
            LinearProbe(workload, constant=10**6, per_node=0),
            config=CalibrationConfig(16, 32),
        )
    assert costs.is_flat


def test_the_command_says_so_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURES)
    path = tmp_path / "one.json"
    path.write_text(json.dumps(entries(12, 60)[20:21]))
    arguments = ["--device", "cpu", "--data", str(path), "--workload", "workloads:Linear", "--probes", "16", "--json"]
    done = CliRunner().invoke(main, ["calibrate", *arguments])
    assert done.exit_code == 0, done.stderr
    assert "nodebudget: all crystals are of one size" in done.stderr
    coefficients = json.loads(done.stdout)["coefficients"]
    assert sum(value for name, value in coefficients.items() if name != "fixed") > 0


@pytest.fixture(scope="module")
def alignn() -> tuple[list[Any], Calibration]:
    """Samples of real ALIGNN, and its calibration."""
    workload = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=16)
    samples = [workload.sample(entry) for entry in entries(6, 16)]
    return samples, calibrate(workload, samples, config=CalibrationConfig(probes=12, max_graphs=8))


@pytest.mark.parametrize(
    ("factor", "words"), [(0.1, r"steps take [\d,]{3,}\.\d% more memory"), (10, "less memory than")]
)
def test_a_calibration_that_is_ten_times_off_is_noticed_on_real_alignn(
    alignn: tuple[list[Any], Calibration], factor: float, words: str
) -> None:
    samples, exact = alignn
    workload = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=16)
    coefficients = {name: value * factor for name, value in exact.coefficients.items()}
    wrong = replace(exact, coefficients=coefficients, further_segments=(), floor=exact.floor * factor)
    options = {"model": workload.model, "optimizer": workload.optimizer, "trace": True}
    monitor = MemoryMonitor(calibration=wrong, **options)

    def train() -> None:
        for _ in range(3):
            for batch in monitor.watch(DataLoader(samples, batch_size=4, collate_fn=workload.batch)):
                workload.step(batch)

    with pytest.warns(UserWarning, match=words):
        train()


@pytest.mark.slow
def test_the_guard_saves_a_run_that_is_ten_times_off() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FIXTURES.parent), str(FIXTURES)])}
    command = [sys.executable, "-W", "ignore", str(FIXTURES / "ten_times_off.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = json.loads(done.stdout)
    for way in ("split", "smaller"):
        assert runs[way]["trained"] == list(range(160))
    assert max(map(len, runs["split"]["parts"])) > 1
    assert len(runs["smaller"]["budgets"]) > 1
    assert all(hint.startswith("give the sampler memory=") for hint in runs["smaller"]["hints"])


def test_a_budget_that_does_not_hold_a_step_is_said() -> None:
    costs = calibration(fixed=2e9)
    with pytest.raises(DoesNotFitError, match="without any graph"):
        NodeBudgetSampler(SizeTable.from_counts([1], [1], [1]), calibration=costs, memory="1GiB")
