"""`--help` of every command: a short first sentence, and an example that the command accepts."""

from __future__ import annotations

import shlex

import click
import pytest
from click.testing import CliRunner

from nodebudget.cli import main

COMMANDS = main.list_commands(click.Context(main))


def help_of(*names: str) -> str:
    done = CliRunner().invoke(main, [*names, "--help"])
    assert done.exit_code == 0
    return done.stdout


def test_the_list_of_commands_shows_whole_sentences() -> None:
    lines = help_of().partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == COMMANDS
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_can_be_parsed_and_lines_fit_a_terminal(name: str) -> None:
    text = help_of(name)
    example = text.partition("Example:\n")[2].splitlines()[0]
    program, command, *arguments = shlex.split(example)
    assert (program, command) == ("nodebudget", name)
    parser = main.get_command(click.Context(main), name)
    assert parser is not None
    parser.make_context(name, arguments)
    options = text.partition("Options:\n")[2].splitlines()
    assert all(len(line) <= 80 or "|" in line for line in options)
