"""Check what this machine has and lacks: versions, devices, and whether a calibration can run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nodebudget.errors import MissingError, first_line
from nodebudget.profiling.cuda_allocator.allocator import allocator_settings
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.host_memory import available_memory
from nodebudget.utils.optional_imports import check_dgl_on, check_torch, installed, load_dgl, require
from nodebudget.utils.version import __version__

OK, MISSING, BROKEN = "ok", "missing", "broken"

#: Module, package, its purpose, and whether calibrating the built-in workload needs it.
_PACKAGES = (
    ("alignn", "alignn", "the built-in workload", True),
    ("jarvis.core.atoms", "jarvis-tools", "reading crystals", True),
    ("vesin", "vesin", "measuring crystals", True),
    ("pymatgen.core", "pymatgen", "crystals of the quickstart", False),
    ("torch_geometric", "torch-geometric", "graphs of PyTorch Geometric", False),
    ("matplotlib", "matplotlib", "plots", False),
    ("pyarrow", "pyarrow", "sizes and crystals as .parquet", False),
    ("ase", "ase", "crystals of ASE databases", False),
    ("distributed", "distributed", "measuring on a Dask cluster", False),
    ("lmdb", "lmdb", "datasets of alignn in LMDB", False),
)


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name from the driver, and its memory in bytes."""

    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str  #: Package, device or setting.
    state: str  #: "ok", "missing" or "broken".
    details: str  #: The version, or the problem.
    purpose: str  #: What it is needed for.
    next_step: str = ""  #: What to do if it is not "ok".
    needed: bool = False  #: Whether calibrating the built-in workload fails without it.


@dataclass(frozen=True)
class Examination:
    """All checks of a machine."""

    device: str  #: Where a calibration would run: "cuda:0" if there is a GPU, even an unusable one, else "cpu".
    checks: tuple[Check, ...]  #: The checks.
    gpus: tuple[Gpu, ...]  #: The CUDA devices that PyTorch can use.
    driver: str | None  #: Version of the NVIDIA driver, or None.
    host_free_bytes: int | None  #: Available host memory, or None if the system does not report it.
    versions: dict[str, str | None]  #: Package → version; None if it is not installed.
    allocator: str  #: Settings of PyTorch's CUDA allocator from the environment, or "default".

    @property
    def blocking(self) -> tuple[Check, ...]:
        """The failed checks without which a calibration fails."""
        return tuple(check for check in self.checks if check.needed and check.state != OK)

    def require_calibrate(self) -> None:
        """Raise a MissingError where a calibration would fail: with the first reason, and the others in short."""
        if not self.blocking:
            return
        first, *more = self.blocking
        others = f"; also: {', '.join(check.name for check in more)}" if more else ""
        raise MissingError(
            f"'nodebudget calibrate' with the built-in workload would fail on {self.device}: "
            f"{first.name} is {first.state} ({first.details}){others}",
            hint=first.next_step,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with `ok` and `reasons` beside the attributes."""
        reasons = [f"{check.name} is {check.state}: {check.details}" for check in self.blocking]
        return {"ok": not reasons, "reasons": reasons, **asdict(self)}


def examine() -> Examination:
    """Check this machine. Missing and broken parts are reported and raise no error."""
    driver = _driver()
    torch, torch_check = _torch()
    cuda, gpus = _cuda(torch, driver)
    free, allocator = available_memory(), allocator_settings()
    checks = [
        Check("nodebudget", OK, f"{__version__}, Python {platform.python_version()}", "everything"),
        torch_check,
        cuda,
        *(_gpu(torch, index, gpu) for index, gpu in enumerate(gpus)),
        _dgl(torch, gpus),
        *(_import(name, name, partial(require, module), use, needed)[1] for module, name, use, needed in _PACKAGES),
        Check("allocator settings", OK, allocator, "memory on a GPU"),
        Check("free host memory", OK, "unknown" if free is None else format_bytes(free), "memory on the CPU"),
    ]
    versions = {name: installed(name) for name in ("torch", "dgl", *(package for _, package, _, _ in _PACKAGES))}
    device = "cuda:0" if gpus or driver is not None else "cpu"
    return Examination(device, tuple(checks), gpus, driver, free, versions, allocator)


def _import(
    name: str, package: str, load: Callable[[], Any], purpose: str, needed: bool, next_step: str = ""
) -> tuple[Any, Check]:
    """Return the module, or None, and the check."""
    try:
        module = load()
    except Exception as error:  # a package may raise any error when it is imported
        state, details = BROKEN, f"{type(error).__name__}: {first_line(error)}"
        step = next_step or f"reinstall {package}"
        if isinstance(error, MissingError):
            details, step = error.what, next_step or error.hint
            if installed(package) is None:
                state, details = MISSING, "not installed"
        return None, Check(name, state, details, purpose, step, needed)
    return module, Check(name, OK, installed(package) or "installed", purpose, needed=needed)


def _torch() -> tuple[Any, Check]:
    def load() -> Any:
        torch = require("torch")
        check_torch()
        return torch

    step = "install the torch for your GPU: pip install torch"
    torch, check = _import("torch", "torch", load, "everything but measuring", True, step)
    if torch is None:
        return None, check
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return torch, Check("torch", OK, f"{torch.__version__}, built {build}", check.purpose, needed=True)


def _cuda(torch: Any, driver: str | None) -> tuple[Check, tuple[Gpu, ...]]:
    name, purpose = "CUDA", "calibrating and tuning on a GPU"
    with warnings.catch_warnings(record=True) as caught:
        # PyTorch warns why it can't use a GPU, for example that the driver is too old.
        warnings.simplefilter("always")
        available = torch is not None and bool(torch.cuda.is_available())
    if available:
        gpus = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            gpus.append(Gpu(torch.cuda.get_device_name(index), int(total), int(free)))
        return Check(name, OK, f"driver {driver or 'unknown'}, {len(gpus)} visible", purpose, needed=True), tuple(gpus)
    if driver is None:
        return Check(name, MISSING, "no NVIDIA driver", purpose, "measure with --device cpu"), ()
    reason, step = _why_no_cuda(torch, [str(entry.message) for entry in caught])
    return Check(name, BROKEN, f"driver {driver}, but {reason}", purpose, step, needed=True), ()


def _why_no_cuda(torch: Any, messages: list[str]) -> tuple[str, str]:
    """Return why PyTorch finds no GPU on a machine with a driver, and what to do."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch is None:
        return "torch does not import", "repair torch first"
    if not torch.version.cuda:
        return "torch is built without CUDA", "install a torch that is built for CUDA, or measure with --device cpu"
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} leaves no GPU", "unset it, or set it to the number of a GPU"
    reason = " ".join(messages[0].split())[:200] if messages else "torch finds no GPU"
    return reason, f"install a driver for CUDA {torch.version.cuda}, or a torch for an older one"


