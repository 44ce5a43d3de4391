"""The command line: one thin file a command, loaded when it is called."""

from __future__ import annotations

import importlib
import os

import click

from nodebudget.cli.common import refuse_usage
from nodebudget.utils.version import __version__

#: Command → the module that holds it, as an attribute of the name `command`.
_COMMANDS = {
    "measure": "nodebudget.cli.measure",
    "calibrate": "nodebudget.cli.calibrate",
    "plan": "nodebudget.cli.plan",
    "suggest": "nodebudget.cli.suggest",
    "compare": "nodebudget.cli.compare",
    "breakdown": "nodebudget.cli.breakdown",
    "diagnose": "nodebudget.cli.diagnose",
    "quickstart": "nodebudget.cli.quickstart",
    "monitor": "nodebudget.cli.monitor",
    "report": "nodebudget.cli.report",
    "tune": "nodebudget.cli.tune",
    "doctor": "nodebudget.cli.doctor",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:  # click answers with the help, by way of an error of its own
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            refuse_usage(ctx, error)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            refuse_usage(ctx, error)


@click.group(
    "nodebudget", cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="nodebudget")
def main() -> None:
    """Keep GPU memory constant when training neural networks on crystal graphs.

    Measure how large your crystals are, calibrate what a training step takes, and pack batches to a budget of
    memory instead of a number of graphs.
    """
    # Before torch is imported: its profiler warns of tensors older than itself, which are expected here.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
