"""Samples to rows, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from nodebudget.errors import NodeBudgetError
from nodebudget.measure.rows import Row, measure_sample
from nodebudget.measure.settings import GraphSettings

#: Samples that a worker takes at once: some 50 ms of work, so that sending them costs little beside it.
_CHUNK = 128
#: Chunks under way for each worker: enough to keep it busy, few enough that a dataset which is read
#: lazily is never in memory as a whole.
_AHEAD = 3


def measure_all(
    samples: Iterable[Any], settings: GraphSettings, workers: int
) -> Generator[tuple[Any, Row], None, None]:
    """Count samples, in their order.

    Args:
        samples: What `measure_sample` takes; picklable if there are workers.
        settings: As for `measure_sample`.
        workers: Number of processes; 0: none but this one.

    Yields:
        Each sample with its row.

    Raises:
        NodeBudgetError: A process died.
    """
    if not workers:
        for sample in samples:
            yield sample, measure_sample(sample, settings)
        return
    # Fresh interpreters: forking one that runs torch's or BLAS's threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from _in_order(pool, iter(samples), settings, _AHEAD * workers)
        except BrokenProcessPool as error:
            raise NodeBudgetError(
                "a process that measured crystals died",
                hint="it may have run out of memory, or the script lacks an "
                "'if __name__ == \"__main__\":' around its main part; try workers=0",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def measure_chunk(samples: Sequence[Any], settings: GraphSettings) -> list[Row]:
    """Count several samples: what a worker does."""
    return [measure_sample(sample, settings) for sample in samples]


def _in_order(
    pool: ProcessPoolExecutor, samples: Iterator[Any], settings: GraphSettings, ahead: int
) -> Iterator[tuple[Any, Row]]:
    waiting: list[tuple[list[Any], Future[list[Row]]]] = []
    while True:
        while len(waiting) < ahead and (chunk := list(islice(samples, _CHUNK))):
            waiting.append((chunk, pool.submit(measure_chunk, chunk, settings)))
        if not waiting:
            return
        chunk, future = waiting.pop(0)
        yield from zip(chunk, future.result(), strict=True)
