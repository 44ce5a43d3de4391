"""One page that can be read without a network."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from nodebudget.analysis.dataset_comparison import compare
from nodebudget.errors import NodeBudgetError, RecordError, first_line, printable
from nodebudget.report.calibration import calibration_report
from nodebudget.report.comparison import comparison_report
from nodebudget.report.html.inputs import KINDS, Input, read_inputs
from nodebudget.report.html.svg import drawings, swatch
from nodebudget.report.plan import predicts, saved_plan_report
from nodebudget.report.provenance import model_and_device
from nodebudget.report.quickstart import quickstart_report
from nodebudget.report.report import URGENCIES, Report
from nodebudget.report.run import run_report
from nodebudget.utils.checks import check_count
from nodebudget.utils.optional_imports import require
from nodebudget.utils.version import __version__

_BATCH_SIZE = 64  #: Graphs of a fixed batch, by default.

_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RuntimeWarning)


@dataclass(frozen=True)
class Page:
    """A page."""

    html: str  #: All of it.
    #: What it shows, as plain values: `title`, `created`, `nodebudget`, `files`, `advice`, and a list each of
    #: `calibrations`, `datasets` (one entry for all of them), `plans`, `quickstarts` and `runs`.
    values: dict[str, Any]


class _Section(NamedTuple):
    kind: str
    name: str
    report: Report
    html: str


def make_page(
    paths: Sequence[str], *, title: str | None = None, batch_size: int | None = None, capacity: int | None = None
) -> Page:
    """Make a page of runs, calibrations, plans, sizes, and the `runs.json` of a quickstart, in any order.

    The title is by default the trained model and the device; the fixed batches to compare with have by default as many
    graphs as a plan's batches on average, and 64 for datasets; the capacity is by default what the logs say.

    Raises:
        InputError: No file, sizes that can't be read, or a batch size under 1.
        RecordError: A file is missing, damaged, of another kind, or of a version that can't be read.
        MissingError: Jinja2, or what reads .parquet, is not installed.
    """
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    inputs = read_inputs(paths)
    sections = list(_sections(inputs, batch_size, capacity))
    advice = [
        {"level": entry.urgency, "about": section.name, "part": f"part-{place}", "text": entry.text}
        for place, section in enumerate(sections)
        for entry in section.report.advice
    ]
    advice.sort(key=lambda entry: list(URGENCIES).index(entry["level"]))
    values = {
        "title": title or _title(inputs),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "nodebudget": __version__,
        "files": [{"name": entry.name, "path": entry.path, "kind": entry.kind} for entry in inputs],
        "advice": advice,
    }
    html = _environment().get_template("page.html").render(**values, sections=sections, urgencies=URGENCIES)
    by_kind = {
        plural: [{"name": section.name, **section.report.values} for section in sections if section.kind == kind]
        for kind, plural in KINDS.items()
    }
    return Page(html, {**values, **by_kind})


def _sections(inputs: Sequence[Input], batch_size: int | None, capacity: int | None) -> Iterator[_Section]:
    calibrations, tables = (
        [(entry.name, entry.value) for entry in inputs if entry.kind == kind] for kind in ("calibration", "sizes")
    )
    made: dict[str, Callable[[Any], Report]] = {
        "calibration": calibration_report,
        "plan": lambda plan: saved_plan_report(plan, tables, calibrations, batch_size),
        "quickstart": quickstart_report,
        "run": lambda run: run_report(run, capacity),
    }
    for kind in KINDS:
        entries = [entry for entry in inputs if entry.kind == kind]
        if kind != "sizes":
            for entry in entries:
                with _damaged(entry):
                    yield _section(kind, entry.name, made[kind](entry.value))
        elif entries:
            # Sizes were checked when they were read: a damaged value now is one of the calibration that predicts.
            with _damaged(next((entry for entry in inputs if entry.kind == "calibration"), entries[0])):
                names = ", ".join(name for name, _ in tables)
                yield _section(kind, names, _datasets(tables, batch_size or _BATCH_SIZE, calibrations))


def _datasets(tables: Sequence[Any], batch_size: int, calibrations: Sequence[Any]) -> Report:
    source, calibration = calibrations[0] if calibrations else ("", None)
    if calibration is None or not all(predicts(calibration, table) for _, table in tables):
        source, calibration = "", None
    return comparison_report(compare(tables, batch_size, calibration=calibration), calibration, source)


def _section(kind: str, name: str, report: Report) -> _Section:
    markup = require("markupsafe").Markup
    charts = []
    for chart in report.draw():
        legend = [(markup(swatch(entry)), entry.label) for entry in chart.legend]
        charts.append((chart, [*map(markup, drawings(chart))], legend))
    html = _environment().get_template("section.html").render(name=name, report=report, charts=charts)
    return _Section(kind, name, report, markup(html))


@contextmanager
def _damaged(entry: Input) -> Iterator[None]:
    """Name the file where its values are invalid: readers check the form of a record, not all of it."""
    try:
        with warnings.catch_warnings():
            # Overflows of absurd numbers.
            warnings.simplefilter("error", RuntimeWarning)
            yield
    except NodeBudgetError:
        raise
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise RecordError(
            f"{entry.path!r} is a damaged {entry.kind}: {reason}", hint="make it again, or leave it out"
        ) from error


def _title(inputs: Sequence[Input]) -> str:
    records: Mapping[str, Any] = {"calibration": "context", "run": "header"}
    for entry in inputs:
        record = entry.value if entry.kind == "quickstart" else getattr(entry.value, records.get(entry.kind, ""), {})
        about = " on ".join(part for part in model_and_device(record) if part)
        if about:
            return f"Training memory: {about}"
    return "Training memory"


@cache
def _environment() -> Any:
    jinja = require("jinja2")
    return jinja.Environment(
        loader=jinja.FunctionLoader(
            lambda name: resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")
        ),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        finalize=lambda value: value if hasattr(value, "__html__") or not isinstance(value, str) else printable(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
