"""What a training step's memory is made of: real ALIGNN, and steps that are known to the byte."""

import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from crystals import entries
from hypothesis import given
from hypothesis import strategies as st
from paths import GOLDEN
from scripted_probe import ScriptedProbe

from nodebudget import SizeTable
from nodebudget.analysis.breakdown import Breakdown, Check, break_down, check_counts, choose_batches
from nodebudget.cli import main
from nodebudget.datasets.measure import measure
from nodebudget.errors import DoesNotFitError, InputError, WorkloadError
from nodebudget.profiling.attribution import PARTS, attribute
from nodebudget.profiling.open import open_probe
from nodebudget.profiling.phases import Mark, Recording, record_step
from nodebudget.report.breakdown import breakdown_report
from nodebudget.report.plots import save_picture
from nodebudget.report.text.render import render
from nodebudget.workloads.protocol import resident_storages
from nodebudget.workloads.registry import load_workload

MIB = 2**20


class Dense:
    """Layers on vectors, whose bytes can be counted by hand."""

    width = 512

    def __init__(self, device="cpu", *, optimizer=torch.optim.AdamW, parts=1, zero_last=False, fail=None, **options):
        self.model = torch.nn.Sequential(torch.nn.Linear(self.width, self.width), torch.nn.ReLU()).to(device)
        self.optimizer = optimizer(self.model.parameters(), lr=0.01, **options)
        self.device, self.parts, self.zero_last, self.fail = device, parts, zero_last, fail

    def batch(self, samples):
        return torch.ones(sum(samples), self.width, device=self.device)

    def step(self, batch):
        if self.fail is not None:
            raise self.fail
        if not self.zero_last:
            self.optimizer.zero_grad()
        for part in batch.chunk(self.parts):
            self.model(part).square().mean().backward()
        self.optimizer.step()
        if self.zero_last:
            self.optimizer.zero_grad()


NODES = [100, 200, 300, 400] * 3
SIZES = SizeTable.from_counts(NODES)
PARAMETERS = 4 * (512 * 512 + 512)


def one(workload, batch=(0, 1, 2, 3)):
    return break_down(workload, NODES, SIZES, open_probe("cpu"), {"typical": list(batch)})[0]


def test_the_parts_of_a_real_alignn_step_add_up_to_its_measured_peak():
    workload = load_workload("alignn", "cpu", hidden_features=32, alignn_layers=2, gcn_layers=2)
    crystals = entries(most=8, count=24)
    sizes = measure(crystals)
    found = break_down(workload, crystals, sizes, open_probe("cpu"), choose_batches(sizes, 6))
    assert [entry.label for entry in found] == ["typical", "largest", "budget"]
    for entry in found:
        assert abs(entry.error) < 0.01
        assert entry.peak["activations"] > 0.5 * entry.total
        assert {"batch", "zero_grad", "forward", "backward", "optimizer"} <= set(entry.phases)
        assert entry.timeline.min() >= 0
    assert found[1].total > found[2].total
    checks = check_counts(workload)
    assert [check.what.split(":")[0] for check in checks] == ["parameters and buffers", "gradients", "optimizer state"]
    assert all(abs(check.error) < 0.01 for check in checks)


def test_the_parts_of_a_known_step_are_those_that_can_be_counted():
    entry = one(Dense())
    rows = 100 + 200 + 300 + 400
    assert abs(entry.error) < 1e-3
    assert entry.peak["parameters"] == PARAMETERS
    assert entry.peak["optimizer state"] == pytest.approx(2 * PARAMETERS, rel=1e-3)
    assert entry.peak["batch data"] == 4 * rows * 512
    # The ReLU's output and the square's; the linear layer's output lives until it is not needed.
    assert entry.phases["loss"]["activations"] + entry.phases["loss"]["temporary"] >= 2 * 4 * rows * 512
    assert entry.phases["optimizer"]["gradients"] == PARAMETERS
    assert entry.phases["forward"]["gradients"] == 0


def test_gradients_that_are_zeroed_last_are_no_part_of_the_forward_pass_and_else_they_are():
    assert one(Dense(zero_last=True)).phases["batch"]["gradients"] == 0
    assert one(Dense()).phases["batch"]["gradients"] == PARAMETERS


