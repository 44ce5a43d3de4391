"""Reports and tables as text: for a terminal, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nodebudget.errors import printable, printable_lines
from nodebudget.report.report import URGENCIES, Advice, Report, Table

_LATEX = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}"}

#: Cells of more characters are wrapped where a terminal is narrow.
_PROSE = 24


class PlainConsole(Console):
    """A console that shows texts as they are: no markup, no emoji, no control characters.

    Args:
        **options: Those of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text of a string, such as a cell of a table."""
        return super().render_str(printable_lines(text), **options)


def render(report: Report, width: int | None = None) -> str:
    """Return a report as text: the subject, tables, notes and advice.

    Args:
        report: What to show.
        width: Characters per line of a table; by default those of the terminal, 80 where there is none. Sentences
            are one line each.
    """
    return "\n\n".join("\n".join(block) for block in _blocks(report, width) if block)


def _blocks(report: Report, width: int | None) -> Iterator[list[str]]:
    yield [printable(report.intro)] if report.intro else []
    for table in report.tables:
        if not table.page_only:
            yield [*([printable(table.title)] if table.title else []), as_text(table, width)]
    yield [*map(printable, report.notes), *map(_advice, report.advice)]


def _advice(advice: Advice) -> str:
    return printable(advice.text if advice.urgency == "note" else f"{URGENCIES[advice.urgency]}: {advice.text}")


def as_text(table: Table, width: int | None = None) -> str:
    """Return a table as plain text without trailing spaces; `width` as for `render`."""
    columns = shutil.get_terminal_size((80, 24)).columns if width is None else width
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name, prose, size in zip(table.head, _prose(table), _widths(table, columns), strict=True):
        drawn.add_column(name, justify="left" if prose else "right", overflow="fold", width=size)
    for row in table.rows:
        drawn.add_row(*row)
    buffer = io.StringIO()
    PlainConsole(file=buffer, width=columns, color_system=None, legacy_windows=False).print(drawn)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def _prose(table: Table) -> list[bool]:
    return [place == 0 or name in table.prose for place, name in enumerate(table.head)]


def _widths(table: Table, width: int) -> list[int]:
    """Return the width of each column: a narrow terminal wraps the heads first, then long prose, and no number."""
    cells = [max((cell_len(row[place]) for row in table.rows), default=0) for place in range(len(table.head))]
    words = [max((cell_len(word) for word in name.split()), default=0) for name in table.head]
    widths = [max(cell_len(name), cell) for name, cell in zip(table.head, cells, strict=True)]
    for longest in (_PROSE, _PROSE // 3):
        least = [
            max(word, min(cell, longest) if prose else cell)
            for word, cell, prose in zip(words, cells, _prose(table), strict=True)
        ]
        while sum(widths) + 2 * (len(widths) - 1) > width and widths != least:
            place = max(range(len(widths)), key=lambda place: widths[place] - least[place])
            widths[place] -= 1
    return widths


def as_csv(table: Table) -> str:
    """Return a table as comma-separated values."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([table.head, *table.rows])
    return buffer.getvalue().rstrip("\n")


def as_markdown(table: Table) -> str:
    """Return a table as Markdown."""
    lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def as_latex(table: Table) -> str:
    """Return a table as LaTeX with the package booktabs."""
    start = r"\begin{tabular}{l" + "r" * (len(table.head) - 1) + "}"
    head, *rows = (" & ".join(map(_latex_cell, line)) + r" \\" for line in (table.head, *table.rows))
    return "\n".join([start, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"])


#: Formats of a table for a paper.
FORMATS = {"md": as_markdown, "csv": as_csv, "latex": as_latex}


def _latex_cell(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text).replace("±", r"$\pm$")
