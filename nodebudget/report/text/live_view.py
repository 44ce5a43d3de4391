"""A run that still grows, as a view that is redrawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nodebudget.errors import printable, printable_lines
from nodebudget.monitor.log_reader import Run
from nodebudget.monitor.summary import progress_of, seconds_left, speed
from nodebudget.report.formats import duration
from nodebudget.report.run import AMOUNTS, NARROW
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import count_sizes


class PlainConsole(Console):
    """A console that shows texts as they are: no markup, no emoji, no control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text of a string, such as a cell of a table."""
        return super().render_str(printable_lines(text), **options)


def live_view(run: Run, capacity: int | None, gpu: str | None = None) -> RenderableType:
    """Draw a run as it is now, with bars up to `capacity`, bytes, and a line that the driver says of the GPU."""
    device, model = run.header.get("device", {}), run.header.get("model") or {}
    title = f"{model.get('name', 'run')} on {device.get('device')} ({device.get('name')})"
    parts: list[RenderableType] = [_progress(run)]
    if run.steps:
        sizes = count_sizes(run.steps[-1]["sizes"]) or "sizes not known"
        parts += [_memory(run, capacity), _line(f"this batch: {sizes}")]
    else:
        parts.append(_line("no batch yet", style="dim"))
    if gpu:
        parts.append(_line(gpu, style="dim"))
    notes = [event for event in run.events if event.get("event") in ("warning", "out of memory")]
    parts += [_line(f"step {note['step']}: {note['text']}", style="yellow") for note in notes[-3:]]
    return Panel(Group(*parts), title=escape(printable(title)), title_align="left")


def _progress(run: Run) -> RenderableType:
    total, done = progress_of(run)
    step = run.steps[-1] if run.steps else None
    left, rate = seconds_left(run), speed(run)
    in_epoch = "" if run.header.get("batches") else " in this epoch"
    words = [
        f"batch {done:,}" + (f" of {total:,}" if total else ""),
        f"epoch {step['epoch']}" if step else "",
        f"{duration(step['seconds'])} per step" if step else "",
        f"{rate:,.1f} graphs/s" if rate else "",
        f"{duration(max(round(left), 1))} left{in_epoch}" if left is not None else "",
    ]
    # A grid, since a bar by itself does not end its line.
    lines = Table.grid()
    lines.add_row(_line("   ".join(word for word in words if word), style="bold"))
    if total:
        lines.add_row(ProgressBar(total=total, completed=min(done, total)))
    return lines


def _memory(run: Run, capacity: int | None) -> RenderableType:
    step: Mapping[str, Any] = run.steps[-1]
    table = Table.grid(padding=(0, 2), expand=True)
    for justify in ("left", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(ratio=1)
    table.add_row("", "now", "highest", f"of {format_bytes(capacity)}" if capacity else "", style="dim")
    highest = {name: max((past[name] or 0 for past in run.steps), default=0) for name in AMOUNTS}
    for name, label in AMOUNTS.items():
        value = step[name]
        if value is None:
            continue
        # The process holds more than what goes to the device, or the step.
        comparable = name != "rss" or not highest["measured"]
        bar: RenderableType = ""
        if capacity and comparable:
            style = "red" if highest[name] > NARROW * capacity else "green"
            bar = ProgressBar(total=capacity, completed=min(value, capacity), complete_style=style)
        table.add_row(label, format_bytes(value), format_bytes(highest[name]), bar)
    return table


def _line(words: str, style: str = "") -> Text:
    # Names and texts of a log may come from anybody.
    return Text(printable(words), style=style)
