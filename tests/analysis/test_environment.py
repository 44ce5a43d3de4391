"""The doctor: what it finds here, and on machines that lack or break something."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from nodebudget.analysis import environment as environment
from nodebudget.analysis.environment import examine
from nodebudget.cli import main
from nodebudget.errors import MissingError

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def check(found, name):
    return next(entry for entry in found.checks if entry.name == name)


@pytest.fixture
def light(monkeypatch):
    """Look at one small package only: importing them all takes seconds."""
    monkeypatch.setattr(environment, "_PACKAGES", (("lmdb", "lmdb", "datasets that alignn keeps in LMDB", False),))


@no_gpu
def test_this_machine_can_calibrate_on_the_cpu():
    found = examine()
    assert found.device == "cpu"
    assert found.blocking == ()
    found.require_calibrate()
    assert check(found, "torch").details.startswith(torch.__version__)
    assert found.versions["dgl"] in check(found, "DGL").details
    assert {entry.state for entry in found.checks if entry.needed} == {"ok"}
    assert found.host_free_bytes > 2**20


def test_the_command_prints_one_json_object(light):
    done = CliRunner().invoke(main, ["doctor", "--json"])
    said = json.loads(done.stdout)
    assert done.exit_code == (0 if said["ok"] else 3)
    assert said.keys() >= {"ok", "reasons", "device", "checks", "gpus", "driver", "host_free_bytes", "versions"}
    assert {"name", "state", "details", "purpose", "next_step", "needed"} == said["checks"][0].keys()


def assert_dgl_is_the_reason(exit_code, stdout, stderr):
    assert exit_code == 3
    assert re.search(r"DGL +broken", stdout)
    assert "does not import with torch" in stderr
    assert "DGL: pip install dgl==1.1.3" in stdout
    assert "Traceback" not in stdout + stderr
    (sentence,) = stderr.strip().splitlines()
    assert sentence.startswith("nodebudget: 'nodebudget calibrate' with the built-in workload would fail on ")
    assert "DGL is broken" in sentence


def test_a_broken_dgl_is_the_reason_for_exit_code_3(light, monkeypatch):
    monkeypatch.setitem(sys.modules, "dgl", None)
    done = CliRunner().invoke(main, ["doctor"])
    assert_dgl_is_the_reason(done.exit_code, done.stdout, done.stderr)


@pytest.mark.slow
def test_a_dgl_of_another_torch_in_a_process_of_its_own(tmp_path):
    # What dgl 2.1.0 does with a torch whose torchdata has no datapipes.
    (tmp_path / "dgl").mkdir()
    (tmp_path / "dgl" / "__init__.py").write_text("from torchdata.datapipes.iter import IterDataPipe\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "nodebudget", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert_dgl_is_the_reason(done.returncode, done.stdout, done.stderr)


@no_gpu
def test_a_package_that_is_not_there_names_the_extra(light, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    monkeypatch.setattr(environment, "installed", lambda package: None if package == "lmdb" else "1.0")
    entry = check(examine(), "lmdb")
    assert (entry.state, entry.details) == ("missing", "not installed")
    assert "nodebudget[alignn]" in entry.next_step
    assert examine().blocking == ()


def test_a_package_that_raises_at_import_is_broken_and_the_page_goes_on(light, monkeypatch):
    def fails(module):
        raise ValueError("numpy.dtype size changed,\nmay indicate binary incompatibility")

    monkeypatch.setattr(environment, "require", lambda name: torch if name == "torch" else fails(name))
    entry = check(examine(), "lmdb")
    assert entry.state == "broken"
    assert entry.details == "ValueError: numpy.dtype size changed,"


def test_without_torch_the_rest_is_still_said(light, monkeypatch):
    def none(module):
        raise MissingError("torch is needed for this and does not import", hint="install it")

    monkeypatch.setattr(environment, "require", none)
    monkeypatch.setattr(environment, "installed", lambda package: None)
    monkeypatch.setattr(environment, "_driver", lambda: None)
    found = examine()
    assert [entry.name for entry in found.blocking] == ["torch", "DGL"]
    assert check(found, "torch").state == "missing"
    assert "pip install torch" in check(found, "torch").next_step
    with pytest.raises(MissingError, match=r"torch is missing.*; also: DGL") as caught:
        found.require_calibrate()
    assert caught.value.exit_code == 3


def fake_torch(**cuda):
    """A torch on a machine with a driver that does not give it a GPU, unless `cuda` says so."""
    functions = {"is_available": lambda: False, "device_count": lambda: 0, **cuda}
    return SimpleNamespace(
        __version__="2.13.0", version=SimpleNamespace(cuda="13.0"), cuda=SimpleNamespace(**functions)
    )


@pytest.mark.parametrize(
    ("built", "visible", "words"),
    [
        (None, None, "torch is built without CUDA"),
        ("13.0", "", "CUDA_VISIBLE_DEVICES='' leaves no GPU"),
        ("13.0", None, "torch finds no GPU"),
    ],
)
def test_a_driver_whose_gpu_cannot_be_used_says_why(light, monkeypatch, built, visible, words):
    torch_ = fake_torch()
    torch_.version.cuda = built
    monkeypatch.setattr(environment, "require", lambda name: torch_)
    monkeypatch.setattr(environment, "_driver", lambda: "580.65.06")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = examine()
    assert found.device == "cuda:0"
    assert check(found, "CUDA").state == "broken"
    assert f"driver 580.65.06, but {words}" in check(found, "CUDA").details
    assert check(found, "CUDA") in found.blocking


def test_a_driver_too_old_is_said_in_torchs_own_words(light, monkeypatch):
    def available():
        import warnings

        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    monkeypatch.setattr(environment, "require", lambda name: fake_torch(is_available=available))
    monkeypatch.setattr(environment, "_driver", lambda: "470.1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "driver on your system is too old" in check(examine(), "CUDA").details


def test_a_gpu_that_this_torch_cannot_compute_on_is_broken_and_dgl_without_cuda_too(light, monkeypatch):
    def no_kernel(*args, **options):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    torch_ = fake_torch(
        is_available=lambda: True,
        device_count=lambda: 1,
        mem_get_info=lambda index: (30 * 2**30, 40 * 2**30),
        get_device_name=lambda index: "NVIDIA X",
    )
    torch_.ones = no_kernel
    monkeypatch.setattr(environment, "require", lambda name: torch_)
    monkeypatch.setattr(environment, "_driver", lambda: "580.65.06")
    found = examine()
    assert found.gpus == (environment.Gpu("NVIDIA X", 40 * 2**30, 30 * 2**30),)
    assert "no kernel image" in check(found, "GPU 0").details
    if not torch.cuda.is_available():
        assert check(found, "DGL").state == "broken"
        assert [entry.name for entry in found.blocking] == ["GPU 0", "DGL"]


def test_settings_of_the_allocator_are_shown(light, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    assert examine().allocator == "expandable_segments:True"


def test_the_version_of_the_driver_comes_from_its_tool_where_the_kernel_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "Path", lambda place: tmp_path / "none")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.65.06\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert environment._driver() == "580.65.06"
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert environment._driver() is None


def test_brackets_in_messages_of_others_are_shown(light, monkeypatch):
    def fails(module):
        raise ValueError("[12:00:00] no [bold] move")

    monkeypatch.setattr(environment, "require", lambda name: torch if name == "torch" else fails(name))
    assert "[bold]" in CliRunner().invoke(main, ["doctor"], env={"COLUMNS": "200"}).stdout


def test_quiet_leaves_the_exit_code(light, monkeypatch):
    done = CliRunner().invoke(main, ["doctor", "-q"])
    assert done.stdout == ""
    assert done.exit_code == (3 if examine().blocking else 0)
