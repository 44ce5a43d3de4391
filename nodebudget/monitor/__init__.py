"""Watching a training run: a line a batch, warnings, and what to do when memory runs out."""

from __future__ import annotations

from nodebudget.monitor.monitor import MemoryMonitor
from nodebudget.monitor.reading import Run, RunReader, read_run
from nodebudget.monitor.rescue import Split, oom_guard, run_with_split
from nodebudget.monitor.summary import summarize

__all__ = ["MemoryMonitor", "Run", "RunReader", "Split", "oom_guard", "read_run", "run_with_split", "summarize"]
