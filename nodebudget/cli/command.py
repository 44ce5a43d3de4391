"""Errors of a command as one sentence on stderr and an exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from nodebudget.errors import NodeBudgetError, printable


class Command(click.Command):
    """A click command with the exit codes of nodebudget: 0 done, 1 a check failed, 2 wrong input, 3 missing."""

    invoked: click.Command | None = None  #: The subcommand that runs, if it is a group.

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
            _exit_with(error.exit_code, name_options(str(error), self.invoked or self))
        except OSError as error:
            _exit_with(2, f"{error.filename or 'a file'}: {error.strerror or error}; check the path and permissions")


def name_options(sentence: str, command: click.Command) -> str:
    """Name the options of a command in the sentence of an error that names the Python arguments that they set.

    "max_nodes is 0" becomes "--max-nodes is 0", "oversized='skip'" becomes "--oversized skip", and what stands in
    parentheses after an option, the same in Python, is left out. Texts in quotes stay what they are.
    """
    sentence = re.sub(r"(--[a-z][\w-]*(?: \w+)?) \((?:\w+\()?\w+=[^()]*\)+", r"\1", sentence)
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or parameter.name is None:
            continue
        name, option = parameter.name, max(parameter.opts, key=len)
        before, after = r"(?<![\w./'\"-])", r"(?![\w(='\"]|[./-]\w)"
        given = rf"{before}{name}=(?:'([^']*)'|([^\s,;()]+))"
        sentence = re.sub(given, option if parameter.is_flag else rf"{option} \1\2", sentence)
        # A name without underscores may be any word but at the start.
        sentence = re.sub(rf"{before}{name}{after}" if "_" in name else rf"^{name}(?= is )", option, sentence)
    return sentence


def _exit_with(code: int, sentence: str) -> NoReturn:
    click.echo(f"nodebudget: {printable(sentence)}", err=True)
    sys.exit(code)
