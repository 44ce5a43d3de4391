"""The monitor around training loops: what it writes and what it warns of."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from nodebudget import MemoryMonitor, NodeBudgetSampler, read_run
from nodebudget.datasets.measure import measure
from nodebudget.errors import InputError
from nodebudget.monitor.meters import resident_set
from nodebudget.monitor.summary import summarize
from nodebudget.profiling.open import open_probe


def loader_of(samples, size=4):
    return DataLoader(samples, batch_size=size, collate_fn=list)


def train(monitor, workload, loader):
    for batch in monitor.watch(loader):
        workload.step(workload.batch(batch))


class TestLog:
    def test_a_training_loop_leaves_a_line_per_batch(self, workload, samples, tmp_path):
        with MemoryMonitor(tmp_path / "run.jsonl", model=workload.model, optimizer=workload.optimizer) as monitor:
            for _ in range(2):
                train(monitor, workload, loader_of(samples))
        run = read_run(monitor.path)
        assert run.header["kind"] == "nodebudget.run"
        assert run.header["schema_version"] == 1
        assert run.header["model"]["optimizer"] == "AdamW"
        assert run.header["device"]["device"] == "cpu"
        assert "counts no peak" in run.header["note"]
        assert run.end["status"] == "done"
        assert run.end["steps"] == len(run.steps) == 8
        assert [step["epoch"] for step in run.steps] == [0] * 4 + [1] * 4
        table = measure(samples)
        for place, step in enumerate(run.steps):
            first = 4 * (place % 4)
            assert step["sizes"] == table.totals(range(first, first + 4))
            assert step["status"] == "done"
            assert step["seconds"] > 0
            assert step["waited"] > 0
            assert step["measured"] is None
            assert step["rss"] > 0
        assert [json.loads(line)["event"] for line in monitor.path.read_text().splitlines()[1:3]] == ["epoch", "step"]

    def test_traced_peaks_are_those_of_the_probe_and_agree_with_predictions(
        self, workload, samples, calibration, tmp_path
    ):
        how = {"calibration": calibration, "model": workload.model, "optimizer": workload.optimizer}
        with MemoryMonitor(tmp_path / "run.jsonl", **how, trace=True) as monitor:
            train(monitor, workload, loader_of(samples, 6))
        peak = open_probe("cpu").measure(lambda: workload.step(workload.batch(samples[:6])))
        steps = read_run(monitor.path).steps
        assert steps[0]["measured"] == pytest.approx(steps[0]["resident"] + peak.requested, rel=0.02)
        for step in steps[1:]:
            assert step["measured"] == pytest.approx(step["predicted"], rel=0.03)

    def test_one_of_every_batches_is_measured(self, tmp_path):
        with MemoryMonitor(tmp_path / "run.jsonl", every=3) as monitor:
            assert sum(1 for _ in monitor.watch(range(8))) == monitor.steps == 8
        assert [step["step"] for step in read_run(monitor.path).steps] == [1, 4, 7]

    @pytest.mark.parametrize("every", [0, -1, 1.5, True])
    def test_every_must_be_a_number_of_batches(self, every):
        with pytest.raises(InputError, match="every is"):
            MemoryMonitor(every=every)

    def test_loops_that_end_early_and_steps_that_fail_have_a_status(self, tmp_path):
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

    def test_a_loader_of_a_stream_has_no_length(self, tmp_path):
        class Stream(IterableDataset):
            def __iter__(self):
                return iter(range(4))

        with MemoryMonitor(tmp_path / "run.jsonl") as monitor:
            assert sum(1 for _ in monitor.watch(DataLoader(Stream(), batch_size=2))) == 2
            assert sum(1 for _ in monitor.watch(iter([1]))) == 1
        assert [event["batches"] for event in read_run(monitor.path).events] == [None, None]

    def test_with_a_budget_sampler_and_predictions(self, workload, samples, calibration, tmp_path):
        sizes = measure(samples)
        sampler = NodeBudgetSampler(sizes, max_line_edges=int(sizes["line_edges"].sum() / 3))
        loader = DataLoader(samples, batch_sampler=sampler, collate_fn=list)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with MemoryMonitor(tmp_path / "run.jsonl", calibration=calibration) as monitor:
                train(monitor, workload, loader)
        steps = read_run(monitor.path).steps
        assert len(steps) == len(sampler)
        for step, batch in zip(steps, sampler.plan.rank_batches(0), strict=True):
            assert step["predicted"] == round(calibration.predict_bytes(**sizes.totals(batch)))


class TestWarnings:
    def test_a_calibration_of_another_width_drifts_once(self, workload, samples, calibration, tmp_path):
        wrong = replace(calibration, coefficients={name: 2 * cost for name, cost in calibration.coefficients.items()})
        how = {"calibration": wrong, "model": workload.model, "optimizer": workload.optimizer}
        monitor = MemoryMonitor(tmp_path / "run.jsonl", **how, trace=True)

        def epochs():
            for _ in range(6):
                train(monitor, workload, loader_of(samples, 6))

        with pytest.warns(UserWarning, match="less memory than predicted") as caught:
            epochs()
        monitor.close()
        assert len(caught) == 1
        run = read_run(monitor.path)
        assert [event["about"] for event in run.events if event["event"] == "warning"] == ["drift"]
        assert summarize(run)["drift"] < -0.3
        again = monitor.recalibrated()
        assert again.holdout.mape < 0.05
        totals = measure(samples).totals(range(6))
        assert again.predict_bytes(**totals) == pytest.approx(calibration.predict_bytes(**totals), rel=0.05)

    def test_outputs_that_are_stored_are_named_a_leak(self, tmp_path):
        model = _Storing(torch.nn.Linear(256, 256))
        monitor = MemoryMonitor(tmp_path / "run.jsonl", model=model, trace=True)

        def loop():
            for batch in monitor.watch(torch.ones(100, 64, 256)):
                model.stored.append(model.model(batch).detach())

        with pytest.warns(UserWarning, match="possible leak: memory allocated between steps grew by"):
            loop()
        monitor.close()

    def test_a_calibration_of_another_model(self, calibration):
        other = torch.nn.Linear(1, 1)
        with pytest.warns(UserWarning, match="model parameters was"):
            MemoryMonitor(calibration=calibration, model=other, optimizer=torch.optim.AdamW(other.parameters()))

    def test_recalibrating_without_measurements(self):
        monitor = MemoryMonitor()
        for _ in monitor.watch(range(5)):
            pass
        with pytest.raises(InputError, match="counts no peak"):
            monitor.recalibrated()

    @pytest.mark.parametrize("fails", ["start", "stop"])
    def test_a_meter_that_fails_does_not_end_the_training(self, fails, tmp_path, monkeypatch):
        monitor = MemoryMonitor(tmp_path / "run.jsonl", device="cpu")

        def fail(*_):
            raise RuntimeError("the profiler is in use")

        monkeypatch.setattr(monitor._meter, fails, fail)
        with pytest.warns(UserWarning, match="a step can't be measured: RuntimeError: the profiler") as caught:
            assert sum(1 for _ in monitor.watch(range(5))) == 5
        assert len(caught) == 1
        monitor.close()
        assert len(read_run(monitor.path).steps) == 5


class _Storing(torch.nn.Module):
    """A model whose stored outputs count as memory between steps, as they do on a GPU."""

    def __init__(self, model):
        super().__init__()
        self.model, self.stored = model, []

    def buffers(self, recurse=True):
        return iter([*super().buffers(recurse), *self.stored])


def test_the_resident_set_of_this_process():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert resident_set() == pytest.approx(int(status["VmRSS"].split()[0]) * 1024, rel=0.05)
