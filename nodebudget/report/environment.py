"""What this machine has and lacks, as a table and next steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodebudget.report.text import render

if TYPE_CHECKING:
    from nodebudget.analysis.environment import Examination


def examination_text(examination: Examination) -> str:
    """Describe what was checked, and what to install next."""
    from rich.table import Table

    table = Table("what", "state", "details", "needed for")
    for check in examination.checks:
        table.add_row(check.name, check.state, check.found, check.purpose)
    lines = [render(table, width=120)]
    steps = [f"  {check.name}: {check.next_step}" for check in examination.checks if check.next_step]
    if steps:
        lines += ["Next steps, if you need it:", *steps]
    if not examination.blocking:
        lines.append(f"'nodebudget calibrate' can run on {examination.device}.")
    return "\n".join(lines)
