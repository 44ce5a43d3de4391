"""Options that several commands share, each defined once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nodebudget.cli.printer import Printer
from nodebudget.errors import InputError
from nodebudget.utils.byte_units import parse_bytes

if TYPE_CHECKING:
    from nodebudget.report.report import Report

F = TypeVar("F", bound=Callable[..., Any])

#: Where the value of `--structures` is kept while a command runs.
_STRUCTURES = "nodebudget.structures"


def memory(name: str, help_text: str) -> Callable[[F], F]:
    """Add an option that takes an amount of memory, such as 40GiB; pass bytes."""

    def to_bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
        return None if value is None else parse_bytes(value)

    return click.option(name, callback=to_bytes, metavar="SIZE", help=help_text)


def maximum(name: str, help_text: str) -> Callable[[F], F]:
    """Add an option for a whole number that may be written as 1e6; pass other numbers as they are."""

    def whole(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
        return int(value) if value is not None and value.is_integer() else value

    return click.option(name, type=float, callback=whole, help=help_text)


def printer(function: F) -> F:
    """Add `--json` and `-q`; pass a `Printer` as `printer`, which also prints warnings."""

    @functools.wraps(function)
    def command(*args: Any, printer: Printer, **options: Any) -> Any:
        with printer.warnings_as_notes():
            return function(*args, printer=printer, **options)

    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
    quiet = click.option("-q", "--quiet", is_flag=True, help="Print no progress and no notes.")
    return _grouped("printer", Printer, as_json, quiet)(command)  # type: ignore[return-value]


def device(*, prefer_gpu: bool = False) -> Callable[[F], F]:
    """Add `--gpu N` and `--device NAME`; pass "cpu" or "cuda:N" as `device`.

    With `prefer_gpu` neither need be given: GPU 0 if there is one, else the CPU.
    """

    def device_name(gpu: int | None, device: str | None) -> str:
        if gpu is not None and device is not None:
            raise InputError("--gpu and --device together", hint="give one of them")
        if gpu is None and device is None and not prefer_gpu:
            raise InputError("no device", hint="give --gpu 0, or --device cpu")
        if gpu is None and device is None:
            import torch

            return "cuda:0" if torch.cuda.is_available() else "cpu"
        return device or f"cuda:{gpu}"

    default = "  [default: GPU 0, else the CPU]" if prefer_gpu else ""
    return _grouped(
        "device",
        device_name,
        click.option("--gpu", type=click.IntRange(0), help="Index of the CUDA device."),
        click.option("--device", help=f"cpu or cuda:N, instead of --gpu.{default}"),
    )


@dataclass(frozen=True)
class Outputs:
    """Files that a command writes."""

    output: str | None = None  #: Value of `-o`.
    plot: str | None = None  #: Value of `--plot`.
    force: bool = False  #: Overwrite existing files.

    def check(self, suffixes: tuple[str, ...]) -> Outputs:
        """Refuse, before the work starts, files that can't be written, and a plot without matplotlib."""
        from nodebudget.utils.files import check_output
        from nodebudget.utils.optional_imports import require

        if suffixes and self.output is not None and not self.output.endswith(suffixes):
            raise InputError(
                f"unsupported file format {self.output!r}",
                limit=f"supported: {', '.join(suffixes)}",
                hint="give one of these suffixes",
            )
        for path in (self.output, self.plot):
            if path is not None:
                check_output(path, force=self.force)
        if self.plot is not None:
            require("matplotlib")
        return self

    def draw(self, report: Report, printer: Printer, caption: str = "") -> None:
        """Write the charts of a report, if a plot is wanted."""
        if self.plot is not None:
            from nodebudget.report.plots import save_picture
            from nodebudget.utils.files import write_whole

            write_whole(self.plot, lambda file: save_picture(report.draw(), file, caption), force=self.force)
            printer.note(f"written: {self.plot}")


