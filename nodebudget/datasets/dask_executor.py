"""A Dask cluster as an executor."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Executor
from contextlib import contextmanager

from nodebudget.errors import InputError, first_line
from nodebudget.utils.optional_imports import require

#: Seconds in which a scheduler has to answer.
_TIMEOUT = 20


@contextmanager
def dask_executor(address: str) -> Generator[Executor, None, None]:
    """Connect to the Dask scheduler at an address such as "tcp://10.0.0.1:8786".

    Its workers need nodebudget[structures], but not the data, which is sent to them. When one dies, Dask gives its
    work to another.

    Raises:
        InputError: No scheduler answers there.
        MissingError: distributed is not installed.
    """
    distributed = require("distributed")
    try:
        client = distributed.Client(address, timeout=_TIMEOUT, set_as_default=False)
    # On a machine too busy to start its thread in time, distributed fails an assertion.
    except (OSError, ValueError, TypeError, AssertionError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address!r}: {first_line(error) or type(error).__name__}",
            hint="start one with 'dask scheduler' and name the address that it prints",
        ) from error
    with client:
        yield client.get_executor()
