"""What a monitored run says about itself, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodebudget.report.html.words import Advice, counted, percent
from nodebudget.utils.byte_units import format_bytes

#: Over this share of the memory a run is near its end, under the other most of it lies idle.
_NARROW, _IDLE = 0.95, 0.5

#: Peaks that vary by more than this (CV) are worth levelling.
_UNEVEN = 0.05

#: Waiting for batches over this share of the time, the loader holds the device up.
_WAITING = 0.2

_LEVELS = {"leak": "bad", "drift": "warn", "fragmentation": "warn"}


def run_advice(values: Mapping[str, Any]) -> list[Advice]:
    """Say what happened in a run, whether it kept to the prediction, and what to do."""
    found = [Advice("bad", _sentence(text)) for text in values["out_of_memory"]]
    found += [
        Advice(_LEVELS.get(about, "warn"), _sentence(text))
        for about, text in zip(values["about"], values["warnings"], strict=True)
    ]
    found += [advice for advice in (_ended(values), _kept(values), _room(values)) if advice is not None]
    peaks = values["measured"]
    if peaks is not None and peaks["cv"] > _UNEVEN and "leak" not in values["about"]:
        found.append(
            Advice(
                "note",
                f"Peaks vary by {peaks['cv']:.0%} (CV), {format_bytes(peaks['min'])} to {format_bytes(peaks['max'])}: "
                "NodeBudgetSampler with a calibration levels them ('nodebudget plan' shows how far).",
            )
        )
    if values["splits"]:
        found.append(
            Advice(
                "note",
                counted(values["splits"], "batch was", "batches were")
                + " split to fit: a smaller budget makes it unneeded.",
            )
        )
    if values["waited_share"] and values["waited_share"] > _WAITING:
        found.append(
            Advice(
                "note",
                f"{values['waited_share']:.0%} of the time went into waiting for batches: more num_workers, or graphs "
                "that are built before, make it faster.",
            )
        )
    return found


def _sentence(text: str) -> str:
    text = str(text).strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _ended(values: Mapping[str, Any]) -> Advice | None:
    status = str(values["status"])
    if not values["batches"]:
        return Advice("note", "The log holds no batch yet.")
    if not values["ended"]:
        return Advice("note", "The log has no end: the run goes on, or was killed; what is shown is what was written.")
    if status not in ("done", "exit"):
        return Advice("warn", f"The run ended as '{status}'.")
    return None


def _kept(values: Mapping[str, Any]) -> Advice | None:
    """Say how measured compares with predicted, where no warning says so."""
    if values["measured"] is None and values["batches"]:
        return Advice("note", _sentence(values["note"] or "Peaks were not measured in this run"))
    if values["drift"] is None or "drift" in values["about"]:
        return None
    side = "over" if values["drift"] > 0 else "under"
    text = f"Measured peaks are {percent(abs(values['drift']))} {side} the predicted ones (median)"
    if values["margin"] is None:
        return Advice("note", f"{text}.")
    if abs(values["drift"]) <= values["margin"]:
        return Advice("good", f"{text}, within the calibration's bound of {percent(values['margin'])}.")
    return Advice("note", f"{text}; the calibration's bound is {percent(values['margin'])}.")


def _room(values: Mapping[str, Any]) -> Advice | None:
    most = (values["reserved"] or values["measured"] or {}).get("max")
    capacity = values["capacity"]
    if not most or not capacity:
        return None
    share = (
        f"The highest step took {format_bytes(most)}, {most / capacity:.0%} of the device's {format_bytes(capacity)}"
    )
    if most > _NARROW * capacity:
        return Advice("warn", f"{share}: a little more and it is out of memory; a smaller budget leaves room.")
    if values["on_cpu"]:
        return None  # a host has more to do with its memory
    if most < _IDLE * capacity and values["predicted"] is not None:
        return Advice("note", f"{share}: a larger budget would use more of it ('nodebudget plan --capacity').")
    return Advice("note", f"{share}.")
