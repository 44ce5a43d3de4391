"""A command whose errors are one sentence on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from nodebudget.errors import NodeBudgetError, printable


class Command(click.Command):
    """A click command with the exit codes of nodebudget: 0 done, 1 a check failed, 2 wrong input, 3 missing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; report a usage error or an option that can't be used in one sentence."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            exit_with_usage(ctx, error)
        except NodeBudgetError as error:
            _exit_with(ctx, str(error), error.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn the package's own errors and those of the file system into exit codes."""
        try:
            return super().invoke(ctx)
        except NodeBudgetError as error:
            _exit_with(ctx, str(error), error.exit_code)
        except BrokenPipeError:
            # The reader of stdout has gone (head, for example). Python would report it once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except OSError as error:
            _exit_with(ctx, f"{error.strerror or error}: {error.filename or 'a file'}; check it", 2)


def exit_with_usage(ctx: click.Context, error: click.UsageError) -> NoReturn:
    """Report in one sentence what is wrong with the command line and where to look; exit code 2."""
    _exit_with(ctx, f"{error.format_message().rstrip('.')}; see '{ctx.command_path} --help'", 2)


def _exit_with(ctx: click.Context, sentence: str, code: int) -> NoReturn:
    click.echo(f"nodebudget: {printable(sentence)}", err=True)
    ctx.exit(code)
