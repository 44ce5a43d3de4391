"""The command line: one thin file per command, imported when the command runs."""

from __future__ import annotations

import importlib
import os

import click

from nodebudget.cli.command import Command
from nodebudget.utils.version import __version__

#: Each is a module of this package with the click command as its attribute `command`, in the order of `--help`.
_COMMANDS = (
    *("measure", "calibrate", "plan", "suggest", "compare", "breakdown"),
    *("diagnose", "quickstart", "monitor", "report", "tune", "doctor", "train-alignn"),
)


class _LazyGroup(Command, click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"nodebudget.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        self.invoked = command
        return command


@click.group(
    "nodebudget", cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="nodebudget")
def main() -> None:
    """Keep GPU memory constant when training graph neural networks on crystals.

    Measure the sizes of your graphs, calibrate the memory of a training step, and pack batches to a memory budget
    instead of a fixed number of graphs.

    \b
    Example:
      nodebudget suggest --reference 35 --batch-size 64 --target 20
    """
    # Before torch is imported: its profiler warns of tensors that were made before it started, as is intended here.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
