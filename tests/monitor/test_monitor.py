"""The monitor around real training loops: what it writes and what it warns of."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from crystals import alignn_graphs, entries, small_prototypes
from torch.utils.data import DataLoader

from nodebudget import MemoryMonitor, NodeBudgetSampler, SizeTable
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.memory_model import Calibration, ErrorSummary
from nodebudget.calibration.prediction_interval import PredictionBound
from nodebudget.datasets.measure import measure_dataset
from nodebudget.errors import InputError
from nodebudget.monitor.batch_sizes import sizes_of
from nodebudget.monitor.drift import DriftWatch, LeakWatch, fragmentation
from nodebudget.monitor.log_reader import read_run
from nodebudget.monitor.meters import Reading, resident_set
from nodebudget.monitor.summary import summarize
from nodebudget.profiling.open import open_probe
from nodebudget.utils.optional_imports import load_dgl, require
from nodebudget.workloads.alignn import AlignnWorkload


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Steps this small are faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def workload():
    return AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=16)


@pytest.fixture(scope="module")
def samples(workload):
    return [workload.sample(entry) for entry in entries(6, 16)]


@pytest.fixture(scope="module")
def known(workload, samples):
    """A calibration of this very workload, on this device."""
    sizes = measure_dataset(samples)
    return calibrate(workload, samples, sizes, open_probe("cpu"), config=CalibrationConfig(probes=12, max_graphs=8))


def loader_of(workload, samples, size=4):
    return DataLoader(samples, batch_size=size, collate_fn=workload.batch)


def scripted(**changes):
    """A calibration by hand: 1000 bytes fixed and 10 a node, within 1%."""
    given = {
        "coefficients": {"fixed": 1000.0, "per_graph": 0.0, "per_node": 10.0},
        "columns": ("graphs", "nodes"),
        "floor": 0.0,
        "resident": 500.0,
        "holdout": ErrorSummary(0.01, 0.01, 8),
        "fit": ErrorSummary(0.01, 0.01, 16),
        "bound": PredictionBound(0.01, 8, 1e9),
    }
    return Calibration(**{**given, **changes})


class TestCounting:
    def test_alignn_batches_hold_what_their_crystals_hold(self, workload, samples):
        expected = measure_dataset(samples[:5]).totals(range(5))
        assert sizes_of(workload.batch(samples[:5])) == expected
        assert sizes_of(samples[:5]) == expected
        graph, line_graph, *_ = workload.batch(samples[:5])
        assert sizes_of({"graph": graph, "line": line_graph, "target": None}) == expected

    def test_without_a_line_graph_its_edges_are_counted_only_where_needed(self):
        graph, _ = alignn_graphs(small_prototypes(6)[0])
        assert set(sizes_of(graph)) == {"graphs", "nodes", "edges"}
        batch = load_dgl().batch([graph, graph])
        found = sizes_of((batch, torch.zeros(2)), line_edges=True)
        assert found["graphs"] == 2
        assert found["line_edges"] == 2 * graph.line_graph().num_edges()

    def test_a_pyg_batch(self):
        data = require("torch_geometric.data")
        one = data.Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=3)
        batch = data.Batch.from_data_list([one] * 4)
        assert sizes_of(batch) == {"graphs": 4, "nodes": 12, "edges": 8}
        assert sizes_of([one] * 4) == {"graphs": 4, "nodes": 12, "edges": 8}

    def test_indices_of_a_sampler_are_looked_up(self):
        table = SizeTable.from_counts(nodes=[1, 2, 3], edges=[10, 20, 30])
        for batch in ([0, 2], np.array([0, 2]), torch.tensor([0, 2])):
            assert sizes_of(batch, table) == {"graphs": 2, "nodes": 4, "edges": 40}
        assert sizes_of("anything", table, indices=[1]) == {"graphs": 1, "nodes": 2, "edges": 20}
        with pytest.raises(InputError, match="index 3 of a batch"):
            sizes_of([3], table)
        with pytest.raises(InputError, match="without a table"):
            sizes_of(None, indices=[3])

    def test_text_beside_graphs_and_sizes_of_ones_own(self, samples):
        graph, line_graph = samples[0][:2]
        batch = {"graphs": (graph, line_graph), "input_ids": torch.zeros(1, 7, dtype=torch.long)}
        assert sizes_of(batch)["tokens"] == 7
        assert sizes_of(batch)["nodes"] == graph.num_nodes()
        found = sizes_of(batch, lambda batch: {"tokens": torch.tensor(5)})
        assert found["tokens"] == 5
        assert sizes_of(object()) == {}


class TestLog:
    def test_a_training_loop_leaves_a_line_a_batch(self, workload, samples, tmp_path):
        path = tmp_path / "run.jsonl"
        loader = loader_of(workload, samples)
        with MemoryMonitor(path, model=workload.model, optimizer=workload.optimizer) as monitor:
            for _ in range(2):
                for batch in monitor.watch(loader):
                    workload.step(batch)
        run = read_run(path)
        assert run.header["kind"] == "nodebudget.run"
        assert run.header["schema_version"] == 1
        assert run.header["model"]["optimizer"] == "AdamW"
        assert run.header["device"]["device"] == "cpu"
        assert run.end["status"] == "done"
        assert run.end["steps"] == len(run.steps) == 8
        assert [step["epoch"] for step in run.steps] == [0] * 4 + [1] * 4
        table = measure_dataset(samples)
        for place, step in enumerate(run.steps):
            first = 4 * (place % 4)
            assert step["sizes"] == table.totals(range(first, min(first + 4, len(samples))))
            assert step["status"] == "done"
            assert step["seconds"] > 0
            assert step["waited"] > 0
            # The CPU's allocator keeps no peak, and the log says so.
            assert step["measured"] is None
            assert step["rss"] > 0
        assert "keeps no peak" in run.header["note"]

    def test_traced_peaks_are_those_of_the_probe_and_agree_with_predictions(self, workload, samples, known, tmp_path):
        path = tmp_path / "run.jsonl"
        monitor = MemoryMonitor(path, calibration=known, model=workload.model, optimizer=workload.optimizer, trace=True)
        for batch in monitor.watch(loader_of(workload, samples, 6)):
            workload.step(batch)
        monitor.close()
        batch = workload.batch(samples[:6])
        peak = open_probe("cpu").measure(lambda: workload.step(batch))
        steps = read_run(path).steps
        assert steps[0]["measured"] == pytest.approx(steps[0]["resident"] + peak.requested, rel=0.02)
        for step in steps[1:]:
            assert step["measured"] == pytest.approx(step["predicted"], rel=0.03)

    def test_every_nth_batch_is_measured(self, workload, samples, tmp_path):
        monitor = MemoryMonitor(tmp_path / "run.jsonl", every=3)
        done = sum(1 for _ in monitor.watch(range(8)))
        monitor.close()
        assert done == monitor.steps == 8
        assert [step["step"] for step in read_run(monitor.path).steps] == [1, 4, 7]

    def test_a_loop_that_is_left_and_a_step_that_fails_are_told_apart(self, tmp_path):
        monitor = MemoryMonitor(tmp_path / "run.jsonl")
        for _ in monitor.watch(range(3)):
            break
        with pytest.raises(ValueError, match="label"), monitor.step([1]):
            raise ValueError("the label is missing")
        with pytest.raises(MemoryError), monitor.step([1]):
            raise MemoryError

        def loop():
            with monitor:
                for _ in monitor.watch(range(3)):
                    raise KeyError("in the loop")

        with pytest.raises(KeyError):
            loop()
        run = read_run(monitor.path)
        assert [step["status"] for step in run.steps][:3] == ["left", "failed", "out of memory"]
        assert run.end["status"] == "failed: KeyError"

    def test_a_line_of_ones_own(self, tmp_path):
        with MemoryMonitor(tmp_path / "run.jsonl") as monitor:
            monitor.log("validation", mae=0.1)
        assert read_run(monitor.path).events[0]["mae"] == 0.1

    def test_a_log_that_is_there(self, tmp_path):
        path = tmp_path / "run.jsonl"
        MemoryMonitor(path).close()
        with pytest.raises(InputError, match="exists"):
            MemoryMonitor(path)
        with path.open("a") as file:
            file.write('{"event":"step","st')
        MemoryMonitor(path, existing="append").close("done")
        run = read_run(path)
        assert (run.parts, run.damaged, run.end["status"]) == (2, 0, "done")
        MemoryMonitor(path, existing="overwrite").close()
        assert read_run(path).parts == 1
        with pytest.raises(InputError, match="existing is 'keep'"):
            MemoryMonitor(path, existing="keep")

    @pytest.mark.parametrize("every", [0, -1, 1.5, True])
    def test_every_must_be_a_number_of_batches(self, every):
        with pytest.raises(InputError, match="every is"):
            MemoryMonitor(every=every)

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(InputError, match="no folder"):
            MemoryMonitor(tmp_path / "none" / "run.jsonl")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
    def test_a_full_disk_ends_the_log_and_not_the_training(self, monkeypatch):
        with pytest.warns(UserWarning, match="the log ends here"):
            monitor = MemoryMonitor("/dev/full", existing="overwrite")
        assert sum(1 for _ in monitor.watch(range(3))) == 3

    def test_each_rank_has_a_file_of_its_own(self, tmp_path, monkeypatch):
        from nodebudget.monitor import log_header as header

        monkeypatch.setattr(header, "world_and_rank", lambda *_: (2, 1))
        monitor = MemoryMonitor(tmp_path / "run.jsonl")
        monitor.close()
        assert monitor.path.name == "run.rank1.jsonl"
        assert read_run(monitor.path).header["rank"] == 1


class TestWarnings:
    def test_drift_is_told_once_and_says_why(self):
        watch = DriftWatch(scripted())
        found = [watch.look(2000.0, Reading(measured=2010, resident=500)) for _ in range(20)]
        assert found == [None] * 20
        found = [watch.look(2000.0, Reading(measured=3000, resident=500)) for _ in range(20)]
        told = [text for text in found if text]
        assert "50.0% more memory than predicted" in told[-1]
        assert "costs another amount" in told[-1]
        watch = DriftWatch(scripted())
        told = [watch.look(2000.0, Reading(measured=1500, resident=100)) for _ in range(20)][-1]
        assert "25.0% less" in told
        assert "the model, the optimizer or something else" in told

    def test_a_calibration_of_another_width_drifts_in_a_real_loop(self, workload, samples, known, tmp_path):
        wrong = replace(known, coefficients={name: 2 * value for name, value in known.coefficients.items()})
        monitor = MemoryMonitor(
            tmp_path / "run.jsonl", calibration=wrong, model=workload.model, optimizer=workload.optimizer, trace=True
        )

        def train():
            for _ in range(6):
                for batch in monitor.watch(loader_of(workload, samples, 6)):
                    workload.step(batch)

        with pytest.warns(UserWarning, match="less memory than predicted") as caught:
            train()
        monitor.close()
        assert len(caught) == 1
        run = read_run(monitor.path)
        assert [event["about"] for event in run.events if event["event"] == "warning"] == ["drift"]
        assert summarize(run)["drift"] < -0.3
        again = monitor.recalibrated()
        assert again.holdout.mape < 0.05
        totals = measure_dataset(samples).totals(range(6))
        assert again.predict_bytes(**totals) == pytest.approx(known.predict_bytes(**totals), rel=0.05)

    def test_outputs_that_are_kept_are_named_a_leak(self, tmp_path):
        model = _Holding(torch.nn.Linear(256, 256))
        monitor = MemoryMonitor(tmp_path / "run.jsonl", model=model, trace=True)

        def train():
            for batch in monitor.watch(torch.ones(100, 64, 256)):
                model.kept.append(model.model(batch).detach())

        with pytest.warns(UserWarning, match="a leak: memory that lives between steps grew by"):
            train()
        monitor.close()

    def test_memory_that_settles_is_no_leak(self):
        watch = LeakWatch(of_process=False)
        rng = np.random.default_rng(0)
        held = [2**30 + min(step, 40) * 2**24 + int(rng.integers(0, 2**26)) for step in range(400)]
        assert [text for text in map(watch.look, held) if text] == []
        watch = LeakWatch(of_process=False)
        noise = (2**30 + int(rng.integers(0, 2**26)) for step in range(20_000))
        assert [text for text in map(watch.look, noise) if text] == []
        grows = [2**31 + step * 2**20 for step in range(100)]
        assert "1.00 MiB a step" in next(text for text in map(LeakWatch(of_process=False).look, grows) if text)
        slowly = [2**31 + step * 2**12 + int(rng.integers(0, 2**24)) for step in range(40_000)]
        assert "a leak" in next(text for text in map(LeakWatch(of_process=False).look, slowly) if text)
        process = LeakWatch(of_process=True)
        small = [text for text in map(process.look, (2**31 + step * 2**12 for step in range(400))) if text]
        assert small == []

    def test_retries_mean_fragmentation(self):
        assert fragmentation(Reading(measured=10, reserved=20, retries=0)) is None
        assert "2 times in one step" in fragmentation(Reading(measured=10, reserved=20, retries=2))

    def test_a_calibration_of_another_model_is_warned_of(self, workload, known):
        other = torch.nn.Linear(1, 1)
        with pytest.warns(UserWarning, match="model parameters was"):
            MemoryMonitor(calibration=known, model=other, optimizer=torch.optim.AdamW(other.parameters()))

    def test_recalibrating_without_measurements(self):
        monitor = MemoryMonitor()
        for _ in monitor.watch(range(5)):
            pass
        with pytest.raises(InputError, match="keeps no peak"):
            monitor.recalibrated()


class _Holding(torch.nn.Module):
    """A model whose kept outputs count as what lives between steps, as they do on a GPU."""

    def __init__(self, model):
        super().__init__()
        self.model, self.kept = model, []

    def buffers(self, recurse=True):
        return iter([*super().buffers(recurse), *self.kept])


def test_with_a_budget_sampler_and_predictions(workload, samples, known, tmp_path):
    sizes = measure_dataset(samples)
    sampler = NodeBudgetSampler(sizes, max_line_edges=int(sizes["line_edges"].sum() / 3))
    loader = DataLoader(samples, batch_sampler=sampler, collate_fn=workload.batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with MemoryMonitor(tmp_path / "run.jsonl", calibration=known) as monitor:
            for batch in monitor.watch(loader):
                workload.step(batch)
    steps = read_run(monitor.path).steps
    assert len(steps) == len(sampler)
    for step, batch in zip(steps, sampler.plan.rank_batches(0), strict=True):
        assert step["predicted"] == round(known.predict_bytes(**sizes.totals(batch)))


def test_the_resident_set_of_this_process():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert resident_set() == pytest.approx(int(status["VmRSS"].split()[0]) * 1024, rel=0.05)


def test_lines_are_plain_json(workload, samples, tmp_path):
    with MemoryMonitor(tmp_path / "run.jsonl") as monitor:
        for batch in monitor.watch(loader_of(workload, samples)):
            workload.step(batch)
    for line in monitor.path.read_text().splitlines():
        assert json.loads(line)
