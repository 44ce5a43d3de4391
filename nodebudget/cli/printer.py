"""What a command prints: the result on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from nodebudget.errors import printable_lines

if TYPE_CHECKING:
    from nodebudget.report.report import Report


class Printer:
    """Prints for one command. Text from files is escaped, so that no control sequence reaches the terminal."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet

    def result(self, record: Any, *reports: Report | str) -> None:
        """Print a result on stdout: the record as one JSON object with `--json`, else the reports.

        The record may hold numpy arrays; its NaN and infinities become null, since JSON has neither.
        """
        if self.as_json:
            click.echo(json.dumps(_plain(record), indent=2, allow_nan=False))
            return
        from nodebudget.report.text.render import render

        text = "\n\n".join(report if isinstance(report, str) else render(report) for report in reports)
        if text:
            click.echo(printable_lines(text))

    def note(self, text: str, *, always: bool = False) -> None:
        """Print lines on stderr; with `always` even if quiet."""
        if always or not self.quiet:
            click.echo(printable_lines(text), err=True)

    @contextmanager
    def warnings_as_notes(self) -> Iterator[None]:
        """Print each different UserWarning as one note; leave other categories to Python."""
        seen: set[str] = set()
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            by_python = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
                if category is not UserWarning:
                    by_python(message, category, *where, **options)
                elif str(message) not in seen:
                    seen.add(str(message))
                    self.note(f"nodebudget: {message}")

            warnings.showwarning = show
            yield

    @contextmanager
    def note_on_interrupt(self, text: str | None) -> Iterator[None]:
        """Print a note, if there is one, when Ctrl-C ends the block."""
        try:
            yield
        except KeyboardInterrupt:
            if text is not None:
                self.note(text)
            raise

    @contextmanager
    def steps(self) -> Iterator[Steps]:
        """Show the progress of work in several steps: on a terminal a progress bar per step.

        Meanwhile, what the user's own code prints goes to stderr, so that it does not mix with the result.
        """
        with redirect_stdout(sys.stderr), ExitStack() as stack:
            bars = None
            if sys.stderr.isatty() and not self.quiet:
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

                columns = (
                    TextColumn("{task.description:<24}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeRemainingColumn(),
                )
                bars = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
            yield Steps(self, bars)


class Steps:
    """A progress bar per step; without a terminal one line per finished step."""

    def __init__(self, printer: Printer, bars: Any) -> None:
        self._printer, self._bars = printer, bars
        self._tasks: dict[str, Any] = {}

    def show(self, step: str, done: int, total: int | None) -> None:
        """Show the progress of a step; `total` is None while it is unknown."""
        if self._bars is not None:
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(step, total=total)
            self._bars.update(self._tasks[step], completed=done, total=total)
        elif total and done >= total:
            self._printer.note(f"{step}: {done} of {total}")

    def of(self, step: str) -> Callable[[int, int | None], None]:
        """Return a function that shows the progress of one step."""
        return lambda done, total: self.show(step, done, total)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
