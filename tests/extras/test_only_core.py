"""What works with torch, numpy, scipy, click and rich alone: sizes, plans, samplers, suggestions, monitors."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from apart import call, some_sizes
from torch.utils.data import DataLoader, TensorDataset

from nodebudget import Calibration, MemoryMonitor, NodeBudgetBatcher, NodeBudgetSampler, SizeTable, suggest_batch_size
from nodebudget.analysis.environment import examine
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.monitor.log_reader import read_run
from nodebudget.profiling.open import open_probe

#: Seen nowhere among the modules of a process that does what core does.
OPTIONAL = [
    *("dgl", "jarvis", "vesin", "pymatgen", "ase", "alignn", "lmdb", "pyarrow", "distributed", "matplotlib"),
    *("torch_geometric", "lightning", "transformers", "psutil"),
]


@pytest.fixture
def files(tmp_path):
    for name in ("sizes.npz", "sizes.csv"):
        some_sizes().save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", ["sizes.npz", "sizes.csv"])
def test_measure_reads_and_converts_sizes(files, name, capsys):
    assert call("measure", files / name, "-o", files / "again.npz", "--json", "-q") == 0
    assert json.loads(capsys.readouterr().out)["graphs"] == 200
    assert SizeTable.load(files / "again.npz").fingerprint() == some_sizes().fingerprint()


def test_plan_suggest_and_compare(files, capsys):
    assert call("plan", files / "sizes.csv", "--max-line-edges", 50_000, "-o", files / "plan.json", "--json", "-q") == 0
    assert json.loads(capsys.readouterr().out)["predicted_bytes"] is None
    assert call("suggest", "--reference", 35, "--batch-size", 64, "--target", 20, "--json") == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == 112
    assert call("compare", files / "sizes.npz", files / "sizes.csv", "--batch-size", 16, "-q") == 0


def test_a_sampler_in_pytorchs_loader():
    sizes = some_sizes()
    sampler = NodeBudgetSampler(sizes, max_nodes=500, seed=1)
    data = TensorDataset(torch.as_tensor(sizes["nodes"].copy()), torch.arange(len(sizes)))
    seen = []
    for nodes, rows in DataLoader(data, batch_sampler=sampler):
        assert nodes.sum() <= 500
        seen += rows.tolist()
    assert sorted(seen) == list(range(200))


def test_a_stream_and_a_suggestion():
    table = some_sizes()
    batcher = NodeBudgetBatcher(
        iter(range(200)), size_of=lambda row: {"nodes": int(table["nodes"][row])}, max_nodes=500
    )
    assert sorted(row for batch in batcher for row in batch) == list(range(200))
    assert suggest_batch_size(reference=35, batch_size=64, target=20).batch_size == 112


class Linear:
    """A workload of one's own, whose samples are the rows of a table."""

    def __init__(self, device="cpu"):
        self.device = torch.device(device)
        self.model = torch.nn.Linear(1, 64).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def batch(self, samples):
        return torch.ones(sum(samples), 1, device=self.device)

    def step(self, batch):
        self.optimizer.zero_grad()
        self.model(batch).square().mean().backward()
        self.optimizer.step()


def test_a_calibration_of_a_workload_of_ones_own(tmp_path):
    nodes = np.random.default_rng(0).integers(200, 4000, 60)
    sizes = SizeTable.from_counts(nodes)
    found = calibrate(Linear(), nodes.tolist(), sizes, open_probe("cpu"), config=CalibrationConfig(probes=9))
    # The forward pass, its square and both gradients: at least two tensors of 64 floats a node live at once.
    assert 2 * 64 * 4 <= found.coefficients["per_node"] <= 6 * 64 * 4
    assert found.holdout.mape < 0.02
    again = Calibration.load(found.save(tmp_path / "cal.json"))
    plan = NodeBudgetSampler(sizes, calibration=again, memory="40MB").plan
    assert plan.predicted_bytes.max() <= 40e6


def test_a_monitored_loop(tmp_path, capsys):
    monitor = MemoryMonitor(tmp_path / "run.jsonl", device="cpu", sizes=lambda batch: {"graphs": len(batch)})
    for _ in monitor.watch([[1, 2], [3]]):
        with monitor.oom_guard():
            pass
    monitor.close()
    assert [step["sizes"]["graphs"] for step in read_run(tmp_path / "run.jsonl").steps] == [2, 1]
    assert call("monitor", tmp_path / "run.jsonl", "--json") == 0
    assert json.loads(capsys.readouterr().out)


def test_memory_that_runs_out_is_told_from_other_errors():
    from nodebudget.workloads.run_step import is_out_of_memory

    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_doctor_has_a_next_step_for_everything_that_is_missing():
    found = examine()
    assert next(check for check in found.checks if check.name == "torch").state == "ok"
    lacking = [check for check in found.checks if check.state == "missing"]
    assert all(check.next_step for check in lacking)


def test_a_process_of_core_imports_nothing_else(tmp_path):
    code = (
        "import sys; from nodebudget import *; s = SizeTable.from_counts([3, 4, 5]);"
        "list(NodeBudgetSampler(s, max_nodes=9)); m = MemoryMonitor(device='cpu'); m.close();"
        f"print(sorted(set({OPTIONAL}) & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
