"""Progress of work in several steps, on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nodebudget.cli.common import note


class Steps:
    """A bar a step on a terminal; one line a finished step elsewhere.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._plain = not console.is_terminal and not quiet
        columns = (
            TextColumn("{task.description:<32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=console, disable=quiet or self._plain)
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> Steps:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, step: str, done: int, total: int | None) -> None:
        """Show how far a step is."""
        if step not in self._tasks:
            self._tasks[step] = int(self._bars.add_task(step, total=total))
        self._bars.update(self._bars.task_ids[self._tasks[step]], completed=done, total=total)
        if self._plain and total and done >= total:
            note(f"{step}: {done} of {total}")