def outputs(output: str | None = None, *, suffixes: tuple[str, ...] = (), plot: str | None = None) -> Callable[[F], F]:
    """Add `-o` (its help is `output`), `--plot` or both, and `--force`; pass checked `Outputs` as `outputs`.

    `suffixes` are the file formats that `-o` supports; empty: any.
    """
    options = [click.option("--force", is_flag=True, help="Overwrite existing files.")]
    if plot is not None:
        options.insert(0, click.option("--plot", type=click.Path(), help=plot))
    if output is not None:
        options.insert(0, click.option("-o", "--output", type=click.Path(), help=output))
    return _grouped("outputs", lambda **values: Outputs(**values).check(suffixes), *options)


@dataclass(frozen=True)
class CalibrationOptions:
    """A calibration that a command uses, if any, and the model that it is used for."""

    calibration: str | None  #: Path of the record.
    workload: str | None  #: Name of the workload that is trained.
    alignn_config: str | None  #: alignn's config.json: crystals are counted as the graphs of this run.
    allow_mismatch: bool  #: Accept a calibration of another model, or over 5% off.


allow_mismatch = click.option(
    "--allow-mismatch", is_flag=True, help="Accept a calibration of another model, or over 5% off."
)


def calibration(help_text: str) -> Callable[[F], F]:
    """Add what a command that uses a calibration takes; pass `CalibrationOptions` as `calibration`."""
    text = "Workload that you train, as for calibrate; a calibration of another model is then refused."
    return _grouped(
        "calibration",
        CalibrationOptions,
        click.option("--calibration", type=click.Path(), help=help_text),
        click.option("--workload", help=text),
        click.option("--alignn-config", type=click.Path(), help="Count crystals as the graphs of this config.json."),
        allow_mismatch,
    )


def seed(help_text: str) -> Callable[[F], F]:
    """Add `--seed`."""
    return click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help=help_text)


_allow_pickle = click.option(
    "--allow-pickle",
    is_flag=True,
    help="Read an LMDB of pickled graphs. Unpickling can run code: use it only for files that you trust.",
)
_structures = click.option(
    "--structures",
    metavar="KEY",
    expose_value=False,
    callback=lambda ctx, option, value: ctx.meta.__setitem__(_STRUCTURES, value),
    help="Key or column of the structures in DATA.  [default: atoms, structure, cif, or the only one]",
)


def allow_pickle(function: F) -> F:
    """Add `--allow-pickle`, and `--structures`, which `structures_key` returns."""
    return _structures(_allow_pickle(function))


def structures_key() -> str | None:
    """Return what the command in progress was given as `--structures`."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(_STRUCTURES)


on_error = click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What to do with a crystal that can't be read.",
)


@dataclass(frozen=True)
class TrainingOptions:
    """What is trained on what."""

    workload: str
    alignn_config: str | None
    data: str
    allow_pickle: bool

    @property
    def name(self) -> str:
        """The workload, for records and captions."""
        return self.alignn_config or self.workload


def _grouped(name: str, make: Callable[..., Any], *options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Add options whose values reach the command as one argument, made by `make`."""

    def none() -> None: ...

    for option in options:
        option(none)
    parameters: list[click.Option] = none.__click_params__  # type: ignore[attr-defined]
    names = [parameter.name for parameter in parameters if parameter.expose_value]

    def add(function: F) -> F:
        @functools.wraps(function)
        def command(*args: Any, **values: Any) -> Any:
            group = {key: values.pop(key) for key in names}
            return function(*args, **{name: make(**group)}, **values)

        decorated: Any = command
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return add


#: Adds `--workload`, `--alignn-config`, `--data` and `--allow-pickle`; passes `TrainingOptions` as `training`.
training = _grouped(
    "training",
    TrainingOptions,
    click.option(
        "--workload",
        default="alignn-atomwise",
        show_default=True,
        help="What is trained: alignn-atomwise (alignn's default run), alignn, alignn-pure, module:attribute, or a "
        "TOML file such as configs/alignn.toml.",
    ),
    click.option(
        "--alignn-config",
        type=click.Path(),
        help="Train what train_alignn.py trains with this config.json and --data as its root_dir.",
    ),
    click.option("--data", required=True, help="Crystals or graphs, as for 'nodebudget measure'."),
    allow_pickle,
)
