"""Probes in rounds: as many as it takes until the held-out error is settled, then larger ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nodebudget.calibration.checkpoint import ProbeCheckpoint
from nodebudget.calibration.fit import fit_calibration
from nodebudget.calibration.memory_model import CONFIDENCE, Calibration, Observation
from nodebudget.calibration.probe_candidates import ProbeCandidates
from nodebudget.calibration.probe_design import Indices
from nodebudget.calibration.probe_runner import ProbeRunner
from nodebudget.errors import InputError

Progress = Callable[[int, int], None]

_FIRST, _NEXT = (7, 4), (3, 1)  #: Steps to fit to and to check on in the first round, and in each further one.

#: A larger probe takes up to so many times the bytes of the largest before it: kinks of the memory model show in time.
_GROWTH = 4.0

_BEYOND = 1.25  #: Predictions hold for steps of up to so many times the largest that was measured.


@dataclass(frozen=True)
class Job:
    """A batch to probe."""

    role: str
    batch: Indices

    @property
    def key(self) -> str:
        """Identifies it in a checkpoint."""
        digest = hashlib.sha256(self.batch.astype(np.int64).tobytes()).hexdigest()
        return f"{self.role}-{digest[:16]}"


class ProbeRun:
    """The probes of one calibration, run or read from a checkpoint.

    Args:
        runner: Runs them.
        checkpoint: What was measured before, or None.
        progress: Called with the number of probes done and of all probes asked for so far.

    Attributes:
        observations: What was measured, in the order in which it was asked for.
        batches: The graphs of each.
    """

    def __init__(self, runner: ProbeRunner, checkpoint: ProbeCheckpoint | None, progress: Progress | None) -> None:
        self.runner, self._checkpoint, self._progress = runner, checkpoint, progress
        self._done = {} if checkpoint is None else dict(checkpoint.observations)
        self.observations: list[Observation] = []
        self.batches: list[Indices] = []
        self._count, self._warm = 0, False

    def observe(self, jobs: Sequence[Job]) -> list[Observation | None]:
        """Measure batches from small to large, so that the small ones predict whether the large ones fit."""
        jobs = sorted(jobs, key=lambda job: self.runner.weight(job.batch))
        if not self._warm and not all(job.key in self._done for job in jobs):
            self.runner.warm_up(jobs[0].batch)
            self._warm = True
        total = self._count + len(jobs)
        results = []
        for job in jobs:
            results.append(self._observe(job))
            self._count += 1
            if self._progress is not None:
                self._progress(self._count, total)
        self.observations += [entry for entry in results if entry is not None]
        self.batches += [job.batch for job, entry in zip(jobs, results, strict=True) if entry is not None]
        return results

    def _observe(self, job: Job) -> Observation | None:
        if job.key in self._done:
            self.runner.recall(job.batch, self._done[job.key])
        else:
            self._done[job.key] = self.runner.observe(job.batch, job.role)
            if self._checkpoint is not None:
                self._checkpoint.add(job.key, self._done[job.key])
        return self._done[job.key]


def rounds_of(floor: Job, to_fit: Sequence[Indices], to_check: Sequence[Indices]) -> list[list[Job]]:
    """Split the probes into rounds, each with batches to fit to and batches to check on.

    Args:
        floor: The lightest step, in the first round.
        to_fit: In the order of their information.
        to_check: From small to large; every round has some of all sizes.
    """
    spread = np.argsort(np.arange(len(to_check)) % max(len(to_check) // _FIRST[1], 1), kind="stable")
    fit = [Job("fit", batch) for batch in to_fit]
    holdout = [Job("holdout", to_check[place]) for place in spread]
    rounds, counts = [[floor]], _FIRST
    while fit or holdout:
        rounds[-1] += fit[: counts[0]] + holdout[: counts[1]]
        fit, holdout, counts = fit[counts[0] :], holdout[counts[1] :], _NEXT
        rounds.append([])
    return rounds[:-1]


def is_settled(observations: Sequence[Observation], columns: Sequence[str], margin: float) -> bool:
    """Return whether the prediction interval is narrower than `margin`, a fraction of the bytes."""
    calibration = _fitted(observations, columns)
    return calibration is not None and float(calibration.bound.margin(0.0, CONFIDENCE)) <= margin


def reach_memory(
    run: ProbeRun,
    candidates: ProbeCandidates,
    columns: Sequence[str],
    memory: int,
    max_graphs: int | None,
    rng: np.random.Generator,
) -> None:
    """Measure larger and larger batches until predictions hold for steps of `memory` bytes.

    Each is up to four times as large as the one before. Ends where a batch has all graphs or `max_graphs`, or where the
    next one is predicted not to fit.
    """
    sizes = candidates.original_sizes
    largest = min(len(sizes), max_graphs or len(sizes))
    while True:
        calibration = _fitted(run.observations, columns)
        if calibration is None or calibration.is_flat:
            return
        reached = calibration.bound.max_measured
        bytes_ = calibration.graph_bytes(sizes)
        goal = min(memory, calibration.fixed + float(bytes_.mean()) * largest, run.runner.safe_bytes())
        if goal < _BEYOND * reached:
            return
        wanted = min(goal, _GROWTH * reached)
        graphs = int(np.clip((wanted - calibration.fixed) / bytes_.mean(), 1, largest))
        roles = ("fit", "holdout") if wanted < goal else ("fit", "holdout", "holdout")
        results = run.observe([Job(role, _drawn(len(sizes), graphs, rng)) for role in roles])
        if any(entry is None or entry.role == "out-of-memory" for entry in results):
            return


def _fitted(observations: Sequence[Observation], columns: Sequence[str]) -> Calibration | None:
    try:
        return fit_calibration(observations, columns)
    except InputError:  # too few steps fitted into the memory
        return None


def _drawn(count: int, graphs: int, rng: np.random.Generator) -> Indices:
    return rng.choice(count, size=graphs, replace=False)
