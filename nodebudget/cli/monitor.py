"""nodebudget monitor."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from nodebudget.cli.common import Command, json_option, print_json, quiet_option, say

if TYPE_CHECKING:
    from nodebudget.monitor.log_reader import Run, RunReader

#: Seconds between two looks at the log.
_PAUSE = 0.5

_HELP = """Show what a MemoryMonitor wrote to RUN: memory against the device's, sizes, speed, drift.

With --follow the view is drawn anew while the run goes on, until it ends or Ctrl-C; then, and without it, a summary is
printed.

\b
Example:
  nodebudget monitor run.jsonl --follow
"""


@click.command("monitor", cls=Command, help=_HELP, short_help="Show a monitored run, live or summed up.")
@click.argument("run", type=click.Path())
@click.option("-f", "--follow", is_flag=True, help="Go on looking until the run ends or Ctrl-C.")
@click.option("--capacity", help="Memory that bars are held against, such as 40GiB; default: the device's.")
@json_option
@quiet_option
def command(run: str, follow: bool, capacity: str | None, as_json: bool, quiet: bool) -> None:
    """Show a run."""
    from nodebudget.monitor.log_reader import RunReader
    from nodebudget.monitor.summary import summarize
    from nodebudget.report.run import run_report
    from nodebudget.report.text.render import render
    from nodebudget.utils.byte_units import parse_bytes

    room = None if capacity is None else parse_bytes(capacity)
    reader = RunReader(run)
    if follow:
        _follow(reader, room, hidden=quiet or as_json)
    if as_json:
        print_json(summarize(reader.run, room))
    else:
        say(render(run_report(reader.run, room)))


def _follow(reader: RunReader, room: int | None, *, hidden: bool) -> None:
    from rich.live import Live

    from nodebudget.report.text.live_view import live_view
    from nodebudget.report.text.render import PlainConsole

    console = PlainConsole(stderr=True)
    seen_gpu = _gpu(reader.run)
    # Elsewhere than on a terminal there is nothing to draw anew: the summary comes at the end.
    show = console.is_terminal and not hidden

    def view() -> Any:
        memory = room or reader.run.header.get("device", {}).get("memory")
        return live_view(reader.run, memory, seen_gpu())

    try:
        with Live(view() if show else "", console=console, auto_refresh=False, transient=True) as live:
            while not _over(reader.run):
                time.sleep(_PAUSE)
                if reader.update() and show:
                    live.update(view(), refresh=True)
    except KeyboardInterrupt:
        pass


def _over(run: Run) -> bool:
    """Whether nothing more will come: the run ended, or its process is gone from this machine."""
    if run.end is not None:
        return True
    here = run.header.get("host") == platform.node()
    return here and not _lives(int(run.header.get("pid", 0)))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _gpu(run: Run) -> Callable[[], str | None]:
    """Return what asks the driver about the run's GPU, if it is of this machine and pynvml is there."""
    from nodebudget.utils.optional_imports import require

    uuid = run.header.get("device", {}).get("uuid")
    if not uuid or run.header.get("host") != platform.node():
        return lambda: None
    try:
        pynvml = require("pynvml")
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
    except Exception:
        # No library, no driver, or no such device: the view does without.
        return lambda: None

    def ask() -> str | None:
        from nodebudget.utils.byte_units import format_bytes

        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        except pynvml.NVMLError:
            return None
        return f"driver: {format_bytes(memory.used)} of {format_bytes(memory.total)} in use, GPU {busy}% busy"

    return ask
