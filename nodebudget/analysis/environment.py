"""What this machine has and lacks: versions, devices, and whether a calibration would run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nodebudget.errors import MissingError
from nodebudget.profiling.cuda_allocator.allocator import allocator_settings
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.optional_imports import check_dgl_on, check_torch, installed, load_dgl, require
from nodebudget.utils.version import __version__

OK, MISSING, BROKEN = "ok", "missing", "broken"

#: Module, package, what lacks without it, and whether calibrating with the built-in workload needs it.
_PACKAGES = (
    ("alignn", "alignn", "the built-in workload", True),
    ("jarvis.core.atoms", "jarvis-tools", "reading crystals", True),
    ("vesin", "vesin", "measuring crystals", True),
    ("pymatgen.core", "pymatgen", "crystals of the quickstart", False),
    ("torch_geometric", "torch-geometric", "graphs of PyTorch Geometric", False),
    ("matplotlib", "matplotlib", "pictures", False),
    ("pyarrow", "pyarrow", "sizes and crystals as .parquet", False),
    ("ase", "ase", "crystals of ASE databases", False),
    ("distributed", "distributed", "measuring on a Dask cluster", False),
    ("lmdb", "lmdb", "datasets that alignn keeps in LMDB", False),
)


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name as the driver says it, and its memory in bytes."""

    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        state: "ok", "missing" or "broken".
        found: Version, or what is wrong.
        purpose: What it is for.
        next_step: What to do where it is not "ok".
        needed: Whether calibrating with the built-in workload fails without it.
    """

    name: str
    state: str
    found: str
    purpose: str
    next_step: str = ""
    needed: bool = False


@dataclass(frozen=True)
class Examination:
    """All checks of a machine.

    Attributes:
        device: Where a calibration would run: "cuda:0" where there is a GPU, even one that can't be used,
            else "cpu".
        checks: What was looked at, in the order of reading.
        gpus: The CUDA devices that PyTorch can use.
        driver: Version of the NVIDIA driver, or None.
        host_free_bytes: Memory that the host has available, or None where the system does not say.
        versions: Version by package; None for what is not installed.
        allocator: Settings of PyTorch's CUDA allocator from the environment, or "default".
    """

    device: str
    checks: tuple[Check, ...]
    gpus: tuple[Gpu, ...]
    driver: str | None
    host_free_bytes: int | None
    versions: dict[str, str | None]
    allocator: str

    @property
    def blocking(self) -> tuple[Check, ...]:
        """What makes a calibration fail."""
        return tuple(check for check in self.checks if check.needed and check.state != OK)

    def require_calibrate(self) -> None:
        """Refuse a machine on which a calibration would fail.

        Raises:
            MissingError: With the first reason, and how many more there are.
        """
        if not self.blocking:
            return
        first, *more = self.blocking
        others = f"; {', '.join(check.name for check in more)} as well" if more else ""
        raise MissingError(
            f"'nodebudget calibrate' with the built-in workload would fail on {self.device}: "
            f"{first.name} is {first.state} ({first.found}){others}",
            hint=first.next_step,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with `ok` and `reasons` beside the attributes."""
        reasons = [f"{check.name} is {check.state}: {check.found}" for check in self.blocking]
        return {"ok": not reasons, "reasons": reasons, **asdict(self)}


def examine() -> Examination:
    """Look at this machine. Nothing that is missing or broken raises."""
    driver = _driver()
    torch, state = _torch()
    cuda, gpus = _cuda(torch, driver)
    device = "cuda:0" if gpus or driver is not None else "cpu"
    allocator = allocator_settings()
    free = _host_free()
    checks = [
        Check("nodebudget", OK, f"{__version__}, Python {platform.python_version()}", "everything"),
        state,
        cuda,
        *_gpu_checks(torch, gpus),
        _dgl(torch, gpus),
        *_packages(),
        Check("allocator settings", OK, allocator, "memory on a GPU"),
        Check("free host memory", OK, "not known" if free is None else format_bytes(free), "memory on the CPU"),
    ]
    names = ("torch", "dgl", *(package for _, package, _, _ in _PACKAGES))
    versions = {name: installed(name) for name in names}
    return Examination(device, tuple(checks), gpus, driver, free, versions, allocator)


def _torch() -> tuple[Any, Check]:
    purpose = "everything but measuring"
    try:
        torch = require("torch")
        check_torch()
    except (MissingError, OSError, AttributeError, RuntimeError) as error:
        # A library that does not load shows as OSError.
        state = MISSING if installed("torch") is None else BROKEN
        return None, Check(
            "torch", state, _line(error), purpose, "install the torch for your GPU: pip install torch", True
        )
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return torch, Check("torch", OK, f"{torch.__version__}, built {built}", purpose, needed=True)


