"""What pin_memory, workers, a graph cache and a cache of text encodings do to memory, measured by pairs of runs.

Each pair differs in one setting, and each run is a process of its own, so that its host memory starts clean.
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
from nodebudget.utils.optional_imports import require

__all__ = ["Claim", "Experiment", "Finding", "Noise", "Options", "Outcome", "run_experiment"]

Progress = Callable[[str, int, int], None]

#: glibc then gives freed memory back at once, so that what is left over from a step is not taken for the run's.
_GLIBC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

_SHARED_MEMORY = Path("/dev/shm")
_TIMEOUT = 1800


@dataclass(frozen=True)
class Options:
    """How to run the experiment.

    Attributes:
        device: "cpu" or "cuda:N".
        batch_size: Graphs a batch.
        workers: Worker processes where there are some.
        limit: Most crystals; chosen evenly over the data.
    """

    device: str = "cpu"
    batch_size: int = 16
    workers: int = 2
    limit: int = 96

    def __post_init__(self) -> None:
        for name, least, most in (("batch_size", 1, 10_000), ("workers", 1, 64), ("limit", 2, 100_000)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"{name} is {value}", limit=f"{least} to {most:,}", hint="give a number in between")


@dataclass(frozen=True)
class Experiment:
    """What was measured, and what it says.

    Attributes:
        device: The device, as its probe describes it.
        crystals: How many crystals were trained on.
        batch_size: Graphs a batch.
        noise: By how much two runs of the same settings differ.
        findings: The pairs.
        claims: The verdicts.
        not_measured: What this machine can't show, and why.
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


def run_experiment(crystals: Sequence[dict[str, Any]], options: Options, progress: Progress) -> Experiment:
    """Measure the pairs on this machine.

    Args:
        crystals: JARVIS-style dicts.
        options: How.
        progress: Called with what is done, how far it is, and how far it will be.

    Raises:
        CrystalError: alignn can make no graph of a crystal.
        DoesNotFitError: The batches of the workers do not fit into the shared memory of this machine.
        InputError: No crystals.
        MissingError: A package or the device is not there.
        WorkloadError: A run failed.
    """
    require("psutil")
    device = open_probe(options.device).describe()
    if not crystals:
        raise InputError("there are no crystals", hint="give data that has some")
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
    return Experiment(device, count, options.batch_size, noise, findings, claims, _missing(options.device))


def _run_all(setups: Sequence[Setup], progress: Progress) -> dict[Setup, Outcome]:
    found: dict[Setup, Outcome] = {}
    for done, setup in enumerate(setups, start=1):
        if found:
            _check_shared(setup, next(iter(found.values())).batch)
        found[setup] = _run(setup)
        progress("training, a process a run", done, len(setups))
    return found


def _run(setup: Setup) -> Outcome:
    """Run a setup in a process of its own."""
    asked, told = Path(setup.folder) / "setup.json", Path(setup.folder) / "outcome.json"
    asked.write_text(json.dumps(asdict(setup)), encoding="utf-8")
    told.unlink(missing_ok=True)
    command = [sys.executable, "-m", "data_loading.train", str(asked), str(told)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **_GLIBC}, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(setup, f"it took over {_TIMEOUT} seconds") from error
    if done.returncode or not told.is_file():
        raise _failed(setup, _why(done))
    return Outcome.read(told)


def _why(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"it was ended by {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines() or ["it ended without a word"]
    return lines[-1][:300]


def _failed(setup: Setup, why: str) -> WorkloadError:
    return WorkloadError(
        f"a run of the experiment failed ({_describe(setup)}): {why}",
        hint="try a smaller --batch-size, or a smaller --limit, and close what else takes memory",
    )


def _describe(setup: Setup) -> str:
    plain = Setup(setup.folder, setup.device, setup.batch_size)
    changed = [f"{name}={value}" for name, value in vars(setup).items() if value != getattr(plain, name)]
    return ", ".join(changed) or "usual settings"


def _check_shared(setup: Setup, batch: int) -> None:
    # Workers end with a bus error where it is full: a container may have 64 MiB of it.
    if not setup.num_workers or not _SHARED_MEMORY.is_dir():
        return
    needed, free = 2 * (setup.ahead + 1) * batch, shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise DoesNotFitError(
            f"{setup.ahead} batches made ahead may take {format_bytes(needed)} of shared memory",
            limit=f"{_SHARED_MEMORY} has {format_bytes(free)} free",
            hint="give a smaller --batch-size, or the container more shared memory (docker run --shm-size=2g)",
        )


def _missing(device: str) -> tuple[str, ...]:
    if device != "cpu":
        return ()
    return (
        "device memory: there is no device; what is said of it is what a step asks for, traced on the CPU",
        "pin_memory: without an accelerator PyTorch ignores it",
        "a collate function that moves batches to the device, and a text cache on the device: here the device is the "
        "CPU, and its memory is host memory",
    )
