"""A sample of the measured batches of a run, to fit a calibration to."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nodebudget.calibration.fit import fit_calibration
from nodebudget.calibration.memory_model import Calibration, Observation
from nodebudget.errors import InputError
from nodebudget.monitor.meters import Reading

_CAPACITY = 4096  #: Number of batches that are stored.
_HELD_OUT = 3  #: One of so many batches is held out.


class ObservationReservoir:
    """A uniform random sample of the measured batches of a run."""

    def __init__(self) -> None:
        self._sample: list[Observation] = []
        self._count, self._random = 0, random.Random(0)

    def add(self, sizes: Mapping[str, float], reading: Reading, seconds: float) -> None:
        """Add a batch; it is ignored without a measured peak or sizes."""
        if reading.measured is None or reading.resident is None or not sizes:
            return
        counts = {"allocated": reading.allocated, "reserved": reading.reserved, "retries": reading.retries}
        observation = Observation(dict(sizes), reading.measured, reading.resident, "fit", **counts, seconds=seconds)
        self._count += 1
        # Algorithm R (Vitter, Random sampling with a reservoir, 1985).
        if len(self._sample) < _CAPACITY:
            self._sample.append(observation)
        elif (index := self._random.randrange(self._count)) < _CAPACITY:
            self._sample[index] = observation

    def fit(self, context: Mapping[str, Any], method: str | None) -> Calibration:
        """Fit a calibration; `method` says how peaks are measured, None where they are not.

        Raises:
            InputError: Too few batches, or none that were measured.
        """
        if not self._sample:
            raise InputError(
                "no batch was measured" + ("" if method else ": the CPU's allocator counts no peak"),
                hint="train a few batches first" if method else "make the monitor with trace=True and model=…",
            )
        common = set.intersection(*(set(observation.sizes) for observation in self._sample)) - {"graphs"}
        observations = [
            replace(observation, role="holdout" if index % _HELD_OUT == _HELD_OUT - 1 else "fit")
            for index, observation in enumerate(self._sample)
        ]
        columns = [name for name in self._sample[0].sizes if name in common]
        return fit_calibration(observations, columns, context=context)
