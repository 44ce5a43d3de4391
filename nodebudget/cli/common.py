"""What the commands share: exit codes, JSON, progress."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nodebudget.cli.command import Command as Command
from nodebudget.errors import printable_lines

F = TypeVar("F", bound=Callable[..., Any])

#: Called with the number of steps done and the number of all, where that is known.
Report = Callable[[int, "int | None"], None]


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(function)


def quiet_option(function: F) -> F:
    """Add `-q`."""
    return click.option("-q", "--quiet", is_flag=True, help="Show no progress and no notes.")(function)


def pickle_option(function: F) -> F:
    """Add `--allow-pickle`."""
    text = "Read an LMDB of pickled graphs, which can run any code that its maker put there."
    return click.option("--allow-pickle", is_flag=True, help=text)(function)


def output_options(help_text: str) -> Callable[[F], F]:
    """Add `-o FILE` and `--force`."""

    def add(function: F) -> F:
        function = click.option("--force", is_flag=True, help="Overwrite an existing file.")(function)
        return click.option("-o", "--output", type=click.Path(), help=help_text)(function)

    return add


def print_json(value: Any) -> None:
    """Print one JSON object on stdout. NaN and infinities become null, which JSON has."""
    click.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value


def say(text: str) -> None:
    """Write lines to stdout. Names in them may come from anybody's files: nothing reaches the terminal as a command."""
    click.echo(printable_lines(text))


def note(text: str, *, quiet: bool = False) -> None:
    """Write a line to stderr, as safe as `say` does."""
    if not quiet:
        click.echo(printable_lines(text), err=True)


@contextmanager
def warnings_as_notes(*, quiet: bool = False) -> Iterator[None]:
    """Say what is warned of in a line each on stderr, at the end; deprecations and such as Python does."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(entry.message) for entry in said if entry.category is UserWarning):
        note(f"nodebudget: {text}", quiet=quiet)
    for entry in said:
        if entry.category is not UserWarning:
            warnings.showwarning(entry.message, entry.category, entry.filename, entry.lineno)


@contextmanager
def progress(label: str, *, quiet: bool = False) -> Iterator[Report]:
    """Show a bar on stderr.

    Yields:
        A function to call with the steps done and all steps (None where unknown).
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
    if not quiet and not console.is_terminal:
        note(f"{label}: done")
