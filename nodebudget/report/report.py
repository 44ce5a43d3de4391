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
    """A sentence or two on a finding and what to do about it."""

    urgency: str  #: One of `URGENCIES`.
    text: str  #: The sentences.


@dataclass(frozen=True)
class Table:
    """A table of formatted cells."""

    head: Sequence[str]  #: Names of the columns.
    rows: Sequence[Sequence[str]]  #: Cells of each row. A row whose first cell is empty belongs to the row above.
    title: str = ""  #: One line above the table.
    #: Names of the columns that hold words: aligned left and wrapped. The first column is always one.
    prose: Sequence[str] = ()
    #: A page shows it and a text does not: "" for neither, "open", or "folded" for a table that opens with a click.
    page_only: str = ""


@dataclass(frozen=True, eq=False)
class Report:
    """What is shown of one subject."""

    kind: str  #: What it is about, such as "Calibration".
    intro: str = ""  #: One line: the subject.
    #: Label → the most important numbers, formatted; on a page only.
    figures: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()  #: In the order in which they are shown.
    notes: Sequence[str] = ()  #: Sentences under the tables.
    advice: Sequence[Advice] = ()  #: What to do, the most urgent first.
    draw: Callable[[], Sequence[Chart]] = tuple  #: Makes the charts; called only where they are shown.
    facts: Mapping[str, str] = field(default_factory=dict)  #: Label → where the data comes from; on a page only.
    values: Mapping[str, Any] = field(default_factory=dict)  #: The same as plain values for JSON.
