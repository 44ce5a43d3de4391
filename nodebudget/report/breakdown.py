"""What the memory of a training step consists of, phase by phase."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nodebudget.analysis.breakdown import Breakdown, Check
from nodebudget.profiling.attribution import PARTS
from nodebudget.report.charts import Axis, Chart, Series
from nodebudget.report.report import Advice, Report, Table
from nodebudget.utils.byte_units import format_bytes

_ALWAYS = PARTS[: PARTS.index("beside")]  #: Parts that a report shows although all are zero.

_LABELLED = ("graphs", "phase of the peak")

_LABELS = {
    "parameters": "parameters, buffers",
    "beside": "other allocations",
    "rounding": "rounding of blocks",
    "typical": "typical batch",
    "largest": "largest fixed batch",
    "budget": "budget batch",
    "batch": "make the batch",
}


def breakdown_report(batches: Sequence[Breakdown], checks: Sequence[Check]) -> Report:
    """Report on what the peaks of batches consist of, phase by phase, and whether the counts agree."""
    first = batches[0]
    return Report(
        "Breakdown",
        tables=[_peaks(batches), _phases(first)],
        notes=[_check(check) for check in checks],
        advice=[Advice("note", _summary(first))],
        draw=lambda: _charts(batches),
    )


def _peaks(batches: Sequence[Breakdown]) -> Table:
    columns = [[*_LABELLED, *map(_label, _used(batches)), "sum", "measured"]]
    for entry in batches:
        parts = [f"{format_bytes(entry.peak[part])} {entry.peak[part] / entry.total:6.1%}" for part in _used(batches)]
        measured = f"{format_bytes(entry.measured)} ({entry.error:+.2%})"
        graphs = f"{entry.sizes['graphs']:,.0f}"
        columns.append([graphs, _label(entry.peak_phase), *parts, format_bytes(entry.total), measured])
    head = ["part", *(_label(entry.label) for entry in batches)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Table(head, rows, "Live memory at the peak of a training step")


def _phases(entry: Breakdown) -> Table:
    parts = [part for part in PARTS if len({phase[part] for phase in entry.phases.values()}) > 1]
    rows = [
        [_label(name), *(format_bytes(phase[part]) for part in parts), format_bytes(sum(phase.values()))]
        for name, phase in entry.phases.items()
    ]
    title = f"Maximum of each phase, {_label(entry.label)}, with the parts that change"
    return Table(["phase", *map(_label, parts), "sum"], rows, title)


def _check(check: Check) -> str:
    error = f" ({check.error:+.2%})" if check.counted else ""
    return f"{check.what}: counted {format_bytes(check.counted)}, measured {format_bytes(check.measured)}{error}"


def _summary(entry: Breakdown) -> str:
    largest = max(PARTS, key=lambda part: entry.peak[part])
    # What the optimizer needs temporarily is as large as its parameters, whatever the batch.
    of_data = ["batch data", "activations", *(["temporary"] if entry.peak_phase != "optimizer" else [])]
    share = sum(entry.peak[part] for part in of_data) / entry.total
    return (
        f"The peak of the {_label(entry.label)} is in the phase '{_label(entry.peak_phase)}'. Largest part: "
        f"{_label(largest)}, {entry.peak[largest] / entry.total:.0%}. {share:.0%} of the peak depends on the batch, "
        "the rest on the model alone."
    )


def _used(batches: Sequence[Breakdown]) -> list[str]:
    """Return the parts that are shown: those of the workload, and others that any of the steps has."""
    live = {part: any(entry.timeline[:, place].any() for entry in batches) for place, part in enumerate(PARTS)}
    return [part for part in PARTS if part in _ALWAYS or live[part]]


def _label(name: str) -> str:
    return _LABELS.get(name, name)


def _charts(batches: Sequence[Breakdown]) -> list[Chart]:
    """Draw the live bytes over the phases of a step, stacked by part, one chart for each batch."""
    highest = 1.05 * max(float(entry.timeline.sum(axis=1).max()) for entry in batches)
    return [_chart(entry, _used(batches), highest) for entry in batches]


def _chart(entry: Breakdown, used: Sequence[str], highest: float) -> Chart:
    x, rows, phases = _stretched(entry)
    tops = np.cumsum([entry.timeline[rows, PARTS.index(part)] for part in used], axis=0).astype(float)
    lows = [np.zeros(len(rows)), *tops[:-1]]
    bands = [
        Series("band", part.replace(" ", "-"), _label(part), x.tolist(), top.tolist(), low.tolist())
        for part, top, low in zip(used, tops, lows, strict=True)
    ]
    ticks = [(place + 0.5, _label(phase)) for place, phase in enumerate(phases)]
    return Chart(
        f"{_label(entry.label).capitalize()}: peak {format_bytes(entry.total)}",
        Axis("phase of the step", low=0.0, high=len(phases), ticks=ticks),
        Axis("live memory", "bytes", low=0.0, high=highest),
        [*bands[::-1], Series("event", "exact", "", list(range(1, len(phases))), [])],
    )


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
