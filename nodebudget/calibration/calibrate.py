"""Choose probes, run them, fit, check on held-out ones, record."""

from __future__ import annotations

import gc
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nodebudget.calibration.checkpoint import ProbeCheckpoint
from nodebudget.calibration.fit import fit_calibration
from nodebudget.calibration.memory_model import Calibration, Observation
from nodebudget.calibration.probe_candidates import Dataset, ProbeCandidates
from nodebudget.calibration.probe_design import (
    Indices,
    choose_fit_batches,
    choose_holdout_batches,
    lightest_batch,
    size_columns,
)
from nodebudget.calibration.probe_runner import ProbeRunner
from nodebudget.datasets.measure import measure_dataset
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.profiling.open import open_probe
from nodebudget.profiling.probe import Probe
from nodebudget.utils.records import provenance
from nodebudget.workloads.edge_subsampling import variants_of
from nodebudget.workloads.protocol import Variant, Workload

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CalibrationConfig:
    """How much to measure.

    Attributes:
        probes: Measured steps in all; a third of them is held out.
        largest: Most graphs in a probe.
        seed: Seed of the choice.
    """

    probes: int = 24
    largest: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 9 <= self.probes <= 1000:
            raise InputError(f"{self.probes} probes", limit="9 to 1000", hint="24 is usual")
        if not 1 <= self.largest <= 100_000:
            raise InputError(f"a largest probe of {self.largest} graphs", limit="1 to 100,000", hint="32 is usual")


@dataclass(frozen=True)
class _Job:
    """A batch to probe."""

    role: str
    batch: Indices

    @property
    def key(self) -> str:
        digest = hashlib.sha256(self.batch.astype(np.int64).tobytes()).hexdigest()
        return f"{self.role}-{digest[:16]}"


