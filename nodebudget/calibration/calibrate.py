"""Calibrate: choose probes, run them, fit, check on held-out ones."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nodebudget.calibration.checkpoint import ProbeCheckpoint
from nodebudget.calibration.fit import choose_columns, fit_calibration
from nodebudget.calibration.memory_model import Calibration, Observation
from nodebudget.calibration.probe_candidates import Dataset, ProbeCandidates
from nodebudget.calibration.probe_design import (
    Indices,
    choose_fit_batches,
    choose_holdout_batches,
    lightest_batch,
    size_columns,
)
from nodebudget.calibration.probe_rounds import Job, ProbeRun, Progress, is_settled, reach_memory, rounds_of
from nodebudget.calibration.probe_runner import ProbeRunner
from nodebudget.calibration.unexplained import unexplained
from nodebudget.datasets.counting.columns import CANDIDATES
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.profiling.open import open_probe
from nodebudget.profiling.probe import Probe
from nodebudget.utils.records import provenance
from nodebudget.workloads.protocol import Workload
from nodebudget.workloads.sample_sizes import measure_samples


@dataclass(frozen=True)
class CalibrationConfig:
    """How much to measure.

    Attributes:
        probes: Number of measured steps, 9 to 1000; a third of them is held out.
        max_graphs: Maximum number of graphs in a probe, 1 to 100,000.
        seed: Random seed of the choice of batches.
        variants: Fit to variants of the graphs too, so that the calibration holds for other datasets.
        settle: Stop before all probes are run once the 99% prediction interval is narrower than this fraction of the
            bytes; None runs all.
        reach: After these probes, measure larger batches of the dataset, until their steps take about so many bytes;
            None does not.
        reach_graphs: Maximum number of graphs in those; None: all of the dataset.

    Raises:
        InputError: A number is outside its range.
    """

    probes: int = 24
    max_graphs: int = 32
    seed: int = 0
    variants: bool = True
    settle: float | None = None
    reach: int | None = None
    reach_graphs: int | None = None

    def __post_init__(self) -> None:
        if not 9 <= self.probes <= 1000:
            raise InputError(f"{self.probes} probes", limit="9 to 1000", hint="24 is usual")
        if not 1 <= self.max_graphs <= 100_000:
            raise InputError(f"probes of up to {self.max_graphs} graphs", limit="1 to 100,000", hint="32 is usual")

    def split(self) -> tuple[int, int]:
        """Return the numbers of steps to fit to and to hold out; the other two are the lightest step and a repeat."""
        held_out = self.probes // 3
        return self.probes - held_out - 2, held_out


def calibrate(
    workload: Workload,
    dataset: Dataset,
    sizes: SizeTable | None = None,
    device: str | Probe = "cpu",
    *,
    config: CalibrationConfig | None = None,
    context: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Measure training steps on batches of the dataset, and fit their peak bytes to the sizes of the batches.

    The batches to fit to are D-optimal (`nodebudget.calibration.probe_design.choose_fit_batches`), so that the cost per
    graph, node, edge and line-graph edge are identifiable; the held-out batches are random. They run from small to
    large, and a batch that is predicted to take over 80% of the free memory is left out. The fit is non-negative least
    squares on relative errors (`nodebudget.calibration.fit.fit_calibration`). These steps train the model: make a new
    one for the real run. Warns (UserWarning) if all crystals are of one size, if no size changes the bytes, and if the
    sizes leave more than 3% of held-out steps unexplained, with what that looks like.

    Args:
        workload: The model, its optimizer and its training step, on the device: see `nodebudget.load_workload`.
        dataset: Items that `workload.sample` takes, or `workload.batch` if the workload has no `sample`; n of them.
        sizes: Their sizes, n rows in the same order, to choose the batches by; the fit uses the sizes of the samples
            that were run. Default: those of the samples that the workload makes of the dataset.
        device: "cpu", "cuda:0", or an open `nodebudget.profiling.probe.Probe`.
        config: How much to measure.
        context: Further facts for the record (dataset, command).
        checkpoint: File of the observations so far; remove it once the calibration is saved.
        resume: Continue with the observations in the checkpoint.
        progress: Called with the number of probes done and of all probes.

    Returns:
        The calibration. `holdout` has its error on the held-out batches, `predict_bytes` the prediction in bytes.

    Raises:
        InputError: Dataset and sizes differ in length, or too few steps fit into memory.
        RecordError: The checkpoint belongs to another calibration.
        MissingError: The device is not available.
        DoesNotFitError: Not even the smallest probe fits.
        WorkloadError: The training step raised.
    """
    config = config or CalibrationConfig()
    probe = open_probe(device) if isinstance(device, str) else device
    if sizes is None:
        sizes = measure_samples(workload, dataset)
    sizes = _affordable(sizes, config.split()[0])
    rng = np.random.default_rng(config.seed)
    candidates = ProbeCandidates(workload, dataset, sizes, rng, with_variants=config.variants)
    if all(len(values) and values.min() == values.max() for values in candidates.sizes.columns.values()):
        warnings.warn(
            "all crystals are of one size, so that the costs per node, edge and line-graph edge are not identifiable: "
            "the calibration holds for crystals like these; calibrate on several to use it for others",
            stacklevel=2,
        )
    runner = ProbeRunner(workload, candidates, probe)
    (fitted, _), needed = config.split(), len(size_columns(candidates.sizes)) + 1
    if fitted < needed:
        raise InputError(
            f"{config.probes} probes leave {fitted} to fit {needed} coefficients to",
            limit="at least as many as coefficients",
            hint="24 probes are usual",
        )
    saved = None if checkpoint is None else ProbeCheckpoint(checkpoint, _identity(runner, config), resume=resume)
    run = ProbeRun(runner, saved, progress)
    columns, lengths = size_columns(sizes), tuple(sizes.settings.get(CANDIDATES, ()))
    with _frozen_garbage():
        for jobs in _rounds(candidates, config, rng):
            run.observe(jobs)
            if config.settle is not None and is_settled(run.observations, columns, config.settle):
                break
        if config.reach is not None:
            reach_memory(run, candidates, columns, config.reach, config.reach_graphs, rng)
    record = {**runner.describe(), "noise": _noise(run.observations), **provenance(), **(context or {})}
    columns = choose_columns(run.observations, columns, lengths)
    calibration = fit_calibration(run.observations, columns, context=record)
    if reason := unexplained(calibration, run.observations, run.batches, candidates.sizes):
        warnings.warn(reason, stacklevel=2)
    validated = [replace(step, peak=step.validation) for step in run.observations if step.validation is not None]
    if not validated:
        return calibration
    return replace(calibration, validation=replace(fit_calibration(validated, columns), observations=()))


