"""What a command found, as one value that a terminal, a page and a picture show alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nodebudget.report.charts import Chart

#: Urgencies of advice, the most urgent first, and how they are called.
URGENCIES = {"bad": "Problem", "warn": "Attention", "good": "Good", "note": "Note"}


@dataclass(frozen=True)
class Advice:
    """A sentence or two on a finding and what to do about it.

    Attributes:
        urgency: One of `URGENCIES`.
        text: The sentences.
    """

    urgency: str
    text: str


@dataclass(frozen=True)
class Table:
    """A table of formatted cells.

    Attributes:
        head: Names of the columns.
        rows: Cells of each row. A row whose first cell is empty belongs to the row above.
        title: One line above the table.
        prose: Names of the columns that hold words: aligned left and wrapped. The first column is always one.
        page_only: A page shows it and a text does not: "" for neither, "open", or "folded" for a table that opens
            with a click.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    prose: Sequence[str] = ()
    page_only: str = ""


@dataclass(frozen=True, eq=False)
class Report:
    """What is shown of one subject.

    Attributes:
        kind: What it is about, such as "Calibration".
        intro: One line: the subject.
        figures: Label → the most important numbers, formatted; on a page only.
        tables: In the order in which they are shown.
        notes: Sentences under the tables.
        advice: What to do, the most urgent first.
        draw: Makes the charts; called only where they are shown.
        facts: Label → where the data comes from; on a page only.
        values: The same as plain values for JSON.
    """

    kind: str
    intro: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    advice: Sequence[Advice] = ()
    draw: Callable[[], Sequence[Chart]] = tuple
    facts: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
