"""Reports and tables as text: for a terminal, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, chop_cells

from nodebudget.errors import printable, printable_lines
from nodebudget.report.report import URGENCIES, Advice, Report, Table

_LATEX = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}"}

_PROSE = 24  #: Cells of more characters are wrapped where a terminal is narrow.


def render(report: Report, width: int | None = None) -> str:
    """Return a report as text: the subject, tables, notes and advice.

    Tables have lines of up to `width` characters, by default those of the terminal, 80 where there is none.
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
    widths = _widths(table, shutil.get_terminal_size((80, 24)).columns if width is None else width)
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    blocks = [_wrapped(row, widths, _prose(table), bottom=row is table.head) for row in (table.head, *table.rows)]
    return "\n".join([*blocks[0], rule, *(line for block in blocks[1:] for line in block)])


def _wrapped(row: Sequence[str], widths: Sequence[int], prose: Sequence[bool], *, bottom: bool) -> list[str]:
    """Return the lines of a row: words to the left, numbers to the right, short cells at the top or the bottom."""
    columns = [_wrap(printable_lines(cell), width) for cell, width in zip(row, widths, strict=True)]
    height = max(map(len, columns), default=0)
    for column, width, left in zip(columns, widths, prose, strict=True):
        column[:] = [_pad(line, width, left) for line in column]
        place = 0 if bottom else len(column)
        column[place:place] = [" " * width] * (height - len(column))
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _wrap(text: str, width: int) -> list[str]:
    if cell_len(text) <= width and "\n" not in text:
        return [text]
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        lines[-1:] = [joined] if cell_len(joined) <= width else [*lines[-1:], *chop_cells(word, width)]
    return lines[1:] if len(lines) > 1 and not lines[0] else lines


def _pad(text: str, width: int, left: bool) -> str:
    blank = " " * (width - cell_len(text))
    return text + blank if left else blank + text


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


FORMATS = {"md": as_markdown, "csv": as_csv, "latex": as_latex}  #: Formats of a table for a paper.


def _latex_cell(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text).replace("±", r"$\pm$")
