"""A Dask cluster as an executor."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Executor
from contextlib import contextmanager

from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import require

#: Seconds in which a scheduler has to answer.
_PATIENCE = 20


@contextmanager
def dask_executor(address: str) -> Generator[Executor, None, None]:
    """Connect to a Dask scheduler.

    Args:
        address: Where it is, such as "tcp://10.0.0.1:8786". Its workers need nodebudget with what measures crystals,
            but not the data: that is sent to them.

    Yields:
        An executor that counts on the cluster, where the work of a worker that dies is done again by another.

    Raises:
        InputError: No scheduler answers there.
        MissingError: distributed is not there.
    """
    distributed = require("distributed")
    try:
        client = distributed.Client(address, timeout=_PATIENCE, set_as_default=False)
    # On a machine too busy to start its thread in time, distributed fails an assertion.
    except (OSError, ValueError, TypeError, AssertionError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address!r}: {' '.join(str(error).split())[:150] or type(error).__name__}",
            hint="start one with 'dask scheduler' and name the address that it prints",
        ) from error
    with client:
        yield client.get_executor()