def _gpu(torch: Any, index: int, gpu: Gpu) -> Check:
    """Compute something: a visible GPU may be too old or too new for this build of torch."""
    name, purpose, needed = f"GPU {index}", "calibrating and tuning", index == 0
    try:
        (torch.ones(2, device=f"cuda:{index}") + 1).sum()
        torch.cuda.synchronize(index)
    except RuntimeError as error:
        step = "install a torch that is built for this GPU, or free its memory"
        return Check(name, BROKEN, f"{type(error).__name__}: {first_line(error)}", purpose, step, needed)
    memory = f"{gpu.name}, {format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}"
    return Check(name, OK, memory, purpose, needed=needed)


def _dgl(torch: Any, gpus: tuple[Gpu, ...]) -> Check:
    name, purpose = "DGL", "the built-in workload"
    if torch is None:
        return Check(name, BROKEN, "torch does not import", purpose, "repair torch first", needed=True)
    dgl, check = _import(name, "dgl", load_dgl, purpose, True)
    if dgl is None:
        return check
    details = f"{dgl.__version__}, imports with torch {torch.__version__}"
    if gpus:
        try:
            check_dgl_on("cuda:0")
        except MissingError as error:
            return Check(name, BROKEN, f"{details}, but: {error.what}", purpose, error.hint, needed=True)
    # DGL's wheels name their CUDA in the local part of the version; the others are built without.
    build = "works on the GPU" if gpus else "CUDA build" if "+cu" in (installed("dgl") or "") else "CPU build"
    return Check(name, OK, f"{details}, {build}", purpose, needed=True)


def _driver() -> str | None:
    """Return the version of the NVIDIA driver, from the kernel or from nvidia-smi; None without one."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").partition("Module")[2].split()
        numbers = [word for word in words if word[0].isdigit() and "." in word]
        if numbers:
            return numbers[0]
    except OSError:
        pass
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)
