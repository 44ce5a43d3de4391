"""`calibrate --static`: the one step of a static plan is measured, and the largest shape that fits is searched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from crystals import entries

from nodebudget import DoesNotFitError, InputError, SizeTable
from nodebudget.analysis.static_step import STEPS, calibrate_static
from nodebudget.cli import main
from nodebudget.profiling.probe import Peak


class Nodes:
    """A batch of nodes that pads itself."""

    def __init__(self, values: torch.Tensor, graphs: int) -> None:
        self.values, self.graphs, self.device = values, graphs, values.device

    def batch_sizes(self) -> dict[str, int]:
        return {"graphs": self.graphs, "nodes": len(self.values)}

    def pad_to(self, shape: Any) -> Nodes:
        more = shape["nodes"] - len(self.values)
        return Nodes(torch.cat([self.values, self.values.new_zeros(more, 64)]), shape["graphs"])


class Wide:
    """Trains a linear layer on batches of nodes."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(64, 256)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.batches: list[int] = []

    def sizes(self, sample: Any) -> dict[str, int]:
        return {"nodes": len(sample)}

    def batch(self, samples: Any) -> Nodes:
        return Nodes(torch.cat(list(samples)), len(samples))

    def step(self, batch: Nodes) -> None:
        self.batches.append(len(batch.values))
        self.optimizer.zero_grad()
        self.model(batch.values).square().mean().backward()
        self.optimizer.step()


SAMPLES = [torch.ones(int(count), 64) for count in np.random.default_rng(0).integers(20, 60, 1200)]
SIZES = SizeTable.from_counts([len(sample) for sample in SAMPLES], [12 * len(sample) for sample in SAMPLES])


def test_three_steps_of_one_shape_are_measured() -> None:
    workload = Wide()
    found = calibrate_static(workload, SAMPLES, SIZES, graphs=30)
    assert workload.batches == [found.shape["nodes"]] * STEPS
    assert found.shape.keys() == {"graphs", "nodes"}  # batches have no edges
    assert found.graphs == 30
    assert found.peak > 2 * 4 * 256 * found.shape["nodes"]
    assert found.probes == ((30, found.peak),)


@pytest.mark.parametrize("start", [1, 8, 200, 1200])
def test_the_largest_shape_that_fits_is_found_with_a_handful_of_probes(start: int) -> None:
    memory = 16_000_000
    found = calibrate_static(Wide(), SAMPLES, SIZES, graphs=start, memory=memory)
    assert len(found.probes) <= 10
    # One percent is left, or what one batch fewer per epoch would take.
    assert found.peak <= memory
    fewer = -(-len(SAMPLES) // (-(-len(SAMPLES) // found.graphs) - 1))
    larger = calibrate_static(Wide(), SAMPLES, SIZES, graphs=fewer).peak
    assert found.peak >= 0.99 * memory or larger > memory


def test_a_device_without_memory_for_a_graph() -> None:
    with pytest.raises(DoesNotFitError, match=r"a step of 1 graph takes .*the memory is"):
        calibrate_static(Wide(), SAMPLES, SIZES, memory=10_000)


def test_shapes_that_run_out_of_memory_are_not_the_answer() -> None:
    class Small:
        """A device on which large steps run out of memory."""

        device = "cpu"

        def measure(self, run: Callable[[], Any]) -> Peak:
            run()
            if workload.batches[-1] > 5000:
                raise MemoryError("out of memory")
            return Peak(workload.batches[-1] * 1000, 0)

        def free_bytes(self) -> int:
            return 2**40

        def release(self) -> None: ...

        def describe(self) -> dict[str, Any]:
            return {"device": "cpu"}

    workload = Wide()
    found = calibrate_static(workload, SAMPLES, SIZES, Small(), graphs=64, memory=2**40)
    assert 4500 < found.shape["nodes"] <= 5000
    assert None in dict(found.probes).values()
    with pytest.raises(DoesNotFitError, match="takes more than the device has"):
        calibrate_static(workload, SAMPLES, SIZES, Small(), graphs=300)


def test_sizes_of_another_dataset() -> None:
    with pytest.raises(InputError, match="3 sizes"):
        calibrate_static(Wide(), SAMPLES, SIZES.take([0, 1, 2]))


def test_the_command_measures_alignns_step(tmp_path: Path) -> None:
    pytest.importorskip("alignn")
    data, output = tmp_path / "crystals.json", tmp_path / "static.json"
    data.write_text(json.dumps(entries(6, 40)))
    config = tmp_path / "small.toml"
    config.write_text(
        'workload = "nodebudget.workloads.alignn:PureAlignnWorkload"\n'
        "[arguments]\nalignn_layers = 1\ngcn_layers = 1\nhidden_features = 16\n"
    )
    command = ["calibrate", "--device", "cpu", "--workload", str(config), "--data", str(data), "--static"]
    done = CliRunner().invoke(main, [*command, "--batch-size", "10", "-o", str(output)])
    assert done.exit_code == 0, done.output
    assert "no model is fitted" in done.stdout
    written = json.loads(output.read_text())
    assert written["kind"] == "nodebudget.static_step"
    assert written["shape"].keys() == {"graphs", "nodes", "edges", "line_edges"}
    done = CliRunner().invoke(main, [*command, "--memory", "40MiB", "--json"])
    assert json.loads(done.stdout)["peak"] <= 40 * 2**20
    for wrong in (["--resume"], ["--predict-gpu", "1GiB"]):
        assert CliRunner().invoke(main, [*command, *wrong]).exit_code == 2
    assert CliRunner().invoke(main, [*command[:-1], "--memory", "1GiB"]).exit_code == 2
