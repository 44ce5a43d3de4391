"""What the memory of a training step is made of, as tables and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nodebudget.analysis.breakdown import Breakdown, Check
from nodebudget.profiling.attribution import PARTS
from nodebudget.report.text import render, table_of
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.optional_imports import require

# Colours that stay apart for colour-blind eyes (Okabe and Ito, 2008); what stays between steps is dark.
_COLOURS = {
    "parameters": "#000000",
    "optimizer state": "#0072b2",
    "gradients": "#56b4e9",
    "batch data": "#cc79a7",
    "activations": "#e69f00",
    "temporary": "#f0e442",
    "beside": "#999999",
    "rounding": "#d9d9d9",
}

_LABELS = {
    "parameters": "parameters, buffers",
    "beside": "beside the workload",
    "rounding": "rounding of blocks",
    "typical": "typical batch",
    "largest": "largest fixed batch",
    "budget": "budget batch",
}


def breakdown_text(found: Sequence[Breakdown], checks: Sequence[Check]) -> str:
    """Describe for people what the peaks are made of, phase by phase, and whether the counts agree."""
    parts = ["What is live at the peak of a training step:", _peaks_table(found)]
    first = found[0]
    parts += [f"The highest moment of each phase, {_label(first.label)}:", _phases_table(first)]
    for check in checks:
        state = f" ({check.error:+.2%})" if check.counted else ""
        counted, measured = format_bytes(check.counted), format_bytes(check.measured)
        parts.append(f"{check.what}: counted {counted}, measured {measured}{state}")
    parts.append(_sentence(first))
    return "\n".join(parts)


def _peaks_table(found: Sequence[Breakdown]) -> str:
    head = ["part", *(_label(entry.label) for entry in found)]
    rows = [["graphs", *(f"{entry.sizes['graphs']:,.0f}" for entry in found)]]
    rows.append(["in the phase", *(_phase(entry.peak_phase) for entry in found)])
    for part in _used(found):
        rows.append([_label(part), *(_share(entry, part) for entry in found)])
    rows.append(["sum", *(format_bytes(entry.total) for entry in found)])
    rows.append(["measured", *(f"{format_bytes(entry.measured)} ({entry.error:+.2%})" for entry in found)])
    return render(table_of(head, rows), width=120)


def _share(entry: Breakdown, part: str) -> str:
    return f"{format_bytes(entry.peak[part])} {entry.peak[part] / entry.total:6.1%}"


def _phases_table(entry: Breakdown) -> str:
    used = _used([entry])
    head = ["phase", *(_label(part) for part in used), "sum"]
    rows = [
        [_phase(phase), *(format_bytes(parts[part]) for part in used), format_bytes(sum(parts.values()))]
        for phase, parts in entry.phases.items()
    ]
    return render(table_of(head, rows), width=160)


def _sentence(entry: Breakdown) -> str:
    largest = max(PARTS, key=lambda part: entry.peak[part])
    # What the optimizer needs for a moment is as large as its parameters, whatever the batch.
    of_data = ["batch data", "activations", *(["temporary"] if entry.peak_phase != "optimizer" else [])]
    share = sum(entry.peak[part] for part in of_data) / entry.total
    return (
        f"The peak of the {_label(entry.label)} is in the phase '{_phase(entry.peak_phase)}'; largest in it: "
        f"{_label(largest)}, {entry.peak[largest] / entry.total:.0%}. Of the peak {share:.0%} goes with the batch, the "
        "rest with the model alone."
    )


def _used(found: Sequence[Breakdown]) -> list[str]:
    always = PARTS[: PARTS.index("beside")]
    return [part for part in PARTS if part in always or any(entry.timeline[:, _place(part)].any() for entry in found)]


def _place(part: str) -> int:
    return PARTS.index(part)


def _label(name: str) -> str:
    return _LABELS.get(name, name)


def _phase(name: str) -> str:
    return "batch made" if name == "batch" else name


def draw_breakdown(found: Sequence[Breakdown], file: BinaryIO, *, caption: str = "") -> None:
    """Draw the live bytes over the phases of a step, stacked by part, one panel a batch.

    Args:
        found: What `nodebudget.analysis.breakdown.break_down` measured.
        file: Where the PNG goes.
        caption: Said under the panels: what was measured on what.

    Raises:
        MissingError: matplotlib is not there.
    """
    require("matplotlib").use("Agg")
    pyplot = require("matplotlib.pyplot")
    figure, axes = pyplot.subplots(
        1, len(found), figsize=(4.6 * len(found) + 1.6, 4.4), sharey=True, squeeze=False, layout="constrained"
    )
    highest = max(entry.timeline.sum(axis=1).max() for entry in found)
    scale, unit = (2**30, "GiB") if highest >= 2**30 else (2**20, "MiB")
    used = _used(found)
    for axis, entry in zip(axes[0], found, strict=True):
        _panel(axis, entry, used, scale)
        axis.set_title(f"{_label(entry.label)}: peak {format_bytes(entry.total)}", fontsize=11)
    axes[0][0].set_ylabel(f"live memory, {unit}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], frameon=False, fontsize=9, loc="outside right center")
    if caption:
        figure.supxlabel(caption, fontsize=8, color="#555555")
    figure.savefig(file, format="png", dpi=130)
    pyplot.close(figure)


def _panel(axis: Any, entry: Breakdown, used: Sequence[str], scale: int) -> None:
    places, rows, phases = _stretched(entry)
    stacks = [entry.timeline[rows, _place(part)] / scale for part in used]
    axis.stackplot(
        places,
        *stacks,
        colors=[_COLOURS[part] for part in used],
        labels=[_label(part) for part in used],
        linewidth=0,
    )
    for place in range(1, len(phases)):
        axis.axvline(place, color="#555555", linewidth=0.6)
    axis.set_xticks(np.arange(len(phases)) + 0.5, labels=[_phase(phase) for phase in phases], rotation=30, ha="right")
    axis.tick_params(axis="x", labelsize=8, length=0)
    axis.set_xlim(0, len(phases))
    axis.spines[["top", "right"]].set_visible(False)


def _stretched(entry: Breakdown) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], list[str]]:
    """Give each phase the same width: places, rows of the timeline, and the phases that are shown."""
    ends = [place for _, place in entry.starts[1:]] + [len(entry.timeline) - 1]
    places, rows = [], []
    phases: list[str] = []
    for (phase, start), end in zip(entry.starts, ends, strict=True):
        if end > start and phase != "between":
            places.append(len(phases) + np.linspace(0, 1, end - start + 1))
            rows.append(np.arange(start, end + 1))
            phases.append(phase)
    return np.concatenate(places), np.concatenate(rows), phases