def test_accumulated_steps_are_marked_part_by_part():
    entry = one(Dense(parts=4))
    phases = [phase for phase, _ in entry.starts]
    assert phases.count("forward") == phases.count("backward") == 4
    assert abs(entry.error) < 1e-3
    assert entry.phases["loss"]["activations"] < one(Dense()).phases["loss"]["activations"] / 2


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({"optimizer": torch.optim.SGD}, 0),
        ({"optimizer": torch.optim.SGD, "momentum": 0.9}, 1),
        ({"optimizer": torch.optim.Adam}, 2),
        ({"optimizer": torch.optim.AdamW, "amsgrad": True}, 3),
    ],
)
def test_optimizer_state_is_as_large_as_the_rule_says(options, times):
    workload = Dense(**options)
    one(workload)
    state = check_counts(workload)[-1]
    assert state.what.startswith(f"optimizer state: {times} ×")
    assert state.counted == times * PARAMETERS
    assert abs(state.error) < 1e-3


def test_an_optimizer_without_a_rule_is_left_unchecked():
    workload = Dense(optimizer=torch.optim.Adagrad)
    one(workload)
    assert len(check_counts(workload)) == 2


def test_nothing_of_the_hooks_stays():
    workload = Dense()
    before = torch.autograd.backward
    record_step(workload, [10], "cpu")
    assert torch.autograd.backward is before
    assert "zero_grad" not in vars(workload.optimizer)
    assert not workload.model._forward_hooks
    assert not workload.model._forward_pre_hooks
    with pytest.raises(ValueError, match="no label"):
        record_step(Dense(fail=ValueError("no label")), [10], "cpu")
    assert torch.autograd.backward is before


def test_shared_storages_count_once():
    workload = Dense()
    workload.model.tied = workload.model[0].weight
    assert sum(nbytes for _, nbytes in resident_storages(workload).values()) == PARAMETERS


@st.composite
def recordings(draw):
    """Blocks that are made and released, with marks anywhere."""
    events, alive, address = [], {}, 1000
    for _ in range(draw(st.integers(0, 30))):
        if alive and draw(st.booleans()):
            gone = draw(st.sampled_from(sorted(alive)))
            events.append((gone, -alive.pop(gone)))
        else:
            address += 1
            alive[address] = draw(st.integers(1, 1000))
            events.append((address, alive[address]))
    phases = ("batch", "forward", "loss", "backward", "between", "optimizer")
    places = sorted(draw(st.lists(st.integers(0, len(events)), max_size=6)))
    marks = [Mark("batch", 0, {})]
    for place in places:
        held = draw(st.lists(st.integers(1001, 1030), max_size=3))
        marks.append(Mark(draw(st.sampled_from(phases)), place, dict.fromkeys(held, "gradients")))
    table = np.array(events, dtype=np.int64).reshape(-1, 2)
    return Recording(table[:, 0], table[:, 1], tuple(marks), {1: 500})


@given(recordings())
def test_the_parts_always_add_up_to_what_is_live(recording):
    timeline = attribute(recording)
    live = 500 + np.concatenate([[0], np.cumsum(recording.nbytes)])
    assert timeline.shape == (len(recording.blocks) + 1, len(PARTS))
    assert timeline.sum(axis=1).tolist() == live.tolist()
    assert timeline.min() >= 0


def test_an_address_that_comes_again_is_another_block():
    recording = Recording(
        np.array([7, 7, 7]), np.array([100, -100, 30]), (Mark("batch", 0, {}), Mark("between", 1, {})), {}
    )
    timeline = attribute(recording)
    assert timeline[:, PARTS.index("batch data")].tolist() == [0, 100, 0, 0]
    assert timeline[:, PARTS.index("temporary")].tolist() == [0, 0, 0, 30]


def test_what_the_device_counts_beyond_the_blocks_is_rounding():
    recording = Recording(np.array([7]), np.array([100]), (Mark("batch", 0, {}),), {1: 50}, beside=200, counted=512)
    assert attribute(recording)[1].tolist() == [0, 0, 0, 0, 0, 150, 200, 162]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 5))
def test_the_chosen_batches_are_what_they_are_called(nodes, batch_size, seed):
    batches = choose_batches(SizeTable.from_counts(nodes), batch_size, seed=seed)
    loads = {label: sum(nodes[index] for index in batch) for label, batch in batches.items()}
    assert all(len(set(batch)) == len(batch) <= batch_size for batch in batches.values())
    assert loads["typical"] <= loads["largest"]


@pytest.mark.parametrize(
    ("sizes", "batch_size", "words"), [(SIZES, 0, "batch_size is 0"), (SizeTable.from_counts([]), 4, "is empty")]
)
def test_wrong_input(sizes, batch_size, words):
    with pytest.raises(InputError, match=words):
        choose_batches(sizes, batch_size)


