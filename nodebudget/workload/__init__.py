"""The training step to calibrate: ten lines around the code that a user has."""

from __future__ import annotations

from nodebudget.workload.load import load_workload
from nodebudget.workload.protocol import (
    Variant,
    Workload,
    collate,
    dtype_of,
    parameter_count,
    resident_bytes,
    to_sample,
)
from nodebudget.workload.thinned import variants_of

__all__ = [
    "Variant",
    "Workload",
    "collate",
    "dtype_of",
    "load_workload",
    "parameter_count",
    "resident_bytes",
    "to_sample",
    "variants_of",
]
