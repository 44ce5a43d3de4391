"""Out-of-memory errors that name the next smaller budget, and steps that are run in parts."""

from __future__ import annotations

import copy
from dataclasses import replace

import calibrations
import pytest
import torch
from crystals import entries
from linegraph_net import ELEMENTS, LineGraphWorkload, random_sizes
from torch import nn

from nodebudget import MemoryMonitor, NodeBudgetSampler, SizeTable, oom_guard, read_run, run_with_split
from nodebudget.calibration.prediction_interval import PredictionBound
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.workloads.alignn import AlignnWorkload

OUT = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"
SIZES = random_sizes(16)


def calibration(node=10.0, fixed=1000.0):
    return replace(calibrations.calibration(fixed, per_node=node), bound=PredictionBound(0.0, 8, 1e12))


@pytest.fixture
def workload():
    torch.manual_seed(0)
    return LineGraphWorkload("cpu", width=16)


@pytest.fixture
def samples(workload):
    return [workload.sample(item) for item in SIZES]


def mean_loss(workload, most=None, seen=None):
    """A step as users write it; `most` graphs fit."""

    def step(part):
        # Each graph has its own elements, wherever in the batch it stands.
        elements = torch.cat([torch.arange(graph.num_nodes) for graph, _ in part])
        batch = replace(workload.batch(part), elements=elements % ELEMENTS)
        if seen is not None:
            seen.append(len(part))
        target = batch.lengths.new_tensor([float(graph.num_nodes) for graph, _ in part])
        loss = nn.functional.mse_loss(workload.model(batch), target)
        if most is not None and len(part) > most:
            raise RuntimeError(OUT)
        return loss

    return step


def gradients(model):
    # The last layer's edges go nowhere, so that their parameters have none.
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


class TestSplit:
    @pytest.mark.parametrize(("most", "parts"), [(None, (16,)), (15, (8, 8)), (5, (4,) * 4), (1, (1,) * 16)])
    def test_gradients_are_those_of_the_whole(self, workload, samples, most, parts):
        loss = mean_loss(workload)(samples)
        loss.backward()
        whole = gradients(workload.model)
        workload.optimizer.zero_grad()
        done = run_with_split(mean_loss(workload, most), samples, workload.model)
        assert done.parts == parts
        assert done.loss == pytest.approx(loss.item(), rel=1e-5)
        for found, expected in zip(gradients(workload.model), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))

    def test_unequal_parts_are_weighted_by_their_graphs(self, workload, samples):
        some = samples[:7]
        mean_loss(workload)(some).backward()
        whole = gradients(workload.model)
        workload.optimizer.zero_grad()
        assert run_with_split(mean_loss(workload, 5), some, workload.model).parts == (4, 3)
        for found, expected in zip(gradients(workload.model), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))

    def test_memory_that_runs_out_in_the_middle_of_backward_leaves_nothing_twice(self, workload, samples):
        run_with_split(mean_loss(workload), samples, workload.model)
        whole = gradients(workload.model)
        workload.optimizer.zero_grad()
        failures = iter([True, False, True, False, False])

        def backward(loss):
            loss.backward()
            if next(failures, False):
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        done = run_with_split(mean_loss(workload), samples, workload.model, backward=backward)
        assert done.parts == (4,) * 4
        for found, expected in zip(gradients(workload.model), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))

    def test_gradients_that_were_there_stay(self, workload, samples):
        run_with_split(mean_loss(workload), samples, workload.model)
        once = gradients(workload.model)
        run_with_split(mean_loss(workload, 8), samples, workload.model)
        for found, expected in zip(gradients(workload.model), once, strict=True):
            torch.testing.assert_close(found, 2 * expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))

    def test_the_same_on_alignn_with_its_batch_normalisation_at_rest(self):
        real = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=8)
        real.model.eval()
        crystals = [real.sample(entry) for entry in entries(4, 6)]

        def step(part, most=6):
            graph, line_graph, lattice, target = real.batch(part)
            if len(part) > most:
                raise MemoryError
            return nn.functional.mse_loss(real.model((graph, line_graph, lattice)).reshape(-1), target)

        step(crystals).backward()
        whole = [None if p.grad is None else p.grad.clone() for p in real.model.parameters()]
        real.optimizer.zero_grad()
        assert run_with_split(lambda part: step(part, 3), crystals, real.model).parts == (3, 3)
        for parameter, expected in zip(real.model.parameters(), whole, strict=True):
            if expected is None:
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-5)

    def test_a_single_graph_that_does_not_fit_is_named(self, workload, samples):
        before = copy.deepcopy(workload.model.state_dict())
        mean_loss(workload)(samples).backward()
        held = gradients(workload.model)
        seen = []
        with pytest.raises(DoesNotFitError, match=f"sample 0 .{SIZES[0][0]:,} nodes, .* does not fit on its own"):
            run_with_split(mean_loss(workload, 0, seen), samples, workload.model)
        assert seen == [16, 8, 4, 2, 1]
        # Nothing is left of it: neither gradients nor weights.
        for found, expected in zip(gradients(workload.model), held, strict=True):
            assert torch.equal(found, expected)
        assert all(torch.equal(before[name], value) for name, value in workload.model.state_dict().items())

    def test_the_one_that_does_not_fit_is_told_from_those_that_do(self, workload, samples):
        def step(part):
            if any(graph is samples[11] for graph in part):
                raise MemoryError
            return mean_loss(workload)(part)

        with pytest.raises(DoesNotFitError, match="sample 11 "):
            run_with_split(step, samples, workload.model)

    def test_crystals_are_named_by_their_id(self, workload):
        with pytest.raises(DoesNotFitError, match=r"sample 0 .AFLOW-0"):
            run_with_split(_always, entries(4, 2), workload.model)

    def test_other_errors_pass_and_leave_no_gradients(self, workload, samples):
        def step(part):
            raise ValueError("a label is missing")

        with pytest.raises(ValueError, match="label"):
            run_with_split(step, samples, workload.model)
        assert all(parameter.grad is None for parameter in workload.model.parameters())

    def test_no_samples(self, workload):
        with pytest.raises(InputError, match="no samples"):
            run_with_split(mean_loss(workload), [], workload.model)

    def test_a_distributed_model_is_refused(self, samples):
        class DistributedDataParallel(nn.Linear):
            """Looks like torch's, which needs a process group to be made."""

        with pytest.raises(InputError, match="ranks must run equally many"):
            run_with_split(lambda part: part, samples, DistributedDataParallel(1, 1))

    def test_the_monitor_logs_a_split(self, workload, samples, tmp_path):
        with MemoryMonitor(tmp_path / "run.jsonl") as monitor:
            for batch in monitor.watch([samples]):
                monitor.run_with_split(mean_loss(workload, 8), batch, workload.model)
        run = read_run(monitor.path)
        assert run.events[-1]["parts"] == [8, 8]
        assert run.steps[0]["sizes"]["graphs"] == 16


