"""A study: what pin_memory, workers, a graph cache and a cache of text encodings do to memory.

It compares pairs of runs that differ in one setting. Each run is a separate process, so that no memory of another run
is counted.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_loading.claims import Claim, Noise, judge
from data_loading.pairs import Finding, find, pairs_of
from data_loading.prepare import prepare
from data_loading.setup import Outcome, Setup
from nodebudget.errors import DoesNotFitError, InputError, WorkloadError
from nodebudget.profiling.open import open_probe
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.checks import check_count
from nodebudget.utils.optional_imports import require

__all__ = ["Claim", "Finding", "Noise", "Options", "Outcome", "Study", "run_study"]

Progress = Callable[[str, int, int], None]

#: Makes glibc return freed memory at once; otherwise leftovers of a step would count as memory of the run.
_GLIBC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

#: The folder that this package is in.
_STUDIES = str(Path(__file__).resolve().parent.parent)

_SHARED_MEMORY = Path("/dev/shm")
_TIMEOUT = 1800


@dataclass(frozen=True)
class Options:
    """How to run the study.

    Attributes:
        device: "cpu" or "cuda:N".
        batch_size: Graphs per batch.
        workers: Worker processes, in the runs that have some.
        limit: Maximum number of crystals, chosen evenly over the data.
    """

    device: str = "cpu"
    batch_size: int = 16
    workers: int = 2
    limit: int = 96

    def __post_init__(self) -> None:
        for name, minimum, maximum in (("batch_size", 1, 10_000), ("workers", 1, 64), ("limit", 2, 100_000)):
            check_count(name, getattr(self, name), minimum, maximum)


@dataclass(frozen=True)
class Study:
    """The measurements and the verdicts on the claims.

    Attributes:
        device: The device, as its probe describes it.
        crystals: Number of crystals that were trained on.
        batch_size: Graphs per batch.
        noise: Difference between two runs with the same settings.
        findings: The measured pairs.
        claims: The verdicts.
        not_measured: What this machine can't measure, and why.
    """

    device: dict[str, Any]
    crystals: int
    batch_size: int
    noise: Noise
    findings: tuple[Finding, ...]
    claims: tuple[Claim, ...]
    not_measured: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "device": self.device,
            "crystals": self.crystals,
            "batch_size": self.batch_size,
            "noise": asdict(self.noise),
            "pairs": [finding.to_dict() for finding in self.findings],
            "claims": [claim.to_dict() for claim in self.claims],
            "not_measured": list(self.not_measured),
        }


def run_study(crystals: Sequence[dict[str, Any]], options: Options, progress: Progress) -> Study:
    """Measure all pairs on this machine.

    Args:
        crystals: JARVIS-style dicts.
        options: How to run.
        progress: Called with the name of a step, the number of items done and the number of all items.

    Raises:
        CrystalError: alignn can't make a graph of a crystal.
        DoesNotFitError: The batches of the workers do not fit into the shared memory of this machine.
        InputError: There are no crystals.
        MissingError: A package or the device is missing.
        WorkloadError: A run failed.
    """
    require("psutil")
    device = open_probe(options.device).describe()
    if not crystals:
        raise InputError("the dataset has no crystals", hint="give a dataset with at least two crystals")
    count = min(len(crystals), options.limit)
    chosen = [crystals[place * len(crystals) // count] for place in range(count)]
    with tempfile.TemporaryDirectory(prefix="nodebudget-") as folder:
        prepare(chosen, Path(folder), progress)
        base = Setup(folder, options.device, options.batch_size)
        pairs = pairs_of(base, options.workers, cuda=options.device != "cpu")
        again = Setup(folder, options.device, options.batch_size, repeat=1)
        outcomes = _run_all(list(dict.fromkeys([base, again, *(run for p in pairs for run in (p.a, p.b))])), progress)
    findings = find(pairs, outcomes)
    first, second = outcomes[base], outcomes[again]
    noise = Noise(abs(first.device - second.device), abs(first.host - second.host))
    claims = judge(findings, noise, cuda=options.device != "cpu")
    return Study(device, count, options.batch_size, noise, findings, claims, _not_measured(options.device))


def _run_all(setups: Sequence[Setup], progress: Progress) -> dict[Setup, Outcome]:
    outcomes: dict[Setup, Outcome] = {}
    for done, setup in enumerate(setups, start=1):
        if outcomes:
            _check_shared(setup, next(iter(outcomes.values())).batch)
        outcomes[setup] = _run(setup)
        progress("training runs", done, len(setups))
    return outcomes


def _run(setup: Setup) -> Outcome:
    """Run a setup in a new process."""
    setup_file, outcome_file = Path(setup.folder) / "setup.json", Path(setup.folder) / "outcome.json"
    setup_file.write_text(json.dumps(asdict(setup)), encoding="utf-8")
    outcome_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "data_loading.train", str(setup_file), str(outcome_file)]
    path = os.pathsep.join(filter(None, [_STUDIES, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **_GLIBC, "PYTHONPATH": path}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise _failed(setup, f"it took over {_TIMEOUT} seconds") from error
    if done.returncode or not outcome_file.is_file():
        raise _failed(setup, _reason(done))
    return Outcome.read(outcome_file)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"it was ended by {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines() or ["it ended without a message"]
    return lines[-1][:300]


def _failed(setup: Setup, reason: str) -> WorkloadError:
    return WorkloadError(
        f"a run of the study failed ({_describe(setup)}): {reason}",
        hint="try a smaller --batch-size or --limit, and close other programs that take memory",
    )


def _describe(setup: Setup) -> str:
    plain = Setup(setup.folder, setup.device, setup.batch_size)
    changed = [f"{name}={value}" for name, value in vars(setup).items() if value != getattr(plain, name)]
    return ", ".join(changed) or "default settings"


def _check_shared(setup: Setup, batch: int) -> None:
    # A worker ends with a bus error when shared memory is full; a container has 64 MiB of it by default.
    if not setup.num_workers or not _SHARED_MEMORY.is_dir():
        return
    needed, free = 2 * (setup.ahead + 1) * batch, shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise DoesNotFitError(
            f"{setup.ahead} prefetched batches may take {format_bytes(needed)} of shared memory",
            limit=f"{_SHARED_MEMORY} has {format_bytes(free)} free",
            hint="use a smaller --batch-size, or give the container more shared memory (docker run --shm-size=2g)",
        )


def _not_measured(device: str) -> tuple[str, ...]:
    if device != "cpu":
        return ()
    return (
        "device memory: there is no GPU; the figures are the tensors of a step, traced on the CPU",
        "pin_memory: without an accelerator PyTorch ignores it",
        "a collate function that moves batches to the device, and a text cache on the device: the device is the CPU, "
        "whose memory is host memory",
    )
