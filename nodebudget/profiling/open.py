"""The probe of a device."""

from __future__ import annotations

import torch

from nodebudget.errors import InputError, MissingError
from nodebudget.profiling.cpu import CpuProbe
from nodebudget.profiling.cuda import CudaProbe
from nodebudget.profiling.probe import Probe


def open_probe(device: str) -> Probe:
    """Return a probe for "cpu" or "cuda:N".

    Raises:
        InputError: Another kind of device.
        MissingError: CUDA is not available, or there is no device of that number.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return CpuProbe()
    if kind != "cuda" or not (number == "" or number.isdecimal()):
        raise InputError(f"unsupported device {device!r}", limit="cpu or cuda:N", hint="give --device cpu or --gpu 0")
    return CudaProbe(_existing(int(number or 0)))


def _existing(index: int) -> int:
    if not torch.cuda.is_available():
        built = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a build without CUDA"
        raise MissingError(
            f"--gpu {index}: CUDA is not available (torch {torch.__version__} {built})",
            hint="run on a machine with an NVIDIA GPU and driver, or measure with --device cpu",
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise MissingError(
            f"there is no GPU {index}",
            limit=f"{count} visible, numbered from 0",
            hint="choose one of them, or check CUDA_VISIBLE_DEVICES",
        )
    return index
