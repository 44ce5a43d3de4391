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
from nodebudget.errors import NodeBudgetError

#: Chunks under way for each worker: enough to keep it busy, few enough that a dataset is never in memory as a whole.
_AHEAD = 3
#: Chunks under way in an executor that does not say how many workers it has: enough for two hundred.
_MANY = 600
#: Bytes under way, all together.
_BYTES = 256 * 2**20


def measure_chunks(
    chunks: Iterable[Chunk], settings: GraphSettings, *, workers: int = 0, executor: Executor | None = None
) -> Generator[tuple[Chunk, list[Row]], None, None]:
    """Count the records of chunks, in their order.

    Args:
        chunks: What a source yields.
        settings: How alignn would make graphs of crystals.
        workers: Number of processes; 0: none but this one.
        executor: Runs the chunks instead; it is left open.

    Yields:
        Each chunk with its rows.

    Raises:
        NodeBudgetError: A process died, or the executor failed.
    """
    if executor is not None:
        yield from _in_order(executor, iter(chunks), settings, _MANY)
    elif workers:
        # Fresh interpreters: forking one that runs torch's or BLAS's threads can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
            try:
                yield from _in_order(pool, iter(chunks), settings, _AHEAD * workers)
            finally:
                pool.shutdown(cancel_futures=True)
    else:
        for chunk in chunks:
            yield chunk, measure_chunk(chunk, settings)


def _end_with_parent() -> None:
    """Let a worker end when the process that started it is killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def measure_chunk(chunk: Chunk, settings: GraphSettings) -> list[Row]:
    """Count the records of a chunk: what a worker does."""
    return measure_records(chunk.decode(chunk.payload), settings)


def _in_order(
    executor: Executor, chunks: Iterator[Chunk], settings: GraphSettings, most: int
) -> Iterator[tuple[Chunk, list[Row]]]:
    waiting: deque[tuple[Chunk, Future[list[Row]]]] = deque()
    size, ended = 0, False
    try:
        while True:
            while not ended and len(waiting) < most and (size < _BYTES or not waiting):
                chunk = next(chunks, None)
                ended = chunk is None
                if chunk is not None:
                    with _failures_named():
                        waiting.append((chunk, executor.submit(measure_chunk, chunk, settings)))
                    size += chunk.size
            if not waiting:
                return
            chunk, future = waiting.popleft()
            with _failures_named():
                rows = future.result()
            size -= chunk.size
            yield chunk, rows
    finally:
        for _, future in waiting:
            future.cancel()


@contextmanager
def _failures_named() -> Generator[None, None, None]:
    try:
        yield
    except NodeBudgetError:
        raise
    except Exception as error:
        # Executors raise what they like when a process of theirs is lost.
        raise NodeBudgetError(
            f"a process that measured crystals died ({type(error).__name__}: {' '.join(str(error).split())[:150]})",
            hint="it may have run out of memory, or the script lacks an "
            "'if __name__ == \"__main__\":' around its main part; try workers=0",
        ) from error