@pytest.mark.parametrize(
    ("fail", "error", "words"),
    [
        (
            ValueError("no label\nand more"),
            WorkloadError,
            "a step on the typical batch of 2 graphs raised ValueError: no label;",
        ),
        (
            torch.cuda.OutOfMemoryError("tried to allocate"),
            DoesNotFitError,
            "typical batch of 2 graphs ran out of memory",
        ),
    ],
)
def test_a_step_that_raises_is_named(fail, error, words):
    with pytest.raises(error, match=words):
        one(Dense(fail=fail), [0, 1])


def test_a_step_that_is_not_expected_to_fit_is_not_tried():
    class Small(ScriptedProbe):
        device = "cpu"

    probe = Small(lambda: 10 * MIB, free=30 * MIB)
    with pytest.raises(DoesNotFitError, match="predicted to take"):
        break_down(Dense(), NODES, SIZES, probe, {"typical": [0], "largest": [3, 7, 11]})


def made_up(label, scale, **more):
    """A step in bytes that no version of PyTorch changes."""
    quiet = [3 * MIB, 6 * MIB, 3 * MIB, 0, 0, 0, more.get("beside", 0), 0]
    forward = [3 * MIB, 6 * MIB, 0, scale, 20 * scale, 2 * scale, more.get("beside", 0), 0]
    optimizer = [3 * MIB, 6 * MIB, 3 * MIB, scale, 0, 3 * MIB, more.get("beside", 0), 0]
    rows = [quiet, quiet, forward, forward, optimizer]
    peak = dict(zip(PARTS, max(rows, key=sum), strict=True))
    phases = {
        name: dict(zip(PARTS, row, strict=True)) for name, row in (("forward", forward), ("optimizer", optimizer))
    }
    return Breakdown(
        label,
        {"graphs": 16, "nodes": 100},
        peak,
        "forward" if sum(forward) > sum(optimizer) else "optimizer",
        phases,
        int(sum(peak.values()) * 1.001),
        np.array(rows),
        (("batch", 0), ("forward", 1), ("between", 3), ("optimizer", 3)),
    )


STEPS = [made_up("typical", 5 * MIB), made_up("largest", 8 * MIB), made_up("budget", 5 * MIB)]


CHECKS = [Check("gradients: 1 × the trained parameters", 1000, 1010), Check("optimizer state: 0 × …", 0, 0)]


@pytest.mark.parametrize(
    ("name", "steps"), [("breakdown", STEPS), ("breakdown_gpu", [made_up("typical", MIB // 8, beside=8 * MIB)])]
)
def test_text_is_as_it_was_looked_at(name, steps):
    text = render(breakdown_report(steps, CHECKS), 80) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("NODEBUDGET_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_the_picture_is_a_png_of_a_readable_size():
    file = io.BytesIO()
    save_picture(breakdown_report(STEPS, CHECKS).draw(), file, "measured on nothing")
    width, height = struct.unpack(">II", file.getvalue()[16:24])
    assert width > 1000
    assert height > 400


@pytest.fixture
def crystals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("crystals.json").write_text(json.dumps(entries(most=6, count=12)))
    return tmp_path


def test_the_command(crystals):
    arguments = ["breakdown", "--device", "cpu", "--workload", "workloads:Linear", "--data", "crystals.json"]
    arguments += ["--batch-size", "4", "--plot", "step.png", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [entry["batch"] for entry in found["batches"]] == ["typical", "largest", "budget"]
    assert all(abs(entry["error"]) < 0.01 for entry in found["batches"])
    assert Path("step.png").read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(main, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--device", "cpu", "--data", "crystals.json", "--batch-size", "0"], "--batch-size is 0", 2),
        (["--data", "crystals.json"], "no device", 2),
        (["--device", "cpu", "--data", "nowhere.json"], "nowhere.json", 2),
        (["--device", "cpu", "--data", "sizes.npz"], "holds sizes, not crystals", 2),
        (["--device", "cpu", "--data", "crystals.json", "--workload", "workloads:none"], "no callable", 2),
        (["--device", "cpu", "--data", "crystals.json", "--plot", "no/where.png"], "no folder", 2),
        (["--gpu", "97", "--data", "crystals.json"], "97", 3),
    ],
)
def test_wrong_input_of_the_command_is_one_sentence(crystals, arguments, words, code):
    SIZES.save("sizes.npz")
    result = CliRunner().invoke(main, ["breakdown", *arguments])
    assert result.exit_code == code
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
