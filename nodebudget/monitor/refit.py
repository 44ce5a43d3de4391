"""The batches that a monitor measured, as observations to fit a calibration to."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nodebudget.calibration.fit import fit_calibration
from nodebudget.calibration.memory_model import Calibration, Observation
from nodebudget.errors import InputError
from nodebudget.monitor.meters import Reading

#: A longer run is represented by so many of its batches, drawn evenly.
_MOST = 4096

#: Every so many batches one is held out.
_HELD_OUT = 3


class ObservationReservoir:
    """An even sample of the measured batches of a run."""

    def __init__(self) -> None:
        self._kept: list[Observation] = []
        self._count, self._chance = 0, random.Random(0)

    def add(self, sizes: Mapping[str, float], reading: Reading, seconds: float) -> None:
        """Take in a batch; one without a measured peak or sizes says nothing."""
        if reading.measured is None or reading.resident is None or not sizes:
            return
        seen = Observation(
            dict(sizes),
            reading.measured,
            reading.resident,
            "fit",
            allocated=reading.allocated,
            reserved=reading.reserved,
            retries=reading.retries,
            seconds=seconds,
        )
        self._count += 1
        # Algorithm R (Vitter, Random sampling with a reservoir, 1985).
        if len(self._kept) < _MOST:
            self._kept.append(seen)
        elif (place := self._chance.randrange(self._count)) < _MOST:
            self._kept[place] = seen

    def fit(self, context: Mapping[str, Any], method: str | None) -> Calibration:
        """Fit a calibration.

        Raises:
            InputError: Too few batches, or none that were measured.
        """
        if not self._kept:
            raise InputError(
                "no batch was measured" + ("" if method else ": the CPU's allocator keeps no peak"),
                hint="train a few batches first" if method else "make the monitor with trace=True and model=…",
            )
        names = [name for name in self._kept[0].sizes if all(name in seen.sizes for seen in self._kept)]
        dealt = [
            replace(seen, role="holdout" if place % _HELD_OUT == _HELD_OUT - 1 else "fit")
            for place, seen in enumerate(self._kept)
        ]
        return fit_calibration(dealt, [name for name in names if name != "graphs"], context=context)