def _always(part):
    raise MemoryError


class TestGuard:
    def test_the_error_names_the_batch_the_prediction_and_the_next_budget(self, workload, samples):
        nodes = sum(nodes for nodes, _, _ in SIZES)
        cal = calibration(node=2**20, fixed=2**20)
        with pytest.raises(DoesNotFitError) as caught, oom_guard(samples, calibration=cal):
            raise RuntimeError(OUT)
        text = str(caught.value)
        assert f"16 graphs, {nodes:,} nodes, " in text
        assert "line-graph edges ran out of memory on cpu" in text
        assert f"predicted {nodes + 1} MiB" in text
        assert "asked for 64 bytes" in text
        assert "memory='" in text
        assert caught.value.exit_code == 1
        assert isinstance(caught.value.__cause__, RuntimeError)

    def test_the_next_budget_is_one_that_a_sampler_takes(self, samples):
        cal = calibration(node=2**20, fixed=2**20)
        with pytest.raises(DoesNotFitError) as caught, oom_guard(samples, calibration=cal):
            raise MemoryError
        memory = str(caught.value).split("memory='")[1].split("'")[0]
        table = SizeTable.from_counts(nodes=[nodes for nodes, _, _ in SIZES])
        sampler = NodeBudgetSampler(table, calibration=cal, memory=memory)
        assert len(sampler) > 1

    def test_without_a_calibration_it_is_the_largest_size(self, samples):
        lines = sum(line_edges for _, _, line_edges in SIZES)
        batch = [(graph, line_graph) for graph, line_graph in samples]
        with pytest.raises(DoesNotFitError, match=f"max_line_edges={int(0.9 * lines)} "), oom_guard(batch):
            raise MemoryError

    def test_a_batch_of_one_and_one_that_can_not_be_counted(self, samples):
        with pytest.raises(DoesNotFitError, match="this single graph does not fit"), oom_guard(samples[:1]):
            raise MemoryError
        with pytest.raises(DoesNotFitError, match="a batch of unknown sizes"), oom_guard(object()):
            raise MemoryError

    def test_a_model_that_takes_all_memory(self, samples):
        cal = calibration(node=1e-3, fixed=1e9)
        with pytest.raises(DoesNotFitError, match="nearly all of this memory"), oom_guard(samples, calibration=cal):
            raise MemoryError

    def test_other_errors_pass(self):
        with pytest.raises(ValueError, match="label"), oom_guard():
            raise ValueError("the label is missing")

    def test_a_real_allocation_that_is_too_large(self):
        with pytest.raises(DoesNotFitError, match="asked for"), oom_guard([0], sizes=lambda batch: {"graphs": 2}):
            torch.empty(2**62, dtype=torch.uint8)

    def test_tensors_of_the_step_are_freed(self):
        import weakref

        alive = []

        def step():
            activations = torch.ones(8)
            alive.append(weakref.ref(activations))
            raise MemoryError

        with pytest.raises(DoesNotFitError) as caught, oom_guard():
            step()
        assert caught.value.__cause__ is not None
        assert alive[0]() is None

    def test_the_monitors_guard_knows_the_batch_and_logs(self, tmp_path):
        table = SizeTable.from_counts(nodes=[100, 200, 300])
        monitor = MemoryMonitor(tmp_path / "run.jsonl", sizes=table)

        def train():
            for _ in monitor.watch([[0, 2]]):
                with monitor.oom_guard():
                    raise MemoryError

        with pytest.raises(DoesNotFitError, match=r"2 graphs, 400 nodes .*max_nodes=360"):
            train()
        monitor.close()
        run = read_run(monitor.path)
        assert "max_nodes=360" in next(e for e in run.events if e["event"] == "out of memory")["text"]
