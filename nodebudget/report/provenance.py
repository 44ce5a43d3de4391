"""Where a record came from, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodebudget.utils.byte_units import format_bytes


def facts_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Return where a calibration (its context) or a run (its header) came from: label → text, as far as it says."""
    device, model, data = ((record.get(key) or {}) for key in ("device", "model", "data"))
    memory, parameters = device.get("memory"), model.get("parameters")
    graphs, fingerprint = (data.get("statistics") or {}).get("graphs"), data.get("fingerprint")
    ranks = record.get("ranks") or 1
    versions = {
        "nodebudget": record.get("nodebudget"),
        "Python": record.get("python"),
        **(record.get("packages") or {}),
    }
    facts = {
        "device": _join(device.get("device"), device.get("name"), memory and format_bytes(memory)),
        "model": _join(model.get("name"), parameters and f"{parameters:,} parameters", model.get("dtype")),
        "optimizer": _join(model.get("optimizer")),
        "model settings": _pairs(model.get("config")),
        "data": _join(graphs and f"{graphs:,} graphs", fingerprint and f"fingerprint {str(fingerprint)[:12]}"),
        "graph settings": _pairs((data.get("settings") or {}).get("graphs")),
        "peaks measured by": _join(record.get("measured_by")),
        "processes": f"rank {record.get('rank')} of {ranks}" if ranks > 1 else "",
        "made": _join(record.get("created")),
        "command": _join(record.get("command")),
        "workload": _join(record.get("workload")),
        "versions": _pairs({name: version for name, version in versions.items() if version}),
        "platform": _join(record.get("platform"), record.get("host")),
    }
    return {label: text for label, text in facts.items() if text}


def model_and_device(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return the short name of a record's model, and its device; "" where it does not say."""
    device, model = record.get("device") or {}, record.get("model") or {}
    return str(model.get("name") or "").rpartition(".")[2], str(device.get("name") or device.get("device") or "")


def _join(*parts: object) -> str:
    return ", ".join(str(part) for part in parts if part)


def _pairs(values: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in (values or {}).items() if value is not None)