def _cuda(torch: Any, driver: str | None) -> tuple[Check, tuple[Gpu, ...]]:
    name, purpose = "CUDA", "calibrating and tuning on a GPU"
    with warnings.catch_warnings(record=True) as said:
        # PyTorch says why it can't use a GPU (a driver that is too old, say) in a warning.
        warnings.simplefilter("always")
        available = torch is not None and bool(torch.cuda.is_available())
    if available:
        gpus = tuple(_gpu(torch, index) for index in range(torch.cuda.device_count()))
        return Check(name, OK, f"driver {driver or 'not known'}, {len(gpus)} visible", purpose, needed=True), gpus
    if driver is None:
        return Check(name, MISSING, "no NVIDIA driver", purpose, "measure with --device cpu"), ()
    found, step = _why_no_cuda(torch, [str(entry.message) for entry in said])
    return Check(name, BROKEN, f"driver {driver}, but {found}", purpose, step, needed=True), ()


def _why_no_cuda(torch: Any, said: list[str]) -> tuple[str, str]:
    """Say why PyTorch sees no GPU on a machine that has a driver, and what to do."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch is None:
        return "torch does not import", "mend torch first"
    if not torch.version.cuda:
        return "torch is built without CUDA", "install a torch that is built for CUDA, or measure with --device cpu"
    if hidden is not None:
        return f"CUDA_VISIBLE_DEVICES={hidden!r} leaves no GPU", "unset it, or name a GPU that is there"
    words = " ".join(said[0].split())[:200] if said else "torch finds no GPU"
    return words, f"install a driver for CUDA {torch.version.cuda}, or a torch for an older one"


def _gpu(torch: Any, index: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(index)
    return Gpu(torch.cuda.get_device_name(index), int(total), int(free))


def _gpu_checks(torch: Any, gpus: Iterable[Gpu]) -> list[Check]:
    found = []
    for index, gpu in enumerate(gpus):
        memory = f"{gpu.name}, {format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}"
        wrong = _try_gpu(torch, index)
        state, text = (BROKEN, wrong) if wrong else (OK, memory)
        step = "install a torch that is built for this GPU, or free its memory" if wrong else ""
        found.append(Check(f"GPU {index}", state, text, "calibrating and tuning", step, needed=index == 0))
    return found


def _try_gpu(torch: Any, index: int) -> str:
    """Compute something: a GPU that is seen may be too old or too new for this build of torch."""
    try:
        (torch.ones(2, device=f"cuda:{index}") + 1).sum()
        torch.cuda.synchronize(index)
    except RuntimeError as error:
        return _line(error)
    return ""


def _dgl(torch: Any, gpus: tuple[Gpu, ...]) -> Check:
    name, purpose = "DGL", "the built-in workload"
    if torch is None:
        return Check(name, BROKEN, "torch does not import", purpose, "mend torch first", needed=True)
    try:
        dgl = load_dgl()
    except MissingError as error:
        state = MISSING if installed("dgl") is None else BROKEN
        return Check(name, state, error.what, purpose, error.hint, needed=True)
    found = f"{dgl.__version__}, imports with torch {torch.__version__}"
    if gpus:
        try:
            check_dgl_on("cuda:0")
        except MissingError as error:
            return Check(name, BROKEN, f"{found}, but: {error.what}", purpose, error.hint, needed=True)
    # DGL's wheels name their CUDA in the local part of the version; the others are built without.
    build = "works on the GPU" if gpus else "CUDA build" if "+cu" in (installed("dgl") or "") else "CPU build"
    return Check(name, OK, f"{found}, {build}", purpose, needed=True)


def _packages() -> list[Check]:
    found = []
    for module, package, purpose, needed in _PACKAGES:
        try:
            require(module)
        except MissingError as error:
            state = MISSING if installed(package) is None else BROKEN
            text = "not installed" if state == MISSING else error.what
            found.append(Check(package, state, text, purpose, error.hint, needed))
        except Exception as error:  # whatever a package does at import is for this page to say
            found.append(Check(package, BROKEN, _line(error), purpose, f"reinstall {package}", needed))
        else:
            found.append(Check(package, OK, installed(package) or "installed", purpose, needed=needed))
    return found


def _driver() -> str | None:
    """Return the version of the NVIDIA driver, from the kernel or from its own tool; None without one."""
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
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def _host_free() -> int | None:
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
