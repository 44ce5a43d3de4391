"""What all sections of a page say alike: advice, and where a record came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodebudget.utils.byte_units import format_bytes

#: Levels of advice, what is most urgent first, and how a page calls them.
LEVELS = {"bad": "Problem", "warn": "Attention", "good": "Good", "note": "Note"}


@dataclass(frozen=True)
class Advice:
    """A sentence or two on what was found and what to do.

    Attributes:
        level: One of `LEVELS`.
        text: The sentences.
    """

    level: str
    text: str


def counted(count: int, one: str, many: str) -> str:
    """Return a number with the words that go with it: (1, "step was", "steps were") → "1 step was"."""
    return f"{count:,} {one if count == 1 else many}"


def percent(share: float, digits: int = 2) -> str:
    """Write a fraction for people: "0.15%", and "<0.01%" for what is less than its last digit, but not nothing."""
    text = f"{share:.{digits}%}"
    if share and not float(text[:-1]):
        return f"<{10.0**-digits:.{digits}f}%"
    return text


def facts_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return where a record came from, as pairs of a label and a text.

    Args:
        record: The context of a calibration, or the header of a run.
    """
    device, model, data = ((record.get(key) or {}) for key in ("device", "model", "data"))
    packages = record.get("packages") or {}
    found = [
        ("device", _listed(device.get("device"), device.get("name"), _bytes(device.get("memory")))),
        ("model", _listed(model.get("name"), _count(model.get("parameters"), "parameters"), model.get("dtype"))),
        ("optimizer", _listed(model.get("optimizer"))),
        ("model settings", _pairs(model.get("config"))),
        ("data", _data(data)),
        ("graph settings", _pairs((data.get("settings") or {}).get("graphs"))),
        ("peaks measured by", _listed(record.get("measured_by"))),
        ("processes", _listed(_rank(record))),
        ("made", _listed(record.get("created"))),
        ("command", _listed(record.get("command"))),
        ("workload", _listed(record.get("workload"))),
        ("versions", _versions(record, packages)),
        ("platform", _listed(record.get("platform"), record.get("host"))),
    ]
    return [(label, text) for label, text in found if text]


def model_and_device(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return the short name of a record's model, and its device; "" where it does not say."""
    device, model = record.get("device") or {}, record.get("model") or {}
    return str(model.get("name") or "").rpartition(".")[2], str(device.get("name") or device.get("device") or "")


def _listed(*parts: object) -> str:
    return ", ".join(str(part) for part in parts if part)


def _bytes(count: Any) -> str:
    return format_bytes(count) if count else ""


def _count(count: Any, what: str) -> str:
    return f"{count:,} {what}" if count else ""


def _pairs(values: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in (values or {}).items() if value is not None)


def _data(data: Mapping[str, Any]) -> str:
    graphs = (data.get("statistics") or {}).get("graphs")
    print_ = data.get("fingerprint")
    return _listed(_count(graphs, "graphs"), f"fingerprint {str(print_)[:12]}" if print_ else "")


def _rank(record: Mapping[str, Any]) -> str:
    ranks = record.get("ranks") or 1
    return f"rank {record.get('rank')} of {ranks}" if ranks > 1 else ""


def _versions(record: Mapping[str, Any], packages: Mapping[str, Any]) -> str:
    own = {"nodebudget": record.get("nodebudget"), "Python": record.get("python"), **packages}
    return _listed(*(f"{name} {version}" for name, version in own.items() if version))