def _affordable(sizes: SizeTable, fitted: int) -> SizeTable:
    """Leave out lengths of tensors for which there are too few probes."""
    lengths = list(sizes.settings.get(CANDIDATES, ()))
    spare = max(0, fitted - (len(size_columns(sizes)) - len(lengths)) - 3)
    if spare >= len(lengths):
        return sizes
    columns = {name: values for name, values in sizes.columns.items() if name not in lengths[spare:]}
    return SizeTable(columns, sizes.ids, {**sizes.settings, CANDIDATES: lengths[:spare]})


def _rounds(candidates: ProbeCandidates, config: CalibrationConfig, rng: np.random.Generator) -> list[list[Job]]:
    """Return the batches to measure: all at once, or in rounds where fewer may do."""
    fitted, held_out = config.split()
    to_fit = _batches_to_fit(candidates, fitted, config.max_graphs, rng)
    to_check = choose_holdout_batches(candidates.original_sizes, held_out, config.max_graphs, rng)
    floor = Job("floor", lightest_batch(candidates.original_sizes))
    if config.settle is not None:
        return rounds_of(floor, to_fit, to_check)
    fit, holdout = ([Job(role, batch) for batch in part] for role, part in (("fit", to_fit), ("holdout", to_check)))
    # The same step once more: the difference is noise, which no model can predict.
    return [[floor, *fit, *holdout, Job("repeat", to_check[0])]]


def _batches_to_fit(
    candidates: ProbeCandidates, count: int, max_graphs: int, rng: np.random.Generator
) -> list[Indices]:
    """Choose half of the batches among the dataset's graphs, and half where the ratios of sizes differ most."""
    rows = candidates.fit_rows
    original = rows[rows < candidates.num_original]
    parts = [(rows, count)] if len(original) == len(rows) else [(original, count // 2), (rows, count - count // 2)]
    return [
        part[batch]
        for part, share in parts
        for batch in choose_fit_batches(candidates.sizes.take(part), share, max_graphs, rng)
    ]


def _identity(runner: ProbeRunner, config: CalibrationConfig) -> dict[str, Any]:
    record = runner.describe()
    device = {key: record["device"].get(key) for key in ("device", "name")}
    model = {key: record["model"].get(key) for key in ("name", "parameters", "dtype", "optimizer")}
    # What is not set leaves no trace, so that an interrupted calibration of an earlier version goes on.
    settings = {name: value for name, value in asdict(config).items() if value is not None and name != "variants"}
    return {"device": device, "model": model, "data": record["data"]["fingerprint"], "config": settings}


def _noise(observations: list[Observation]) -> float | None:
    """Return the relative difference of two measurements of the same step; None if one of them was not made."""
    for repeated in (entry for entry in observations if entry.role == "repeat"):
        for first in observations:
            if first.role == "holdout" and first.sizes == repeated.sizes:
                return abs(repeated.peak / first.peak - 1)
    return None


@contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Exclude the objects that exist already from the garbage collections between probes.

    DGL and alignn alone have a million objects: to visit all of them takes longer than many a training step.
    """
    if gc.get_freeze_count():  # the caller's own
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
