"""The options that name a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from nodebudget.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])


def device_options(function: F) -> F:
    """Add `--gpu N` and `--device NAME`."""
    function = click.option("--device", help="cpu or cuda:N, instead of --gpu.")(function)
    return click.option("--gpu", type=click.IntRange(0), help="Number of the CUDA device.")(function)


def resolve_device(gpu: int | None, device: str | None, *, prefer_gpu: bool = False) -> str:
    """Return "cpu" or "cuda:N".

    Raises:
        InputError: Both are given, or neither where a choice is needed.
    """
    if gpu is not None and device is not None:
        raise InputError("--gpu and --device together", hint="give one of them")
    if gpu is not None:
        return f"cuda:{gpu}"
    if device is not None:
        return device
    if prefer_gpu:
        import torch

        return "cuda:0" if torch.cuda.is_available() else "cpu"
    raise InputError("no device", hint="give --gpu 0, or --device cpu")
