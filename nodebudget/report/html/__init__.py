"""One page that can be read without a network: values in, HTML out."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from nodebudget.errors import NodeBudgetError, RecordError
from nodebudget.report.html.calibrations import calibration_advice, calibration_charts, describe_calibration
from nodebudget.report.html.charts import Chart
from nodebudget.report.html.datasets import datasets_advice, datasets_charts, describe_datasets
from nodebudget.report.html.inputs import KINDS, Input, of_kind, read_inputs
from nodebudget.report.html.plans import describe_plan, plan_advice, plan_charts
from nodebudget.report.html.render import page_html, section_html
from nodebudget.report.html.run_advice import run_advice
from nodebudget.report.html.runs import describe_run, run_charts
from nodebudget.report.html.trials import describe_trial, trial_advice, trial_charts
from nodebudget.report.html.words import LEVELS, Advice
from nodebudget.utils.checks import check_count
from nodebudget.utils.version import __version__

__all__ = ["Page", "make_page"]

#: Graphs of a fixed batch where nobody says how many.
_BATCH_SIZE = 64

_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RuntimeWarning)


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        html: All of it.
        values: What it shows, as plain values: `title`, `created`, `nodebudget`, `files`, `advice`, and a list each of
            `calibrations`, `datasets` (one entry for all of them), `plans`, `quickstarts` and `runs`.
    """

    html: str
    values: dict[str, Any]


@dataclass(frozen=True)
class _Section:
    """What a page says of one file, or of all datasets."""

    kind: str
    name: str
    values: dict[str, Any]
    advice: list[Advice]
    html: str


def make_page(
    paths: Sequence[str], *, title: str | None = None, batch_size: int | None = None, capacity: int | None = None
) -> Page:
    """Make a page of any number of files.

    Args:
        paths: Runs, calibrations, plans, sizes, and the `runs.json` of a quickstart, in any order.
        title: Of the page; by default what was trained and on what.
        batch_size: Graphs of the fixed batches to compare with; by default as many as a plan's batches have on
            average, and 64 for datasets.
        capacity: Bytes of the device of the runs; by default what their logs say.

    Raises:
        InputError: No file, sizes that can't be read, or a batch size under 1.
        RecordError: A file is missing, damaged, of another kind, or of a version that can't be read.
        MissingError: Jinja2, or what reads .parquet, is not there.
    """
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    inputs = read_inputs(paths)
    sections = list(_sections(inputs, batch_size, capacity))
    advice = [
        {"level": entry.level, "about": section.name, "part": f"part-{place}", "text": entry.text}
        for place, section in enumerate(sections)
        for entry in section.advice
    ]
    advice.sort(key=lambda entry: list(LEVELS).index(entry["level"]))
    values = {
        "title": title or _title(sections),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "nodebudget": __version__,
        "files": [{"name": entry.name, "path": entry.path, "kind": KINDS[entry.kind]} for entry in inputs],
        "advice": advice,
    }
    parts = [
        {"id": f"part-{place}", "kind": section.kind, "name": section.name, "html": section.html}
        for place, section in enumerate(sections)
    ]
    return Page(page_html(values, parts), {**values, **_by_kind(sections)})


def _sections(inputs: Sequence[Input], batch_size: int | None, capacity: int | None) -> Iterator[_Section]:
    known = of_kind(inputs, "calibration")
    calibrations = [(entry.name, entry.value) for entry in known]
    tables = [(entry.name, entry.value) for entry in of_kind(inputs, "sizes")]
    for entry in known:
        yield _of_file(entry, describe_calibration, calibration_charts, calibration_advice)
    if tables:
        # Sizes were checked when they were read: what is wrong now is what predicts their bytes.
        with _damaged(known[0]) if known else nullcontext():
            values = describe_datasets(tables, batch_size or _BATCH_SIZE, calibrations[0] if known else None)
            section = _section("datasets", "datasets", values, datasets_charts, datasets_advice)
        yield section
    for entry in of_kind(inputs, "plan"):
        yield _of_file(
            entry, lambda plan: describe_plan(plan, tables, calibrations, batch_size), plan_charts, plan_advice
        )
    for entry in of_kind(inputs, "trial"):
        yield _of_file(entry, describe_trial, trial_charts, trial_advice)
    for entry in of_kind(inputs, "run"):
        yield _of_file(entry, lambda run: describe_run(run, capacity), run_charts, run_advice)


def _of_file(
    entry: Input,
    describe: Callable[[Any], dict[str, Any]],
    charts: Callable[[Any], list[Chart]],
    advise: Callable[[Any], list[Advice]],
) -> _Section:
    with _damaged(entry):
        return _section(entry.kind, entry.name, {"name": entry.name, **describe(entry.value)}, charts, advise)


def _section(
    kind: str,
    name: str,
    values: dict[str, Any],
    charts: Callable[[Any], list[Chart]],
    advise: Callable[[Any], list[Advice]],
) -> _Section:
    return _Section(kind, name, values, advise(values), section_html(kind, values, charts(values)))


@contextmanager
def _damaged(entry: Input) -> Iterator[None]:
    """Blame the file where its values are not what they must be: readers check the form of a record, not all of it."""
    try:
        with warnings.catch_warnings():
            # What numpy says of sums of absurd numbers.
            warnings.simplefilter("error", RuntimeWarning)
            yield
    except NodeBudgetError:
        raise
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RecordError(
            f"{entry.path!r} is a damaged {KINDS[entry.kind]}: {reason}", hint="make it again, or leave it out"
        ) from error


def _title(sections: Sequence[_Section]) -> str:
    model, device = (
        next((str(section.values[key]) for section in sections if section.values.get(key)), "")
        for key in ("model", "device")
    )
    about = " on ".join(part for part in (model, device) if part)
    return f"Training memory: {about}" if about else "Training memory"


def _by_kind(sections: Sequence[_Section]) -> dict[str, list[dict[str, Any]]]:
    names = {
        "calibration": "calibrations",
        "datasets": "datasets",
        "plan": "plans",
        "trial": "quickstarts",
        "run": "runs",
    }
    return {plural: [entry.values for entry in sections if entry.kind == kind] for kind, plural in names.items()}
