"""Costs that are no sums of sizes: a calibration says so, and what they look like."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from ase.build import bulk
from click.testing import CliRunner

from nodebudget import NodeBudgetSampler, calibrate, squares
from nodebudget.cli import main
from nodebudget.errors import InputError
from nodebudget.sampling.budget import Budget
from nodebudget.workloads.sample_sizes import measure_samples

CRYSTALS = [bulk("NaCl", "rocksalt", a=5.64) * (1 + n % 12, 1, 1 + n % 3) for n in range(48)]


class Layers:
    """Two dozen activations of an atom, of a pair of atoms, or of an atom of padding."""

    def __init__(self, kind):
        self.kind = kind
        self.model = torch.nn.Linear(4, 4)
        self.optimizer = torch.optim.SGD(self.model.parameters())

    def sample(self, item):
        return {"z": torch.ones(len(item), 4)}

    def batch(self, samples):
        rows = [sample["z"] for sample in samples]
        if self.kind == "padded":
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).reshape(-1, 4)
        if self.kind == "squares":
            return torch.cat([x.repeat(len(x), 1) for x in rows])
        return torch.cat(rows)

    def step(self, batch):
        self.optimizer.zero_grad()
        x = self.model(batch)
        for _ in range(24):
            x = torch.tanh(x)
        x.sum().backward()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("squares", r"explain the memory of held-out steps to .*% only.*nodebudget.squares\(\)"),
        ("padded", r"graphs × the largest graph of a batch.*padded"),
    ],
)
def test_what_the_memory_looks_like_that_sums_do_not_explain(kind, words):
    with pytest.warns(UserWarning, match=words):
        calibration = calibrate(Layers(kind), CRYSTALS)
    assert calibration.holdout.mape > 0.03


def test_a_budget_in_bytes_is_refused_over_five_percent_and_made_where_the_error_is_accepted(tmp_path):
    with pytest.warns(UserWarning, match="explain the memory"):
        calibration = calibrate(Layers("padded"), CRYSTALS)
    assert calibration.holdout.mape > 0.05
    sizes = measure_samples(Layers("padded"), CRYSTALS)
    with pytest.raises(InputError, match=r"% off on held-out steps.*up to 5%.*accept_error\(\)"):
        NodeBudgetSampler(sizes, calibration=calibration, memory="1GiB")
    sampler = NodeBudgetSampler(sizes, calibration=calibration.accept_error(), memory="1GiB")
    assert sorted(i for batch in sampler for i in batch) == list(range(48))
    record, table = calibration.save(tmp_path / "calibration.json"), sizes.save(tmp_path / "sizes.npz")
    command = ["plan", str(table), "--calibration", str(record), "--memory", "1GiB"]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2
    assert "--allow-mismatch" in refused.stderr
    assert CliRunner().invoke(main, [*command, "--allow-mismatch"]).exit_code == 0


def test_noise_that_explains_the_error_refuses_nothing():
    with pytest.warns(UserWarning, match="explain the memory"):
        calibration = calibrate(Layers("padded"), CRYSTALS)
    noisy = replace(calibration, context={**calibration.context, "noise": calibration.holdout.mape / 2})
    assert Budget.make(calibration=noisy, memory="1GiB").memory == 2**30
    with pytest.raises(InputError, match="off on held-out steps"):
        Budget.make(calibration=calibration, memory="1GiB")


def test_kernels_that_exist_on_cuda_only_are_refused_for_a_gpu_that_is_predicted(tmp_path, monkeypatch):
    package = tmp_path / "cuequivariance_torch.py"
    package.write_text("import torch\n\n\nclass SegmentedPolynomial(torch.nn.Linear):\n    pass\n")
    (tmp_path / "fused.py").write_text(
        "import torch\nfrom cuequivariance_torch import SegmentedPolynomial\n\n\nclass Fused:\n"
        "    def __init__(self, device):\n        self.model = torch.nn.Sequential(SegmentedPolynomial(2, 2))\n"
        "        self.optimizer = torch.optim.SGD(self.model.parameters())\n\n"
        "    def batch(self, samples):\n        return samples\n\n    def step(self, batch):\n        pass\n"
    )
    monkeypatch.chdir(tmp_path)
    command = "calibrate --device cpu --predict-gpu 8GiB --workload fused:Fused --data none.json"
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == 2
    assert "'0' is a SegmentedPolynomial of cuEquivariance" in done.stderr


def test_nothing_is_said_where_the_sizes_explain_it():
    with_column = Layers("squares")
    with_column.size_of = squares()
    for workload in (Layers("nodes"), with_column):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert calibrate(workload, CRYSTALS).holdout.mape < 0.01
