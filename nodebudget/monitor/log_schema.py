"""Whether a line of a log is one that a monitor writes: what reads logs counts on the kinds of its values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: What every step says; all else of it is a number or None.
_STEP = ("step", "epoch", "seconds")
_OPEN = ("waited", "predicted", "measured", "reserved", "rss", "retries")
_WORDS = ("event", "status", "sizes")
#: Events with a text.
_TEXTS = ("warning", "out of memory")


def is_sound_header(line: Mapping[str, Any]) -> bool:
    """Say whether the first line of a log holds what it must."""
    device, model = line.get("device", {}), line.get("model")
    return (
        isinstance(device, dict)
        and (model is None or isinstance(model, dict))
        and all(_is_open(value) for value in (device.get("memory"), line.get("batches")))
        and isinstance(line.get("pid", 0), int)
    )


def is_sound(line: Mapping[str, Any]) -> bool:
    """Say whether another line holds what lines of its event must; events of the user's own may hold anything."""
    event = line.get("event")
    if event == "step":
        return _is_sound_step(line)
    if event in _TEXTS:
        return isinstance(line.get("text"), str) and _is_count(line.get("step"))
    if event == "epoch":
        return _is_count(line.get("step")) and "batches" in line and _is_open(line["batches"])
    return True


def _is_sound_step(line: Mapping[str, Any]) -> bool:
    sizes = line.get("sizes")
    return (
        isinstance(sizes, dict)
        and all(map(_is_count, sizes.values()))
        and isinstance(line.get("status"), str)
        and all(_is_count(line.get(name)) for name in _STEP)
        and all(name in line for name in _OPEN)
        and all(_is_open(value) for name, value in line.items() if name not in _WORDS)
    )


def _is_open(value: object) -> bool:
    return value is None or _is_count(value)


def _is_count(value: object) -> bool:
    """Whether it is a number from 0 to 2^63: steps, bytes, seconds."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and math.isfinite(value) and 0 <= value < 2**63  # type: ignore[arg-type, operator]
