"""Chunks of records to rows: in this process, in several, or wherever an executor runs them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager

from nodebudget.datasets.counting.rows import Row, measure_records
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.readers.source import Chunk
from nodebudget.errors import InputError, NodeBudgetError, first_line
from nodebudget.utils.optional_imports import require

#: Pending chunks per worker: enough to keep it busy, few enough that a dataset is never in memory as a whole.
_PENDING_PER_WORKER = 3
_PENDING = 600  #: Pending chunks of an executor that does not say how many workers it has: enough for two hundred.
_PENDING_BYTES = 256 * 2**20  #: Bytes of all pending chunks together.
_DASK_TIMEOUT = 20  #: Seconds in which a Dask scheduler has to answer.


def measure_chunks(
    chunks: Iterable[Chunk], settings: GraphSettings, workers: int | Executor = 0
) -> Generator[tuple[Chunk, list[Row]], None, None]:
    """Yield chunks, in their order, with the rows of their records.

    `workers` is a number of processes, 0 for this one alone, or an executor, which is left open.
    """
    if isinstance(workers, Executor):
        yield from _in_order(workers, iter(chunks), settings, _PENDING)
    elif workers:
        # Fresh interpreters: forking one that runs torch's or BLAS's threads can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
            try:
                yield from _in_order(pool, iter(chunks), settings, _PENDING_PER_WORKER * workers)
            finally:
                pool.shutdown(cancel_futures=True)
    else:
        for chunk in chunks:
            yield chunk, _measure_chunk(chunk, settings)


def _end_with_parent() -> None:
    """End a worker when the process that started it is killed: it would wait for work forever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _measure_chunk(chunk: Chunk, settings: GraphSettings) -> list[Row]:
    return measure_records(chunk.decode(chunk.payload), settings)


def _in_order(
    executor: Executor, chunks: Iterator[Chunk], settings: GraphSettings, max_pending: int
) -> Iterator[tuple[Chunk, list[Row]]]:
    pending: deque[tuple[Chunk, Future[list[Row]]]] = deque()
    size, ended = 0, False
    try:
        while True:
            while not ended and len(pending) < max_pending and (size < _PENDING_BYTES or not pending):
                chunk = next(chunks, None)
                ended = chunk is None
                if chunk is not None:
                    with _failures_as_errors():
                        pending.append((chunk, executor.submit(_measure_chunk, chunk, settings)))
                    size += chunk.size
            if not pending:
                return
            chunk, future = pending.popleft()
            with _failures_as_errors():
                rows = future.result()
            size -= chunk.size
            yield chunk, rows
    finally:
        for _, future in pending:
            future.cancel()


@contextmanager
def _failures_as_errors() -> Generator[None, None, None]:
    try:
        yield
    except NodeBudgetError:
        raise
    except Exception as error:
        # Executors may raise anything when they lose a process.
        raise NodeBudgetError(
            f"a process that measured crystals died ({type(error).__name__}: {first_line(error)})",
            hint="it may have run out of memory, or the script lacks an "
            "'if __name__ == \"__main__\":' around its main part; try workers=0",
        ) from error


@contextmanager
def dask_executor(address: str) -> Generator[Executor, None, None]:
    """Connect to the Dask scheduler at an address such as "tcp://10.0.0.1:8786".

    Its workers need nodebudget[structures], but not the data, which is sent to them. When one dies, Dask gives its
    work to another. Raises an InputError where no scheduler answers.
    """
    distributed = require("distributed")
    try:
        client = distributed.Client(address, timeout=_DASK_TIMEOUT, set_as_default=False)
    # On a machine too busy to start its thread in time, distributed fails an assertion.
    except (OSError, ValueError, TypeError, AssertionError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address!r}: {first_line(error) or type(error).__name__}",
            hint="start one with 'dask scheduler' and name the address that it prints",
        ) from error
    with client:
        yield client.get_executor()
