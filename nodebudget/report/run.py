"""A monitored run, as text and as a view that is drawn anew while it grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nodebudget.errors import printable
from nodebudget.monitor.log_reader import Run
from nodebudget.monitor.summary import progress_of, seconds_left, speed
from nodebudget.report.text import render, table_of
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import count_sizes, size_label

_AMOUNTS = {
    "measured": "measured peak",
    "predicted": "predicted peak",
    "reserved": "reserved by PyTorch",
    "rss": "resident set of the process",
}

#: Over this share of the capacity the bar is red.
_NARROW = 0.95


def run_text(summary: Mapping[str, Any]) -> str:
    """Describe a run for people."""
    parts = [printable(_title(summary)), render(table_of(["a batch", "mean", "max", "CV"], _rows(summary)))]
    parts += [f"- {printable(sentence)}" for sentence in _sentences(summary)]
    if summary["slowest"]:
        parts += ["Slowest steps:", render(table_of(["step", "time", "graphs", "edges", "peak"], _slowest(summary)))]
    return "\n".join(parts)


def _title(summary: Mapping[str, Any]) -> str:
    device, of = summary["device"], summary["of"]
    batches = f"{summary['batches']:,}" + (f" of {of:,}" if of else "")
    return (
        f"{batches} batches in {duration(summary['seconds'])} on {device.get('device', 'a device')} "
        f"({device.get('name', 'unknown')}); {summary['status']}"
    )


def _rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [label, format_bytes(found["mean"]), format_bytes(found["max"]), f"{found['cv']:.1%}"]
        for name, label in _AMOUNTS.items()
        if (found := summary[name]) is not None
    ]
    rows += [
        [size_label(name), f"{found['mean']:,.1f}", f"{found['max']:,.0f}", f"{found['cv']:.1%}"]
        for name, found in summary["sizes"].items()
        if found is not None
    ]
    taken = summary["step_seconds"]
    if taken is not None:
        rows.append(["time of the step", duration(taken["mean"]), duration(taken["max"]), f"{taken['cv']:.1%}"])
    return rows


def _sentences(summary: Mapping[str, Any]) -> list[str]:
    found = [str(summary["note"])] if summary["note"] else []
    if summary["drift"] is not None:
        side = "over" if summary["drift"] > 0 else "under"
        found.append(f"measured peaks are {abs(summary['drift']):.2%} {side} the predicted ones (median)")
    most = (summary["reserved"] or summary["measured"] or {}).get("max")
    if most and summary["capacity"]:
        found.append(f"the highest peak took {most / summary['capacity']:.0%} of {format_bytes(summary['capacity'])}")
    if summary["graphs_per_second"]:
        found.append(f"{summary['graphs_per_second']:,.1f} graphs a second of late")
    if summary["waited_share"]:
        found.append(f"{summary['waited_share']:.1%} of the time went into waiting for batches")
    counts = {
        "retries": "times the allocator gave its cache back to find memory",
        "splits": "batches were split to fit",
        "restarts": "times the run was taken up again",
    }
    found += [f"{summary[name]:,} {words}" for name, words in counts.items() if summary[name]]
    return found + [f"warning: {text}" for text in summary["warnings"]] + list(summary["out_of_memory"])


def _slowest(summary: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            str(step["step"]),
            duration(step["seconds"]),
            *(f"{step['sizes'][name]:,}" if name in step["sizes"] else "-" for name in ("graphs", "edges")),
            "-" if step["measured"] is None else format_bytes(step["measured"]),
        ]
        for step in summary["slowest"]
    ]


def duration(seconds: float) -> str:
    """Write a time for people: "1:02:03", "4:05", "6.1 s" or "12 ms"."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def live_view(run: Run, capacity: int | None, gpu: str | None = None) -> RenderableType:
    """Draw a run as it is now.

    Args:
        run: What was read of its log.
        capacity: Bytes that the bars are held against; None draws no bars.
        gpu: What the driver says of the GPU, a line.
    """
    device, model = run.header.get("device", {}), run.header.get("model") or {}
    title = f"{model.get('name', 'run')} on {device.get('device')} ({device.get('name')})"
    parts: list[RenderableType] = [_progress(run)]
    if run.steps:
        parts += [_memory(run.steps[-1], max_of(run), capacity), _sizes(run.steps[-1])]
    else:
        parts.append(_line("no batch yet", style="dim"))
    if gpu:
        parts.append(_line(gpu, style="dim"))
    notes = [event for event in run.events if event.get("event") in ("warning", "out of memory")]
    parts += [_line(f"step {note['step']}: {note['text']}", style="yellow") for note in notes[-3:]]
    return Panel(Group(*parts), title=escape(printable(title)), title_align="left", width=100)


def max_of(run: Run) -> dict[str, int]:
    """Return the highest of each amount so far."""
    found: dict[str, int] = {}
    for name in _AMOUNTS:
        known = [step[name] for step in run.steps if step[name] is not None]
        if known:
            found[name] = max(known)
    return found


def _progress(run: Run) -> RenderableType:
    total, done = progress_of(run)
    step = run.steps[-1] if run.steps else None
    left, rate = seconds_left(run), speed(run)
    words = [
        f"batch {done:,}" + (f" of {total:,}" if total else ""),
        f"epoch {step['epoch']}" if step else "",
        f"{duration(step['seconds'])} a step" if step else "",
        f"{rate:,.1f} graphs/s" if rate else "",
        f"{duration(max(round(left), 1))} left" if left is not None else "",
    ]
    if left is not None and not run.header.get("batches"):
        words[-1] += " in this epoch"
    # A grid, since a bar by itself does not end its line.
    lines = Table.grid()
    lines.add_row(_line("   ".join(word for word in words if word), style="bold"))
    if total:
        lines.add_row(ProgressBar(total=total, completed=min(done, total), width=96))
    return lines


def _memory(step: Mapping[str, Any], most: Mapping[str, int], capacity: int | None) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row("", "now", "highest", f"of {format_bytes(capacity)}" if capacity else "", style="dim")
    for name, label in _AMOUNTS.items():
        value = step[name]
        if value is None:
            continue
        # The process holds more than what goes to the device, or the step.
        stands_alone = name != "rss" or "measured" not in most
        bar = _bar(most[name], value, capacity) if capacity and stands_alone else Text("")
        table.add_row(label, format_bytes(value), format_bytes(most[name]), bar)
    return table


def _bar(most: int, now: int, capacity: int) -> ProgressBar:
    style = "red" if most > _NARROW * capacity else "green"
    return ProgressBar(total=capacity, completed=min(now, capacity), width=36, complete_style=style)


def _sizes(step: Mapping[str, Any]) -> Text:
    return _line(f"this batch: {count_sizes(step['sizes']) or 'sizes not known'}")


def _line(words: str, style: str = "") -> Text:
    # Names and texts of a log may be anybody's.
    return Text(printable(words), style=style)
