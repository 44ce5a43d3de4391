"""nodebudget monitor."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from nodebudget.cli import options
from nodebudget.cli.printer import Printer
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.optional_imports import require

if TYPE_CHECKING:
    from nodebudget.monitor.log_reader import Run, RunReader

_PAUSE = 0.5  #: Seconds between two reads of the log.


@click.command("monitor", short_help="Show a monitored run, live or as a summary.")
@click.argument("run", type=click.Path())
@click.option("-f", "--follow", is_flag=True, help="Update the view until the run ends or Ctrl-C.")
@options.memory("--capacity", "Memory at which a bar is full, such as 40GiB.  [default: the device's]")
@options.printer
def command(run: str, follow: bool, capacity: int | None, printer: Printer) -> None:
    """Show the log RUN of a MemoryMonitor: memory and capacity of the device, sizes, speed, drift.

    With --follow the view is updated while the run continues, until it ends or Ctrl-C. A summary is printed at the end.

    \b
    Example:
      nodebudget monitor run.jsonl --follow
    """
    from nodebudget.monitor.log_reader import RunReader
    from nodebudget.monitor.summary import summarize
    from nodebudget.report.run import run_report

    reader = RunReader(run)
    if follow:
        _follow(reader, capacity, hidden=printer.quiet or printer.as_json)
    printer.result(summarize(reader.run, capacity), run_report(reader.run, capacity))


def _follow(reader: RunReader, capacity: int | None, *, hidden: bool) -> None:
    from rich.live import Live

    from nodebudget.report.text.live_view import PlainConsole, live_view

    console = PlainConsole(stderr=True)
    gpu_line = _gpu(reader.run)
    # Where the output is not a terminal, only the summary at the end is printed.
    show = console.is_terminal and not hidden

    def view() -> Any:
        memory = capacity or reader.run.header.get("device", {}).get("memory")
        return live_view(reader.run, memory, gpu_line())

    try:
        with Live(view() if show else "", console=console, auto_refresh=False, transient=True) as live:
            while not _over(reader.run):
                time.sleep(_PAUSE)
                if reader.update() and show:
                    live.update(view(), refresh=True)
    except KeyboardInterrupt:
        pass


def _over(run: Run) -> bool:
    """Return whether the run has ended, or its process on this machine has."""
    if run.end is not None:
        return True
    if run.header.get("host") != platform.node():
        return False
    try:
        os.kill(int(run.header.get("pid", 0)), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # a process of another user
    return False


def _gpu(run: Run) -> Callable[[], str | None]:
    """Return a function that asks the driver about the run's GPU, where it is on this machine."""
    uuid = run.header.get("device", {}).get("uuid")
    if not uuid or run.header.get("host") != platform.node():
        return lambda: None
    try:
        pynvml = require("pynvml")
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
    except Exception:
        # No library, no driver, or no such device.
        return lambda: None

    def ask() -> str | None:
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        except pynvml.NVMLError:
            return None
        return f"driver: {format_bytes(memory.used)} of {format_bytes(memory.total)} in use, GPU {busy}% busy"

    return ask
