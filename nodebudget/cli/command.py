"""Errors of a command as one sentence on stderr and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from nodebudget.errors import NodeBudgetError, printable


class Command(click.Command):
    """A click command with the exit codes of nodebudget: 0 done, 1 a check failed, 2 wrong input, 3 missing."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        """Run the command line and exit; without `standalone_mode` return and raise as click does."""
        if not standalone_mode or not (sys.argv[1:] if args is None else args):  # click prints the help
            return super().main(args, standalone_mode=standalone_mode, **extra)
        try:
            sys.exit(super().main(args, standalone_mode=False, **extra))
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else self.name
            _exit_with(2, f"{error.format_message().rstrip('.')}; see '{path} --help'")
        except click.Abort:
            _exit_with(1, "interrupted")
        except NodeBudgetError as error:
            _exit_with(error.exit_code, str(error))
        except OSError as error:
            _exit_with(2, f"{error.filename or 'a file'}: {error.strerror or error}; check the path and permissions")


def _exit_with(code: int, sentence: str) -> NoReturn:
    click.echo(f"nodebudget: {printable(sentence)}", err=True)
    sys.exit(code)