def calibrate(
    workload: Workload,
    dataset: Dataset,
    sizes: SizeTable | None = None,
    device: str | Probe = "cpu",
    *,
    effort: CalibrationConfig | None = None,
    context: Mapping[str, Any] | None = None,
    journal: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Measure training steps on batches of the dataset and fit what they take.

    Args:
        workload: The training step.
        dataset: Items that `workload.sample` (or, without it, `workload.batch`) takes.
        sizes: Their sizes, in the same order; used to choose the probes. What is fitted to is counted on the
            very samples that a probe ran. Default: `measure(dataset)`, with the
            `graphs` and the `size_of` of the workload where it has them.
        device: "cpu", "cuda:0", or an open `Probe`.
        effort: How much to measure.
        context: Further facts for the record (data, command).
        journal: File that keeps each observation as it is made; to be removed once the calibration is saved.
        resume: Go on with the observations in the journal.
        progress: Called with probes done and probes in all.

    Raises:
        InputError: Dataset and sizes do not belong together, or too few steps fitted into memory.
        RecordError: The journal belongs to another calibration.
        DoesNotFitError: Not even the smallest probe fits.
        WorkloadError: The training step raised.

    Warns (UserWarning) when all crystals are of one size, and when no size costs anything.
    """
    plan = effort or CalibrationConfig()
    probe = open_probe(device) if isinstance(device, str) else device
    if sizes is None:
        sizes = measure_dataset(
            dataset, graphs=getattr(workload, "graphs", None), size_of=getattr(workload, "size_of", None)
        )
    rng = np.random.default_rng(plan.seed)
    pool = ProbeCandidates(workload, dataset, sizes, rng, _variants(workload, dataset, sizes))
    _warn_of_one_kind(pool)
    prober = ProbeRunner(workload, pool, probe)
    _check_effort(plan, len(size_columns(pool.sizes)))
    jobs = _jobs(pool, plan, rng)
    # From small to large: what a large probe needs is foretold by the smaller ones before it.
    jobs.sort(key=lambda job: prober.weight(job.batch))
    kept = None if journal is None else ProbeCheckpoint(journal, _identity(prober, plan), resume=resume)
    with _collecting_what_is_new():
        observations = _observe(prober, jobs, kept, progress)
    about = {**prober.describe(), "noise": _noise(observations), **provenance(), **(context or {})}
    return fit_calibration(observations, size_columns(sizes), context=about)


def _warn_of_one_kind(pool: ProbeCandidates) -> None:
    if all(len(values) and values.min() == values.max() for values in pool.sizes.columns.values()):
        warnings.warn(
            "all crystals are of one size, so that what a node, an edge and a line-graph edge take can't be told "
            "apart: the calibration holds for crystals like these; calibrate on several to use it for others",
            stacklevel=3,
        )


def _variants(workload: Workload, dataset: Dataset, sizes: SizeTable) -> list[Variant]:
    if not len(sizes) or len(dataset) != len(sizes):
        return []  # refused by the pool
    return variants_of(workload, [dataset[int(place)] for place in lightest_batch(sizes)])


def _jobs(pool: ProbeCandidates, effort: CalibrationConfig, rng: np.random.Generator) -> list[_Job]:
    held_out = effort.probes // 3
    to_fit = _batches_to_fit(pool, effort.probes - held_out - 2, effort.largest, rng)
    to_check = choose_holdout_batches(pool.own_sizes, held_out, effort.largest, rng)
    return [
        _Job("floor", lightest_batch(pool.own_sizes)),
        *(_Job("fit", batch) for batch in to_fit),
        *(_Job("holdout", batch) for batch in to_check),
        # The same step once more: what differs is noise, which no model can predict.
        _Job("repeat", to_check[0]),
    ]


def _check_effort(effort: CalibrationConfig, columns: int) -> None:
    to_fit, needed = effort.probes - effort.probes // 3 - 2, columns + 1
    if to_fit <= columns:
        raise InputError(
            f"{effort.probes} probes leave {to_fit} to fit {needed} coefficients to",
            limit="at least as many as coefficients",
            hint="24 probes are usual",
        )


def _batches_to_fit(pool: ProbeCandidates, count: int, largest: int, rng: np.random.Generator) -> list[Indices]:
    """Choose half of the batches among the user's own graphs, which count most, half where the ratios differ most."""
    own, all_ = pool.fit_rows[pool.fit_rows < pool.own], pool.fit_rows
    shares = [(own, count)] if len(own) == len(all_) else [(own, count // 2), (all_, count - count // 2)]
    return [
        rows[batch]
        for rows, share in shares
        for batch in choose_fit_batches(pool.sizes.take(rows), share, largest, rng)
    ]


def _identity(prober: ProbeRunner, effort: CalibrationConfig) -> dict[str, Any]:
    about = prober.describe()
    device = {key: about["device"].get(key) for key in ("device", "name")}
    model = {key: about["model"].get(key) for key in ("name", "parameters", "dtype", "optimizer")}
    return {"device": device, "model": model, "data": about["data"]["fingerprint"], "effort": asdict(effort)}


def _noise(observations: list[Observation]) -> float | None:
    """Return how far two measurements of the same step are apart, a fraction; None where one was not made."""
    for repeated in (entry for entry in observations if entry.role == "repeat"):
        for first in observations:
            if first.role == "holdout" and first.sizes == repeated.sizes:
                return abs(repeated.peak / first.peak - 1)
    return None


@contextmanager
def _collecting_what_is_new() -> Iterator[None]:
    """Keep what is there already out of the garbage collections between probes.

    DGL and alignn alone are a million objects: looking at all of them takes longer than many a training step.
    """
    if gc.get_freeze_count():  # not ours to undo
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _observe(
    prober: ProbeRunner, jobs: list[_Job], journal: ProbeCheckpoint | None, progress: Progress | None
) -> list[Observation]:
    seen = {} if journal is None else dict(journal.seen)
    if not all(job.key in seen for job in jobs):
        prober.warm_up(jobs[0].batch)
    found: list[Observation | None] = []
    for done, job in enumerate(jobs, start=1):
        if job.key in seen:
            prober.recall(job.batch, seen[job.key])
        else:
            seen[job.key] = prober.observe(job.batch, job.role)
            if journal is not None:
                journal.add(job.key, seen[job.key])
        found.append(seen[job.key])
        if progress is not None:
            progress(done, len(jobs))
    return [entry for entry in found if entry is not None]
